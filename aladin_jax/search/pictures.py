"""Pictures and boxes of a data set's images: out of its records, or a folder of picture files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float
from PIL import Image

from aladin_jax.data.box_encoding import BOX_DIM, HEIGHT_WIDTH, explains
from aladin_jax.data.records import Record, Split
from aladin_jax.errors import DataError
from aladin_jax.image_names import NameIndex, find_files, is_picture
from aladin_jax.pictures import UnreadableError, read_picture
from aladin_jax.untrusted import require_file

MAX_SIDE = 640  # of the pictures that an index keeps
_MAX_RECORD_BYTES = 64 << 20  # unpacked


class Picture(NamedTuple):
    """A picture as an index keeps it.

    Attributes:
        jpeg: a file of at most `MAX_SIDE` pixels a side; empty where there is no picture, or it cannot be read.
        width: before that.
        height: before that.
        file: its path in the folder of pictures; empty where there is none, or it is out of the records.
    """

    jpeg: bytes = b""
    width: int = 0
    height: int = 0
    file: str = ""


class Pictures:
    """Looks up what a data set holds beside what the model takes."""

    def __init__(self, split: Split, folder: Path | None):
        """Lists the pictures of a folder.

        Args:
            split: of a data set.
            folder: picture files of any name, which `NameIndex` finds by their image's id, also in folders in it; None
                takes the records' own, where there are any.

        Raises:
            DataError: there is no such folder.
        """
        if folder is not None and not folder.is_dir():
            raise DataError("no such folder", "--images names a folder with pictures", path=folder)
        self._split, self._folder = split, folder
        self._names = NameIndex(filter(is_picture, find_files(folder)) if folder is not None else ())

    def read(self, row: int, record: Record) -> tuple[Picture, Float[np.ndarray, "r 4"] | None]:
        """The picture of a record, and its regions' boxes as shares of the picture's width and height.

        Boxes are the record's `boxes` (pixels), or else the last six numbers of VinVL's regions, if those are boxes.

        A picture that cannot be read is logged, and counts as empty.

        Raises:
            DataError: several pictures could be meant.
        """
        own, boxes = self._split.picture(row)
        picture = Picture()
        if self._folder is not None:
            if found := self._find(record.id):
                picture = _open(self._folder / found, found)
        elif own is not None:
            picture = _open(own, image=record.id)
        if boxes is not None and picture.jpeg:
            size = np.array([picture.width, picture.height] * 2, np.float32)
            return picture, np.clip(boxes / size, 0, 1) if len(boxes) == len(record.regions) else None
        return picture, boxes_of_regions(record.regions)

    def require_any(self, image_ids: list[str]) -> None:
        """Checks that a folder of pictures has any of some images.

        Raises:
            DataError: it has none.
        """
        if self._folder is not None and not any(self._find(image_id) for image_id in image_ids):
            problem = f"no picture of any of {len(image_ids):,} images, such as {image_ids[0]}.jpg"
            raise DataError(problem, "name the folder that has them, or leave --images out", path=self._folder)

    def _find(self, image_id: str) -> str | None:
        found = self._names.find(image_id, path=self._folder, image=image_id)
        return None if found is None else found.name


def _open(source: Path | bytes, file: str = "", **where: Any) -> Picture:
    try:
        return shrink(read_picture(source, **where), file)
    except UnreadableError as error:
        logging.warning("%s", error)
        return Picture(file=file)


def shrink(image: Image.Image, name: str = "") -> Picture:
    """Writes a picture anew, so that an index holds no file that it did not make."""
    width, height = image.size
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=90)
    return Picture(jpeg.getvalue(), width, height, name)


def boxes_of_regions(regions: Float[np.ndarray, "r f"]) -> Float[np.ndarray, "r 4"] | None:
    """The boxes that VinVL's regions end with; None where the last numbers are none."""
    fits, says = explains(HEIGHT_WIDTH, regions)
    boxes = regions[:, -BOX_DIM : -BOX_DIM + 4].astype(np.float32)
    known = len(regions) > 0 and bool(fits.all() and says.any()) and boxes.max() <= 1.01
    return np.clip(boxes, 0, 1) if known else None


def read_record(path: Path, feature_dim: int) -> Record:
    """Reads a picture's regions from a NumPy file: `regions` [n, feature_dim], and `tags` [m] texts, optional.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        require_file(path, _MAX_RECORD_BYTES)
        content = io.BytesIO(path.read_bytes())
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
