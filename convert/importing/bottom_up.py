"""Features as bottom-up attention wrote them: a .tsv with one image a row, arrays in base64."""

import base64
import binascii
import contextlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN
from convert.importing.regions import PixelRegions, name_classes, to_detections
from convert.raw.detections import MAX_FEATURE_DIM, MAX_REGIONS, Detections
from convert.raw.indexed_tsv import IndexedTsv, ScannedTsv

LAYOUTS = {
    6: ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features"),
    # LXMERT's, of the same detector: classes and attributes by number, height before width.
    10: (
        "image_id",
        "image_h",
        "image_w",
        "objects_id",
        "objects_conf",
        "attrs_id",
        "attrs_conf",
        "num_boxes",
        "boxes",
        "features",
    ),
}
"""Names of the columns, by how many there are."""

_MAX_ROW_BYTES = 4096 + MAX_REGIONS * (MAX_FEATURE_DIM + 16) * 16 // 3  # a float32 takes 16/3 bytes of base64


class TsvSet:
    """Several .tsv files as one: the row of each image, wherever it is.

    Attributes:
        path: of the first file.
    """

    def __init__(self, paths: Sequence[Path]):
        """Opens the files and finds the rows.

        Raises:
            DataError: there is no such file, or a row has no image id or that of an earlier one.
        """
        self.path = paths[0]
        self._place: dict[str, tuple[IndexedTsv, int]] = {}
        with contextlib.ExitStack() as stack:
            for path in paths:
                file = stack.enter_context(ScannedTsv(path))
                for image, row in file.rows_by_image().items():
                    if image in self._place:
                        other, _ = self._place[image]
                        raise DataError(f"is in {other.path} too", "keep one row", path=path, row=row, image=image)
                    self._place[image] = (file, row)
            if not self._place:
                raise DataError("no row in it", COPY_AGAIN, path=self.path)
            self._stack = stack.pop_all()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._place.keys()

    def where(self, name: str) -> dict[str, Any]:
        """What `DataError` takes to say where an image's row is.

        Raises:
            DataError: it has none.
        """
        file, row = self._find(name)
        return {"path": file.path, "row": row, "image": name}

    def fields(self, name: str, counts: Collection[int], max_bytes: int = _MAX_ROW_BYTES) -> list[bytes]:
        """Reads an image's row.

        Args:
            name: the image's id.
            counts: how many fields the row may have.
            max_bytes: a longer row is refused.

        Raises:
            DataError: there is none, or it is damaged.
        """
        file, row = self._find(name)
        return file.fields(row, name, counts=counts, max_bytes=max_bytes)

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    def _find(self, name: str) -> tuple[IndexedTsv, int]:
        if name not in self._place:
            raise DataError("no row of this image", "check that it is the right file", path=self.path, image=name)
        return self._place[name]


class BottomUpTsv:
    """Features of bottom-up attention (six columns) or of LXMERT (ten); see `LAYOUTS`. A context manager.

    Boxes are x1, y1, x2, y2 in pixels, float32; features are float32 and as wide as they turn out to be.
    """

    def __init__(self, paths: Sequence[Path], class_names: list[str] | None = None):
        """Opens the files and finds the rows.

        Args:
            paths: the .tsv files.
            class_names: of the detector, for files that have classes.

        Raises:
            DataError: as `TsvSet`.
        """
        self._files = TsvSet(paths)
        self.path = self._files.path
        self.notes: list[str] = []
        self._class_names = class_names

    def __enter__(self) -> "BottomUpTsv":
        """Nothing to do: the files are open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._files.close()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._files.names()

    def detections(self, name: str) -> Detections:
        """Reads one row.

        Raises:
            DataError: it is damaged, or its numbers are impossible.
        """
        where = self._files.where(name)
        fields = self._files.fields(name, LAYOUTS)
        columns = dict(zip(LAYOUTS[len(fields)], fields, strict=True))
        width, height = (_whole(columns[side], side, 1 << 20, **where) for side in ("image_w", "image_h"))
        count = _whole(columns["num_boxes"], "num_boxes", MAX_REGIONS, **where)
        classes, scores = None, None
        if "objects_id" in columns:
            numbers = _array(columns["objects_id"], "objects_id", np.dtype("<i8"), count, 1, **where)[:, 0]
            classes = name_classes(numbers, self._class_names, **where)
            scores = _array(columns["objects_conf"], "objects_conf", np.dtype("<f4"), count, 1, **where)[:, 0]
        elif not self.notes:
            self.notes.append("such files have no classes: images will have no tags")
        boxes = _array(columns["boxes"], "boxes", np.dtype("<f4"), count, 4, **where)
        features = _array(columns["features"], "features", np.dtype("<f4"), count, None, **where)
        return to_detections(PixelRegions(features, boxes, classes, scores, width, height), **where)


def decode_base64(content: bytes, what: str, **where: Any) -> bytes:
    """Bytes of a base64 text.

    Raises:
        DataError: it is none.
    """
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise DataError(f"{what}: not base64 ({error})", COPY_AGAIN, **where) from error


def _whole(content: bytes, what: str, largest: int, **where: Any) -> int:
    # Some files have "640.0".
    if not re.fullmatch(rb"[0-9]{1,9}(\.0)?", content) or (number := int(content.partition(b".")[0])) > largest:
        raise DataError(f"{what} is {shown(content)}, expected a whole number up to {largest:,}", COPY_AGAIN, **where)
    return number


def _array(content: bytes, what: str, dtype: np.dtype, count: int, width: int | None, **where: Any) -> np.ndarray:
    """[count, width] numbers; `width` None for as wide as it is."""
    numbers = decode_base64(content, what, **where)
    if width is None:
        width = len(numbers) // max(1, count * dtype.itemsize)
    if len(numbers) != count * width * dtype.itemsize:
        raise DataError(
            f"{what} takes {len(numbers):,} bytes, which {count} boxes of {dtype.name} do not", COPY_AGAIN, **where
        )
    return np.frombuffer(numbers, dtype).reshape(count, width)
