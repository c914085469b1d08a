"""Features as bottom-up attention wrote them: a .tsv with one image a row, arrays in base64."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN
from convert.importing.regions import PixelRegions, TsvReader, name_classes, to_detections
from convert.raw.detections import MAX_REGIONS, Detections, decode_array

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

_FLOAT, _LONG = np.dtype("<f4"), np.dtype("<i8")


class BottomUpTsv(TsvReader):
    """Features of bottom-up attention (six columns) or of LXMERT (ten); see `LAYOUTS`.

    Boxes are x1, y1, x2, y2 in pixels, float32; features are float32 and as wide as they turn out to be.
    """

    COUNTS = tuple(LAYOUTS)

    def __init__(self, paths: Sequence[Path], class_names: list[str] | None = None):
        """Finds the rows of the files.

        Args:
            paths: the .tsv files.
            class_names: of the detector, for files that have classes.

        Raises:
            DataError: as `ImageRows`.
        """
        self._class_names = class_names
        super().__init__(paths)

    def _parse(self, fields: list[bytes], where: dict[str, Any]) -> Detections:
        columns = dict(zip(LAYOUTS[len(fields)], fields, strict=True))
        width, height = (_whole(columns[side], side, 1 << 20, **where) for side in ("image_w", "image_h"))
        count = _whole(columns["num_boxes"], "num_boxes", MAX_REGIONS, **where)
        classes, scores = None, None
        if "objects_id" in columns:
            numbers = decode_array(columns["objects_id"], "objects_id", _LONG, count, 1, **where)[:, 0]
            classes = name_classes(numbers, self._class_names, **where)
            scores = decode_array(columns["objects_conf"], "objects_conf", _FLOAT, count, 1, **where)[:, 0]
        else:
            self.note("such files have no classes: images will have no tags")
        boxes = decode_array(columns["boxes"], "boxes", _FLOAT, count, 4, **where)
        features = decode_array(columns["features"], "features", _FLOAT, count, None, **where)
        return to_detections(PixelRegions(features, boxes, classes, scores, width, height), **where)


def _whole(content: bytes, what: str, largest: int, **where: Any) -> int:
    # Some files have "640.0".
    if not re.fullmatch(rb"[0-9]{1,9}(\.0)?", content) or (number := int(content.partition(b".")[0])) > largest:
        raise DataError(f"{what} is {shown(content)}, expected a whole number up to {largest:,}", COPY_AGAIN, **where)
    return number
