"""A folder of VinVL's region features, every row of it: what it holds, and what does not fit."""

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from aladin_jax.data.box_encoding import BOX_DIM, HEIGHT_WIDTH
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import MAX_TEXT_BYTES, parse_json, read_text, require_file
from convert.inspection.tallies import Problems, RegionTally
from convert.raw.detections import MAX_DETECTIONS_BYTES, MAX_ROW_BYTES, DetectedObjects, decode_regions
from convert.raw.image_rows import Parse
from convert.raw.indexed_tsv import IndexedTsv
from convert.raw.vinvl_files import parse_row

_PIXELS = 1.5  # by how much an encoded box may miss the predicted one
_COMPARED, _UNSIZED = "compared", "rows that do not say how large the picture is"
_ACROSS, _DOWN = "agree with corners as x1,y1,x2,y2", "agree with corners as y1,x1,y2,x2"
_MALFORMED = "rows without rectangles"


def inspect_features(features: Path, tokenizer: CaptionTokenizer | None, max_regions: int) -> dict[str, Any]:
    """Reads features.tsv, its index, imageid2idx.json and predictions.tsv.

    Args:
        features: path of features.tsv. Of the other files, those that are not there are said to be.
        tokenizer: for the tags, if a vocabulary is known.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: there is no features.tsv.
    """
    problems = Problems()
    tally = RegionTally(problems, max_regions, tokenizer)
    file = IndexedTsv(features, scan=True)
    row_of_image: dict[str, int] = {}
    boxes: dict[str, Float[np.ndarray, "r 4"]] = {}
    for row, image, regions in _read_rows(file, _parse_regions, 3, MAX_ROW_BYTES, problems):
        if (first := row_of_image.setdefault(image, row)) != row:
            problems.add("images in several rows", f"{image} in rows {first} and {row}")
        tally.add(regions, row, image)
        # Narrower regions have no boxes; what stands in their place is not compared.
        boxes[image] = regions[:, -6:-2].copy() if regions.shape[1] >= BOX_DIM else np.zeros((len(regions), 4), "f4")
    index = _compare_index(file, problems)
    index["imageid2idx.json"] = _compare_ids(features.with_name("imageid2idx.json"), row_of_image, problems)
    predictions = _inspect_predictions(features.with_name("predictions.tsv"), boxes, tally, problems)
    found = tally.described()
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


def _parse_regions(fields: list[bytes], where: dict[str, Any]) -> Float[np.ndarray, "r f"]:
    """Regions of any width, finite or not."""
    return decode_regions(fields[1], fields[2], None, **where)


def _read_rows(
    file: IndexedTsv, parse: Parse, fields: int, max_bytes: int, problems: Problems
) -> Iterator[tuple[int, str, Any]]:
    """Number, image and content of every row that can be read; the others are problems."""
    for row in tqdm(range(len(file)), desc=file.path.name, unit="row", delay=2, mininterval=1, leave=False):
        try:
            image = file.name(row)
            found = file.fields(row, image, counts=(fields,), max_bytes=max_bytes)
            yield row, image, parse(found, {"path": file.path, "row": row, "image": image})
        except DataError as error:
            problems.add("rows that cannot be read", str(error))


def _compare_index(file: IndexedTsv, problems: Problems) -> dict[str, str]:
    """Whether the .lineidx beside a .tsv says where its rows begin."""
    path = file.path.with_suffix(".lineidx")
    if not path.is_file():
        return {path.name: "none: rows are found by reading once"}
    require_file(path, MAX_TEXT_BYTES)
    told = [line.strip() for line in path.read_bytes().removesuffix(b"\n").split(b"\n")]
    starts = [b"%d" % start for start in file.offsets[:-1]]
    wrong = next((row for row, (a, b) in enumerate(zip_longest(told, starts)) if a != b), None)
    if wrong is None:
        return {path.name: f"agrees with the {len(told):,} rows"}
    found = f"differs from row {wrong} on; {file.path.name} has {len(file):,} rows"
    problems.add("indices that do not fit", f"{path.name} {found}")
    return {path.name: found}


def _compare_ids(path: Path, row_of_image: dict[str, int], problems: Problems) -> str:
    """Whether imageid2idx.json has the images of the rows."""
    if not path.is_file():
        return "none: images are found by reading once"
    try:
        told = parse_json(read_text(path), path=path)
        if not isinstance(told, dict):
            raise DataError(f"{path.name} is {shown(told)}")
    except DataError as error:
        problems.add("files that are damaged", str(error))
        return "damaged"
    kinds = {
        f"images of {path.name} that are in no row": [i for i in told if i not in row_of_image],
        f"images that {path.name} lacks": [i for i in row_of_image if i not in told],
        f"images that {path.name} has in another row": [
            i for i, row in row_of_image.items() if i in told and told[i] != row
        ],
    }
    for kind, images in kinds.items():
        for image in images:
            problems.add(kind, image)
    return f"{len(told):,} images" + ("" if any(kinds.values()) else ", each in its row")


def _inspect_predictions(
    path: Path, boxes: dict[str, Float[np.ndarray, "r 4"]], tally: RegionTally, problems: Problems
) -> dict[str, Any]:
    """Reads predictions.tsv: the tags, and how its rectangles compare with the boxes in the features."""
    if not path.is_file():
        return {"rows": "none: images have no tags"}
    seen: set[str] = set()
    rectangles: dict[str, int] = dict.fromkeys((_COMPARED, _ACROSS, _DOWN, _UNSIZED, _MALFORMED), 0)
    file = IndexedTsv(path, scan=True)
    for _, image, found in _read_rows(file, parse_row, 2, MAX_DETECTIONS_BYTES, problems):
        if image in seen:
            problems.add(f"images in several rows of {path.name}", image)
        seen.add(image)
        tally.add_tags(found.classes)
        if image not in boxes:
            problems.add(f"images of {path.name} without features", image)
        elif len(found.classes) != len(boxes[image]):
            kind = "images with another number of detections than of regions"
            problems.add(kind, f"{image} has {len(found.classes)} and {len(boxes[image])}")
        else:
            _compare_rectangles(found, boxes[image], rectangles)
    for image in boxes.keys() - seen:
        problems.add(f"images that {path.name} lacks", image)
    known = tally.layouts.verdict().layout == HEIGHT_WIDTH
    compared = {"rectangles of predictions.tsv": rectangles} if known else {}
    return {"rows": len(file), **_compare_index(file, problems), "boxes": compared}


def _compare_rectangles(found: DetectedObjects, corners: Float[np.ndarray, "r 4"], counts: dict[str, int]) -> None:
    """Counts the predicted rectangles, in pixels, that are where the features' corners are, in either order."""
    if found.size is None:
        counts[_UNSIZED] += 1
        return
    try:
        width, height = (float(side) for side in found.size)
        told = np.array([item["rect"] for item in found.objects], np.float64).reshape(-1, 4)
    except (KeyError, TypeError, ValueError, OverflowError):
        counts[_MALFORMED] += 1
        return
    counts[_COMPARED] += len(told)
    with np.errstate(invalid="ignore", over="ignore"):
        for name, order in ((_ACROSS, [0, 1, 2, 3]), (_DOWN, [1, 0, 3, 2])):
            boxes = corners[:, order].astype(np.float64) * [width, height, width, height]
            counts[name] += int((np.abs(boxes - told) <= _PIXELS).all(1).sum())
