"""A picture that is not in the index, as a question: its regions, made as those of the index were."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from aladin_jax.data.records import Record
from aladin_jax.errors import DataError
from aladin_jax.pictures import read_picture
from aladin_jax.search.pictures import read_record


def read_asked(path: Path, extractor: Path | None, made: Mapping[str, Any] | None, feature_dim: int) -> Record:
    """Reads a picture's regions, or makes them.

    Args:
        path: a picture; an .npz of `convert.detect`; or one with `regions`, as `read_record` takes it.
        extractor: folder of the detector or encoder that makes a picture's regions.
        made: how the index's were made, if it says.
        feature_dim: width of a region that the model takes.

    Raises:
        ValueError: the file cannot be read, nothing is found in it, or its regions are not like the index's.
    """
    if path.suffix.lower() == ".npz":
        if not _is_found(path):
            return read_record(path, feature_dim)
        return _record(*_read_found(path, made), feature_dim, path=path)
    if extractor is None:
        kind = "detector or encoder" if made is None else next(k for k in ("detector", "encoder") if k in made)
        raise DataError(
            "a picture that is not in the index", f"name the {kind} of its data set with --extractor", path=path
        )
    return open_region_maker(extractor, made, feature_dim)(read_picture(path), path=path)


def open_region_maker(extractor: Path, made: Mapping[str, Any] | None, feature_dim: int) -> Callable[..., Record]:
    """Loads what makes a picture's regions as those of an index were made.

    Args:
        extractor: folder of the detector or encoder.
        made: how the index's were made, if it says.
        feature_dim: width of a region that the model takes.

    Returns:
        A function of a picture, and of what `DataError` takes to say where it is from.

    Raises:
        DataError: the index does not say how its were made, or with another extractor, or this one cannot be loaded.
    """
    if made is None:
        raise DataError(
            "the index does not say how its features were made, so that they cannot be made of another picture",
            "make the data set with python -m convert.detect",
        )
    try:
        # PyTorch, only where it is used.
        from convert.detection.extractor import open_extractor
        from convert.importing.regions import to_detections
    except ImportError as error:
        problem = f"asking with a picture takes a package more ({error.name})"
        raise DataError(problem, "pip install 'aladin-jax[detect]'", path=extractor) from error
    opened = open_extractor(extractor, made)

    def make(image: Image.Image, **where: Any) -> Record:
        [found] = opened.extract([opened.prepare(image)])
        return _record(*to_detections(found, **where), feature_dim, **where)

    return make


def _is_found(path: Path) -> bool:
    """Whether a file is of the schema that features are imported from."""
    return zipfile.is_zipfile(path) and "regions.npy" not in zipfile.ZipFile(path).namelist()


def _read_found(path: Path, made: Mapping[str, Any] | None) -> tuple[Any, list[str]]:
    from convert.importing.arrays import NpzFiles

    folder = NpzFiles(path.parent)
    if made and folder.made and dict(made) != folder.made:
        raise DataError(f"made with {folder.made}, the index with {dict(made)}", "make both in the same way", path=path)
    return folder.detections(path.stem)


def _record(regions: Any, tags: list[str], feature_dim: int, **where: Any) -> Record:
    if not len(regions):
        raise DataError("nothing was detected in the picture", "ask with another", **where)
    if regions.shape[1] != feature_dim:
        problem = f"regions have {regions.shape[1]} numbers, the model takes {feature_dim}"
        raise DataError(problem, "take the detector or encoder that the model was trained with", **where)
    return Record("asked", regions, tags, [])
