"""How two sets of region features differ: which images, how many regions, and what the regions are like."""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

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
from convert.importing.source import FeatureFiles
from convert.inspection.kinds import DATA_SET, Thing
from convert.inspection.tallies import EXAMPLES, Columns, Problems
from convert.raw.detections import Detections
from convert.raw.vinvl_files import VinvlFiles

_SAMPLE = 200  # images from which the layout of boxes is found
_OVERLAP = 0.5  # intersection over union from which on two boxes are of the same region
_BINS = 2000


@runtime_checkable
class FeatureSet(Protocol):
    """Images with their regions, by id."""

    def names(self) -> Collection[str]:
        """The images' ids."""
        ...

    def detections(self, image: str, /) -> Detections:
        """Reads one image.

        Raises:
            DataError: it is damaged.
        """
        ...


class _Records:
    """A prepared data set as images by id, whatever their split."""

    def __init__(self, folder: Path):
        dataset = open_dataset(folder)
        self._place = {
            image: (split, index)
            for split in (Split(dataset, name) for name in dataset.splits)
            for index, image in enumerate(split.ids)
        }

    def names(self) -> Collection[str]:
        return self._place.keys()

    def detections(self, image: str) -> Detections:
        split, index = self._place[image]
        record = split.read(index)
        return Detections(record.regions, record.tags)


@contextlib.contextmanager
def open_features(thing: Thing) -> Iterator[FeatureSet]:
    """Opens a folder of features, or a data set.

    Raises:
        DataError: it is damaged.
    """
    if thing.kind == DATA_SET:
        yield _Records(thing.path)
    elif thing.format != "vinvl":
        with FeatureFiles(thing.format, [thing.path]).open() as reader:
            yield reader
    else:
        with VinvlFiles(thing.path, feature_dim=None) as files:
            yield files


def compare_features(first: Thing, second: Thing) -> dict[str, Any]:
    """Reads the images that both have.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: one of them cannot be opened.
    """
    problems = Problems()
    with open_features(first) as one, open_features(second) as two:
        names = two.names()
        both = [image for image in one.names() if image in names]
        for images, path in (
            ([image for image in one.names() if image not in names], first.path),
            ([image for image in names if image not in one.names()], second.path),
        ):
            for image in images:
                problems.add(f"images that only {path} has", image)
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
            "images": {"of the first": len(one.names()), "of the second": len(names), "in both": len(both)},
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
    with open_features(features) as opened:
        names = NameIndex(opened.names())
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
            "images with features and without captions": len(opened.names()) - ways.total(),
            "problems": problems.listed(),
        }


class _Comparison:
    def __init__(self, first_columns: int | None, second_columns: int | None):
        self._box_columns = (first_columns, second_columns)
        self._by_boxes = first_columns is not None and second_columns is not None
        self._columns = (Columns(), Columns())
        self._regions = np.zeros(2, np.int64)
        self._images, self._same_count, self._same_tags, self._other_width = 0, 0, 0, 0
        self._matched, self._in_place, self._equal = 0, 0, 0
        self._overlap, self._cosine = 0.0, 0.0
        self._cosines: Int64[np.ndarray, " bins"] = np.zeros(_BINS, np.int64)

    def add(self, one: Detections, two: Detections) -> None:
        """Takes one image that both have into account."""
        self._images += 1
        regions = (one.regions.astype(np.float32), two.regions.astype(np.float32))
        self._regions += [len(some) for some in regions]
        self._same_count += len(regions[0]) == len(regions[1])
        self._same_tags += sorted(one.tags) == sorted(two.tags)
        features = [r[:, : r.shape[1] - (k or 0)] for r, k in zip(regions, self._box_columns, strict=True)]
        for columns, some in zip(self._columns, features, strict=True):
            columns.add(some)
        if self._by_boxes:
            corners = [r[:, -(k or 0) :][:, :4] for r, k in zip(regions, self._box_columns, strict=True)]
            first, second, overlaps = match_boxes(corners[0], corners[1])
            self._overlap += float(overlaps.sum())
        elif len(regions[0]) == len(regions[1]):
            first = second = np.arange(len(regions[0]))
        else:
            return
        self._matched += len(first)
        self._in_place += int((first == second).sum())
        if features[0].shape[1] != features[1].shape[1]:
            self._other_width += 1
            return
        a, b = features[0][first].astype(np.float64), features[1][second].astype(np.float64)
        norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        cosines = np.einsum("rf,rf->r", a, b) / np.where(norms > 0, norms, 1)
        self._equal += int((a == b).all(1).sum())
        self._cosine += float(cosines.sum())
        self._cosines += np.histogram(np.clip(cosines, -1, 1), _BINS, (-1, 1))[0]

    def described(self, problems: Problems) -> dict[str, Any]:
        """What is known, as plain data."""
        found: dict[str, Any] = {
            "regions in these images": {"of the first": int(self._regions[0]), "of the second": int(self._regions[1])},
            "images with as many regions": self._same_count,
            "images with the same tags": self._same_tags,
            "matched regions": {
                "how": f"boxes that overlap most, by {_OVERLAP} or more" if self._by_boxes else "by their position",
                "number": self._matched,
                **({"mean overlap": self._overlap / max(1, self._matched)} if self._by_boxes else {}),
                "at the same position": self._in_place,
            },
        }
        if self._other_width:
            widths = [len(columns.mean) for columns in self._columns]
            problems.add("features of other widths cannot be compared", f"{widths[0]} and {widths[1]}")
            return found
        return found | {"cosine of matched regions": self._describe_cosines(), "columns": self._describe_columns()}

    def _describe_cosines(self) -> dict[str, Any]:
        total = int(self._cosines.sum())
        if not total:
            return {}
        upper_ends = np.linspace(-1, 1, _BINS + 1)[1:]
        below = np.cumsum(self._cosines) / total
        quantiles = {
            f"{share:.0%} are below": float(upper_ends[np.argmax(below >= share)]) for share in (0.01, 0.05, 0.5)
        }
        return {"mean": self._cosine / total, **quantiles, "equal in every number": self._equal}

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
        one: x1, y1, x2, y2.
        two: in the same unit.

    Returns:
        Positions in `one`, positions in `two`, and intersection over union.
    """
    if not len(one) or not len(two):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    a, b = one[:, None].astype(np.float64), two[None].astype(np.float64)
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    common = sides.prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    overlap = common / np.where(union > 0, union, 1)
    best = overlap.argmax(1)
    first = np.arange(len(one))
    paired = (overlap.argmax(0)[best] == first) & (overlap[first, best] >= _OVERLAP)
    return first[paired], best[paired], overlap[first, best][paired]


def _corner_columns(features: FeatureSet, images: Collection[str]) -> int | None:
    """How many of the last columns are a box encoding; None if they are none."""
    tally = LayoutTally()
    for row, image in enumerate(islice(images, _SAMPLE)):
        with contextlib.suppress(DataError):  # counted when the image is compared
            tally.add(features.detections(image).regions, row, image)
    layout = tally.verdict().layout
    return num_columns(layout) if layout else None
