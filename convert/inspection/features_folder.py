"""A folder of VinVL's region features, read from its first row to its last: what holds, and what does not fit."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aladin_jax.data.box_encoding import BOX_DIM, HEIGHT_WIDTH
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, parse_json, read_text
from convert.inspection.tallies import Problems, RegionTally
from convert.inspection.texts import TextTally, Tokens
from convert.raw.detections import (
    MAX_DETECTIONS_BYTES,
    MAX_FEATURE_DIM,
    MAX_REGIONS,
    DetectedObjects,
    decode_regions,
    parse_detections,
)
from convert.raw.indexed_tsv import row_name, stream_rows

_MAX_ROW_BYTES = 256 + MAX_REGIONS * MAX_FEATURE_DIM * 16 // 3
_PIXELS = 1.5  # by how much an encoded box may miss the predicted one


def inspect_features(features: Path, tokens: Tokens | None, max_regions: int) -> dict[str, Any]:
    """Reads features.tsv, its index, imageid2idx.json and predictions.tsv.

    Args:
        features: path of features.tsv. Of the other files, those that are not there are said to be.
        tokens: a vocabulary for the tags, if there is one.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: there is no features.tsv.
    """
    problems = Problems()
    tally = RegionTally(problems, max_regions)
    rows = _Rows(problems)
    boxes: dict[str, Float[np.ndarray, "r 4"]] = {}
    for row, (start, line) in enumerate(stream_rows(features, _MAX_ROW_BYTES)):
        rows.starts.append(start)
        try:
            image, regions = _read_row(features, row, line)
        except DataError as error:
            problems.add("rows that cannot be read", str(error))
            continue
        rows.take(features, row, image)
        tally.add(regions, row, image)
        # Narrower regions have no boxes; what stands in their place is not compared.
        boxes[image] = regions[:, -6:-2].copy() if regions.shape[1] >= BOX_DIM else np.zeros((len(regions), 4), "f4")
    text = TextTally(tokens.tag_tally() if tokens else None)
    index = rows.compare_index(features) | {"imageid2idx.json": rows.compare_ids(features)}
    predictions = _inspect_predictions(features.with_name("predictions.tsv"), boxes, tally, text, problems)
    found = tally.described()
    found["tags"] |= text.described()
    found["boxes"] |= predictions.pop("boxes", {})
    return {
        "kind": "region features",
        "path": str(features),
        "bytes": features.stat().st_size,
        **found,
        "index": index,
        "predictions.tsv": predictions,
        "problems": problems.listed(),
    }


def _read_row(path: Path, row: int, line: bytes | None) -> tuple[str, Float[np.ndarray, "r f"]]:
    """An image's id and regions, whatever their width, finite or not."""
    where: dict[str, Any] = {"path": path, "row": row}
    if line is None:
        raise DataError(f"more than {_MAX_ROW_BYTES:,} bytes", COPY_AGAIN, **where)
    fields = line.split(b"\t")
    image = where["image"] = row_name(fields[0], row, path)
    if len(fields) != 3:
        raise DataError(f"{len(fields)} tab-separated fields, expected 3", COPY_AGAIN, **where)
    return image, decode_regions(fields[1], fields[2], None, **where)


class _Rows:
    """Which image each row is of, and where rows begin."""

    def __init__(self, problems: Problems):
        self.starts: list[int] = []
        self._row_of_image: dict[str, int] = {}
        self._problems = problems

    def take(self, path: Path, row: int, image: str) -> None:
        if image in self._row_of_image:
            self._problems.add("images in several rows", f"{image} in rows {self._row_of_image[image]} and {row}")
        self._row_of_image.setdefault(image, row)

    def compare_index(self, tsv: Path) -> dict[str, str]:
        """Whether the .lineidx beside a .tsv says where its rows begin."""
        path = tsv.with_suffix(".lineidx")
        if not path.is_file():
            return {path.name: "none: rows are found by reading once"}
        told: list[int] = []
        with open(path, "rb") as lines:
            while (line := lines.readline(24)) and len(told) <= len(self.starts):
                told.append(int(line) if re.fullmatch(rb"[0-9]{1,18}\s*", line) else -1)
        if told == self.starts:
            return {path.name: f"agrees with the {len(told):,} rows"}
        pairs = zip(told, self.starts, strict=False)
        wrong = next((row for row, (a, b) in enumerate(pairs) if a != b), min(len(told), len(self.starts)))
        found = f"differs from row {wrong} on; {tsv.name} has {len(self.starts):,} rows"
        self._problems.add("indices that do not fit", f"{path.name} {found}")
        return {path.name: found}

    def compare_ids(self, tsv: Path) -> str:
        """Whether imageid2idx.json has the images of the rows."""
        path = tsv.with_name("imageid2idx.json")
        if not path.is_file():
            return "none: images are found by reading once"
        try:
            told = parse_json(read_text(path), path=path)
        except DataError as error:
            self._problems.add("files that are damaged", str(error))
            return "damaged"
        if not isinstance(told, dict):
            self._problems.add("files that are damaged", f"{path.name} is {shown(told)}")
            return "damaged"
        kinds = {
            f"images of {path.name} that are in no row": [i for i in told if i not in self._row_of_image],
            f"images that {path.name} lacks": [i for i in self._row_of_image if i not in told],
            f"images that {path.name} has in another row": [
                i for i, row in self._row_of_image.items() if i in told and told[i] != row
            ],
        }
        for kind, images in kinds.items():
            for image in images:
                self._problems.add(kind, image)
        return f"{len(told):,} images" + ("" if any(kinds.values()) else ", each in its row")


def _inspect_predictions(
    path: Path,
    boxes: dict[str, Float[np.ndarray, "r 4"]],
    tally: RegionTally,
    text: TextTally,
    problems: Problems,
) -> dict[str, Any]:
    """Reads predictions.tsv: the tags, and how its rectangles compare with the boxes in the features."""
    if not path.is_file():
        return {"rows": "none: images have no tags"}
    seen: set[str] = set()
    starts = _Rows(problems)
    rectangles = _Rectangles()
    for row, (start, line) in enumerate(stream_rows(path, MAX_DETECTIONS_BYTES)):
        starts.starts.append(start)
        where: dict[str, Any] = {"path": path, "row": row}
        try:
            if line is None:
                raise DataError(f"more than {MAX_DETECTIONS_BYTES:,} bytes", COPY_AGAIN, **where)
            head, _, content = line.partition(b"\t")
            image = where["image"] = row_name(head, row, path)
            found = parse_detections(content, **where)
        except DataError as error:
            problems.add("rows that cannot be read", str(error))
            continue
        if image in seen:
            problems.add(f"images in several rows of {path.name}", image)
        seen.add(image)
        tally.add_tags(found.classes)
        text.add(" ".join(found.classes))
        if image not in boxes:
            problems.add(f"images of {path.name} without features", image)
        elif len(found.classes) != len(boxes[image]):
            kind = "images with another number of detections than of regions"
            problems.add(kind, f"{image} has {len(found.classes)} and {len(boxes[image])}")
        else:
            rectangles.add(found, boxes[image])
    for image in boxes.keys() - seen:
        problems.add(f"images that {path.name} lacks", image)
    compared = rectangles.described() if tally.layouts.verdict().layout == HEIGHT_WIDTH else {}
    return {"rows": len(starts.starts), **starts.compare_index(path), "boxes": compared}


class _Rectangles:
    """How predicted rectangles, in pixels, compare with the corners that features end in."""

    def __init__(self):
        self._agreeing: Counter[str] = Counter()
        self._compared = 0
        self._unsized = 0
        self._malformed = 0

    def add(self, found: DetectedObjects, corners: Float[np.ndarray, "r 4"]) -> None:
        if found.size is None:
            self._unsized += 1
            return
        try:
            width, height = (float(side) for side in found.size)
            told = np.array([item["rect"] for item in found.objects], np.float64).reshape(-1, 4)
        except (KeyError, TypeError, ValueError, OverflowError):
            self._malformed += 1
            return
        self._compared += len(told)
        with np.errstate(invalid="ignore", over="ignore"):
            across = corners.astype(np.float64) * [width, height, width, height]
            down = corners[:, [1, 0, 3, 2]].astype(np.float64) * [width, height, width, height]
            for name, boxes in (("x1,y1,x2,y2", across), ("y1,x1,y2,x2", down)):
                self._agreeing[name] += int((np.abs(boxes - told) <= _PIXELS).all(1).sum())

    def described(self) -> dict[str, Any]:
        """What is known, as plain data."""
        return {
            "rectangles of predictions.tsv": {
                "compared": self._compared,
                "agree with corners as x1,y1,x2,y2": self._agreeing["x1,y1,x2,y2"],
                "agree with corners as y1,x1,y2,x2": self._agreeing["y1,x1,y2,x2"],
                "rows that do not say how large the picture is": self._unsized,
                "rows without rectangles": self._malformed,
            }
        }
