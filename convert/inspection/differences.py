"""How two sets of region features differ: which images, how many regions, and what the regions are like."""

import contextlib
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64
from tqdm import tqdm

from aladin_jax.data.box_encoding import num_columns
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.errors import DataError
from aladin_jax.image_names import NameIndex
from convert.boxes import LayoutTally
from convert.importing.captions import CaptionedImage
from convert.importing.source import open_features
from convert.inspection.kinds import DATA_SET, Thing
from convert.inspection.tallies import EXAMPLES, Columns, Problems
from convert.raw.detections import Detections
from convert.raw.region_reader import RegionReader
from convert.raw.vinvl_files import VinvlFiles

_SAMPLE = 200  # images from which the layout of boxes is found
_OVERLAP = 0.5  # intersection over union from which on two boxes are of the same region


class _Records(RegionReader):
    """A prepared data set as images by id, whatever their split."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        dataset = open_dataset(folder)
        splits = [Split(dataset, name) for name in dataset.splits]
        self._names = self._place = {image: (split, k) for split in splits for k, image in enumerate(split.ids)}

    def detections(self, name: str) -> Detections:
        split, index = self._place[name]
        record = split.read(index)
        return Detections(record.regions, record.tags)


def _open(thing: Thing) -> RegionReader:
    """Opens features, or a data set."""
    if thing.kind == DATA_SET:
        return _Records(thing.path)
    if thing.format == "vinvl":
        return VinvlFiles(thing.path, feature_dim=None)  # as it stands, whatever the layout of its boxes
    return open_features(thing.format, [thing.path])


def compare_features(first: Thing, second: Thing) -> dict[str, Any]:
    """Reads the images that both have.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: one of them cannot be opened.
    """
    problems = Problems()
    one, two = _open(first), _open(second)
    both = [image for image in one.names() if image in two.names()]
    for reader, other, thing in ((one, two, first), (two, one, second)):
        for image in reader.names():
            if image not in other.names():
                problems.add(f"images that only {thing.path} has", image)
    comparison = _Comparison(_corner_columns(one, both), _corner_columns(two, both))
    for image in tqdm(both, desc="comparing", unit="image", delay=2, mininterval=1, leave=False):
        try:
            comparison.add(one.detections(image), two.detections(image))
        except DataError as error:
            problems.add("images that cannot be compared", str(error))
    return {
        "kind": "two sets of region features",
        "first": str(first.path),
        "second": str(second.path),
        "images": {"of the first": len(one.names()), "of the second": len(two.names()), "in both": len(both)},
        **comparison.described(problems),
        "problems": problems.listed(),
    }


def compare_names(captions: Thing, images: Sequence[CaptionedImage], features: Thing) -> dict[str, Any]:
    """Which captioned images have features, found as the converter finds them.

    Args:
        captions: where the images are captioned.
        images: all of them.
        features: of which images there are any.
    """
    problems = Problems()
    there = _open(features).names()
    names = NameIndex(there)
    ways: Counter[str] = Counter()
    for image in images:
        try:
            found = names.find(image.name, image.number)
        except DataError as error:
            problems.add("captioned images whose features could be several", str(error))
            continue
        if found is None:
            problems.add(f"captioned images without features in {features.path}", image.id)
        else:
            ways[found.how] += 1
    return {
        "kind": "captions and features",
        "captions": str(captions.path),
        "features": str(features.path),
        "captioned images": len(images),
        "with features": ways.total(),
        "found": dict(ways),
        "images with features and without captions": len(there) - ways.total(),
        "problems": problems.listed(),
    }


class _Comparison:
    def __init__(self, *box_columns: int | None):
        self._box_columns = box_columns  # of the first and of the second
        self._by_boxes = None not in box_columns
        self._columns = (Columns(), Columns())
        self._counts: Counter[str] = Counter()
        self._overlap, self._other_width = 0.0, False
        self._cosines: list[Float[np.ndarray, " r"]] = []

    def add(self, one: Detections, two: Detections) -> None:
        """Takes one image that both have into account."""
        regions = (one.regions.astype(np.float32), two.regions.astype(np.float32))
        same_count = len(regions[0]) == len(regions[1])
        self._counts.update({"first": len(regions[0]), "second": len(regions[1]), "same count": int(same_count)})
        self._counts["same tags"] += sorted(one.tags) == sorted(two.tags)
        features = [r[:, : r.shape[1] - (k or 0)] for r, k in zip(regions, self._box_columns, strict=True)]
        for columns, some in zip(self._columns, features, strict=True):
            columns.add(some)
        if not (len(regions[0]) and len(regions[1])):  # none are of no width
            return
        if self._by_boxes:
            corners = [r[:, -(k or 0) :][:, :4] for r, k in zip(regions, self._box_columns, strict=True)]
            first, second, overlaps = match_boxes(corners[0], corners[1])
            self._overlap += float(overlaps.sum())
        elif same_count:
            first = second = np.arange(len(regions[0]))
        else:
            return
        self._counts.update({"matched": len(first), "in place": int((first == second).sum())})
        if features[0].shape[1] != features[1].shape[1]:
            self._other_width = True
            return
        a, b = features[0][first].astype(np.float64), features[1][second].astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        self._cosines.append(np.einsum("rf,rf->r", a, b) / np.where(norms > 0, norms, 1))
        self._counts["equal"] += int((a == b).all(1).sum())

    def described(self, problems: Problems) -> dict[str, Any]:
        """What is known, as plain data."""
        counts = self._counts
        found: dict[str, Any] = {
            "regions in these images": {"of the first": counts["first"], "of the second": counts["second"]},
            "images with as many regions": counts["same count"],
            "images with the same tags": counts["same tags"],
            "matched regions": {
                "how": f"boxes that overlap most, by {_OVERLAP} or more" if self._by_boxes else "by their position",
                "number": counts["matched"],
                **({"mean overlap": self._overlap / max(1, counts["matched"])} if self._by_boxes else {}),
                "at the same position": counts["in place"],
            },
        }
        if self._other_width:
            widths = [len(columns.mean) for columns in self._columns]
            problems.add("features of other widths cannot be compared", f"{widths[0]} and {widths[1]}")
            return found
        return found | {"cosine of matched regions": self._describe_cosines(), "columns": self._describe_columns()}

    def _describe_cosines(self) -> dict[str, Any]:
        cosines = np.concatenate([*self._cosines, np.zeros(0)])
        if not len(cosines):
            return {}
        quantiles = {f"{share:.0%} are below": float(np.quantile(cosines, share)) for share in (0.01, 0.05, 0.5)}
        return {"mean": float(cosines.mean()), **quantiles, "equal in every number": self._counts["equal"]}

    def _describe_columns(self) -> dict[str, Any]:
        """How far the columns' means and deviations lie apart, in deviations of the first."""
        one, two = self._columns
        varies = one.deviation > 0
        if not varies.any():
            return {}
        shift = np.abs(two.mean - one.mean)[varies] / one.deviation[varies]
        ratio = two.deviation[varies] / one.deviation[varies]
        worst = np.flatnonzero(varies)[np.argsort(-shift)[:EXAMPLES]]
        return {
            "number that vary": int(varies.sum()),
            "mean of the first": float(one.mean.mean()),
            "mean of the second": float(two.mean.mean()),
            "largest difference of means, in deviations": float(shift.max()),
            "median difference of means, in deviations": float(np.median(shift)),
            "ratio of deviations, median": float(np.median(ratio)),
            "columns that differ most": ", ".join(map(str, worst.tolist())),
        }


def match_boxes(
    one: Float[np.ndarray, "r 4"], two: Float[np.ndarray, "s 4"]
) -> tuple[Int64[np.ndarray, " m"], Int64[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Pairs of boxes that are each other's best match and overlap by half or more.

    Args:
        one: x1, y1, x2, y2; at least one box.
        two: in the same unit.

    Returns:
        Positions in `one`, positions in `two`, and intersection over union.
    """
    a, b = one[:, None].astype(np.float64), two[None].astype(np.float64)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    common = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    overlap = common / np.where(union > 0, union, 1)
    best = overlap.argmax(1)
    first = np.arange(len(one))
    paired = (overlap.argmax(0)[best] == first) & (overlap[first, best] >= _OVERLAP)
    return first[paired], best[paired], overlap[first, best][paired]


def _corner_columns(features: RegionReader, images: Collection[str]) -> int | None:
    """How many of the last columns are a box encoding; None if they are none."""
    tally = LayoutTally()
    for row, image in enumerate(islice(images, _SAMPLE)):
        with contextlib.suppress(DataError):  # counted when the image is compared
            tally.add(features.detections(image).regions, row, image)
    layout = tally.verdict().layout
    return num_columns(layout) if layout else None
