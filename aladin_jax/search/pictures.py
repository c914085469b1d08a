"""Pictures and boxes of a data set's images: out of its records, or a folder of picture files."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float
from PIL import Image

from aladin_jax.data.box_encoding import BOX_DIM, HEIGHT_WIDTH, explains
from aladin_jax.data.dataset import Dataset
from aladin_jax.data.records import Record, open_version
from aladin_jax.errors import DataError
from aladin_jax.image_names import NameIndex, find_pictures

MAX_SIDE = 640  # of the pictures that an index keeps
_MAX_FILE_BYTES = 64 << 20
_MAX_RECORD_BYTES = 64 << 20  # unpacked
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_FORMATS = ("JPEG", "PNG", "WEBP")


class Picture(NamedTuple):
    """A picture as an index keeps it: a JPEG file of at most `MAX_SIDE` pixels a side; and its size before that."""

    jpeg: bytes
    width: int
    height: int


class Pictures:
    """Looks up what a record holds beside what the model takes."""

    def __init__(self, dataset: Dataset, split: str, folder: Path | None):
        """Opens the split a second time, for the features `image` and `boxes` alone.

        Args:
            dataset: from `open_dataset`.
            split: the split's name.
            folder: picture files, which `NameIndex` finds by their image's id, also in folders in it; None takes the
                records' own, where there are any.

        Raises:
            DataError: there is no such folder.
        """
        if folder is not None and not folder.is_dir():
            raise DataError("no such folder", "--images names a folder with ID.jpg, .png or .webp files", path=folder)
        self._folder = folder
        self._names = None
        if folder is not None:
            self._names = NameIndex(n for n in find_pictures(folder) if n.lower().endswith(_SUFFIXES))
        builder = open_version(dataset.folder)
        described = cast(Any, builder.info.features)
        names = [name for name in ("image", "boxes") if name in described]
        self._features = tfds.features.FeaturesDict({name: described[name] for name in names}) if names else None
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = cast(Any, builder).as_data_source(split, deserialize_method=raw)

    def read(
        self, index: int, image_id: str, regions: Float[np.ndarray, "r f"]
    ) -> tuple[Picture | None, Float[np.ndarray, "r 4"] | None]:
        """The picture of a record, and its regions' boxes as shares of the picture's width and height.

        Boxes are the record's `boxes` (pixels), or else the last six numbers of VinVL's regions, if those are boxes.

        Raises:
            DataError: a picture that cannot be read, or is too large.
        """
        fields: Any = {}
        if self._features is not None:
            skip = {"image": cast(Any, tfds.decode.SkipDecoding())} if "image" in self._features else None
            fields = self._features.deserialize_example_np(self._source[index], decoders=skip)
        picture = None
        if self._folder is not None:
            path = self._find(image_id)
            picture = None if path is None else shrink(read_bounded(path), path=path)
        elif "image" in fields:
            picture = shrink(bytes(fields["image"]), image=image_id)
        if "boxes" in fields and picture is not None:
            boxes = np.asarray(fields["boxes"], np.float32)
            return picture, _scaled(boxes, picture.width, picture.height) if len(boxes) == len(regions) else None
        return picture, boxes_of_regions(regions)

    def file(self, image_id: str) -> str:
        """The name of an image's file in the folder of pictures; "" where there is none."""
        path = None if self._folder is None else self._find(image_id)
        return "" if path is None else path.relative_to(self._folder or "").as_posix()

    def _find(self, image_id: str) -> Path | None:
        assert self._folder is not None
        assert self._names is not None
        found = self._names.find(image_id, path=self._folder, image=image_id)
        return None if found is None else self._folder / found.name


def read_bounded(path: Path) -> bytes:
    """Reads a picture file.

    Raises:
        DataError: it is larger than any picture should be.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise DataError(f"larger than {_MAX_FILE_BYTES:,} bytes", "make it smaller", path=path)
    return path.read_bytes()


def shrink(content: bytes, **where: Any) -> Picture:
    """Reads a picture and writes it anew, so that an index holds no file that it did not make.

    Raises:
        DataError: not a JPEG, PNG or WebP picture, damaged, or of too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                width, height = image.size
                small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"not a picture that can be read ({error})", "replace or remove it", **where) from error
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=90)
    return Picture(jpeg.getvalue(), width, height)


def boxes_of_regions(regions: Float[np.ndarray, "r f"]) -> Float[np.ndarray, "r 4"] | None:
    """The boxes that VinVL's regions end with; None where the last numbers are none."""
    fits, says = explains(HEIGHT_WIDTH, regions)
    boxes = regions[:, -BOX_DIM : -BOX_DIM + 4].astype(np.float32)
    known = len(regions) > 0 and bool(fits.all() and says.any()) and boxes.max() <= 1.01
    return np.clip(boxes, 0, 1) if known else None


def _scaled(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.clip(boxes / np.array([width, height, width, height], np.float32), 0, 1)


def read_record(path: Path, feature_dim: int) -> Record:
    """Reads a picture's regions from a NumPy file: `regions` [n, feature_dim], and `tags` [m] texts, optional.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = io.BytesIO(read_bounded(path))
        with zipfile.ZipFile(content) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MAX_RECORD_BYTES:
                raise ValueError(f"more than {_MAX_RECORD_BYTES:,} bytes unpacked")
        with np.load(content, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ("regions", "tags")}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a .npz file that can be read ({str(error)[:100]})") from error
    regions = found.get("regions")
    if regions is None or regions.ndim != 2 or regions.shape[1] != feature_dim or regions.dtype.kind != "f":
        shape = "missing" if regions is None else f"{regions.dtype}{list(regions.shape)}"
        raise ValueError(f"{path}: regions is {shape}; expected float32[n, {feature_dim}]")
    if not len(regions) or not np.isfinite(regions).all():
        raise ValueError(f"{path}: regions must be at least one, and finite")
    tags = found.get("tags", np.zeros(0, "U1"))
    if tags.ndim != 1 or tags.dtype.kind != "U":
        raise ValueError(f"{path}: tags is {tags.dtype}{list(tags.shape)}; expected texts [m]")
    return Record(path.stem, regions.astype(np.float32), [str(tag) for tag in tags], [])
