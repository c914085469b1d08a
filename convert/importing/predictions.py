"""Features in the detector's own predictions.tsv, as scene_graph_benchmark writes it for VinVL."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.errors import DataError, shown
from convert.boxes import clip_boxes
from convert.importing.regions import PixelRegions, TsvReader, to_detections
from convert.raw.detections import MAX_REGIONS, Detections, decode_base64, parse_detections


class DetectorTsv(TsvReader):
    """Rows of an image's id and {"image_h", "image_w", "objects": [{"rect", "class", "conf", "feature"}]}.

    A rect is x1, y1, x2, y2 in pixels and is clipped to the picture; a feature is base64 of float32. Regions are those
    of the objects, by falling confidence, and end in the boxes' encoding.
    """

    def __init__(self, paths: Sequence[Path]):
        """Opens the files and finds the rows.

        Raises:
            DataError: as `ImageRows`.
        """
        super().__init__(paths, (2,))

    def _parse(self, fields: list[bytes], where: dict[str, Any]) -> Detections:
        found = parse_detections(fields[1], **where)
        objects = found.objects
        if not objects:
            return Detections(np.zeros((0, 0), np.float32), [])
        if len(objects) > MAX_REGIONS:
            raise DataError(f"{len(objects)} objects, expected at most {MAX_REGIONS}", **where)
        if found.size is None:
            raise DataError("image_w and image_h are not there", "boxes are scaled by the picture's size", **where)
        width, height = (_number(side, "the picture's size", **where) for side in found.size)
        features, boxes, scores = [], [], []
        for position, item in enumerate(objects):
            what = f"object {position}"
            if not isinstance(item, dict) or not isinstance(item.get("feature"), str):
                remedy = "regions are then in features.tsv: name that file"
                raise DataError(f"{what} has no feature", remedy, **where)
            content = decode_base64(item["feature"].encode("ascii", "replace"), f"feature of {what}", **where)
            if len(content) % 4 or not content or (features and len(content) != features[0].nbytes):
                raise DataError(f"feature of {what} takes {len(content):,} bytes, unlike the others", **where)
            features.append(np.frombuffer(content, "<f4"))
            rect = item.get("rect")
            if not isinstance(rect, list) or len(rect) != 4:
                raise DataError(f"rect of {what} is {shown(rect)}, expected x1, y1, x2, y2", **where)
            boxes.append([_number(corner, f"rect of {what}", **where) for corner in rect])
            scores.append(_number(item.get("conf", 0), f"conf of {what}", **where))
        # The detector's boxes may lie partly outside; those of pictures that were turned would be far outside.
        corners = clip_boxes(np.array(boxes, np.float64), width, height)
        regions = PixelRegions(np.stack(features), corners, found.classes, np.array(scores), int(width), int(height))
        return to_detections(regions, **where)


def _number(value: object, what: str, **where: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e9:  # pyright: ignore[reportArgumentType]
        raise DataError(f"{what} is {shown(value)}, expected a number", "extract the features again", **where)
    return float(value)  # pyright: ignore[reportArgumentType]
