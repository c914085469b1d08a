"""A picture that is not in the index, as a question: its regions, made as those of the index were."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aladin_jax.data.records import Record
from aladin_jax.errors import DataError
from aladin_jax.image_names import image_id
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
        return _record(path, *_read_found(path, made), feature_dim)
    if extractor is None:
        kind = "detector or encoder" if made is None else next(k for k in ("detector", "encoder") if k in made)
        raise DataError(
            "a picture that is not in the index", f"name the {kind} of its data set with --extractor", path=path
        )
    if made is None:
        raise DataError(
            "a picture, but the index does not say how its features were made, so that they cannot be made of another",
            "make the data set with python -m convert.detect",
            path=path,
        )
    try:
        # PyTorch, only where it is used.
        from convert.detection.extractor import open_extractor
        from convert.importing.regions import PixelRegions, to_detections
    except ImportError as error:
        problem = f"asking with a picture takes a package more ({error.name})"
        raise DataError(problem, "pip install 'aladin-jax[detect]'", path=path) from error
    opened = open_extractor(extractor, made)
    image = read_picture(path)
    [found] = opened.extract([opened.prepare(image)])
    regions = PixelRegions(found.features, found.boxes, found.classes, found.scores, *image.size)
    return _record(path, *to_detections(regions, path=path), feature_dim)


def _is_found(path: Path) -> bool:
    """Whether a file is of the schema that features are imported from."""
    return zipfile.is_zipfile(path) and "regions.npy" not in zipfile.ZipFile(path).namelist()


def _read_found(path: Path, made: Mapping[str, Any] | None) -> tuple[Any, list[str]]:
    from convert.importing.arrays import NpzFiles

    folder = NpzFiles(path.parent)
    if made and folder.made and dict(made) != folder.made:
        raise DataError(f"made with {folder.made}, the index with {dict(made)}", "make both in the same way", path=path)
    return folder.detections(path.stem)


def _record(path: Path, regions: Any, tags: list[str], feature_dim: int) -> Record:
    if not len(regions):
        raise DataError("nothing was detected in it", "ask with another picture", path=path)
    if regions.shape[1] != feature_dim:
        problem = f"regions have {regions.shape[1]} numbers, the model takes {feature_dim}"
        raise DataError(problem, "take the detector or encoder that the model was trained with", path=path)
    return Record(image_id(path.name), regions, tags, [])
