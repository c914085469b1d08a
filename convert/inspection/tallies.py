"""Counts and sums over regions that pass by one image at a time, so that memory does not grow with the data."""

from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float

from aladin_jax.data.box_encoding import LAYOUTS
from convert.boxes import LayoutTally

EXAMPLES = 5  # how many of a kind of fault are named

_MOST_COMMON = 20


class Problems:
    """Faults by kind: how many there are, and the first few."""

    def __init__(self):
        """None yet."""
        self._count: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, example: str) -> None:
        """Takes one more fault into account."""
        self._count[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(example)

    def listed(self) -> list[str]:
        """One line a kind."""
        return [
            f"{kind}: {self._count[kind]:,} ({'; '.join(examples)}{'; ...' if self._count[kind] > EXAMPLES else ''})"
            for kind, examples in self._examples.items()
        ]


class Columns:
    """Count, sum, and sum of squares of every column, smallest and largest value of all; for finite numbers."""

    def __init__(self):
        """Nothing has been seen."""
        self.count = 0
        self._sum: Float[np.ndarray, " f"] = np.zeros(0)
        self._squares: Float[np.ndarray, " f"] = np.zeros(0)
        self._least: Float[np.ndarray, " f"] = np.zeros(0)
        self._most: Float[np.ndarray, " f"] = np.zeros(0)
        self._zeros = 0

    def add(self, values: Float[np.ndarray, "r f"]) -> None:
        """Takes rows into account; those of another width than the first are left out."""
        if not len(values) or (self.count and values.shape[1] != len(self._sum)):
            return
        if not self.count:
            self._sum, self._squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
            self._least, self._most = np.full(values.shape[1], np.inf), np.full(values.shape[1], -np.inf)
        self.count += len(values)
        self._sum += values.sum(0, dtype=np.float64)
        self._squares += np.square(values, dtype=np.float64).sum(0)
        self._least = np.minimum(self._least, values.min(0))
        self._most = np.maximum(self._most, values.max(0))
        self._zeros += values.size - np.count_nonzero(values)

    @property
    def mean(self) -> Float[np.ndarray, "f"]:
        """Of every column."""
        return self._sum / max(1, self.count)

    @property
    def deviation(self) -> Float[np.ndarray, "f"]:
        """Standard deviation of every column."""
        return np.sqrt(np.maximum(self._squares / max(1, self.count) - self.mean**2, 0))

    def described(self) -> dict[str, Any]:
        """The numbers of all columns together."""
        if not self.count:
            return {}
        mean = self._sum.sum() / (self.count * len(self._sum))
        square = self._squares.sum() / (self.count * len(self._sum))
        return {
            "smallest": float(self._least.min()),
            "largest": float(self._most.max()),
            "mean": float(mean),
            "standard deviation": float(np.sqrt(max(0.0, square - mean**2))),
            "share of zeros": self._zeros / (self.count * len(self._sum)),
            "columns that never change": int((self._least == self._most).sum()) if self.count > 1 else 0,
        }


class RegionTally:
    """What regions and tags are like."""

    def __init__(self, problems: Problems, max_regions: int):
        """Nothing has been seen.

        Args:
            problems: where faults are put.
            max_regions: regions that training keeps of an image.
        """
        self.columns = Columns()
        self.layouts = LayoutTally()
        self.tags: Counter[str] = Counter()
        self._problems = problems
        self._max_regions = max_regions
        self._regions_of_image: Counter[int] = Counter()
        self._widths: Counter[int] = Counter()
        self._not_finite: Counter[str] = Counter()

    def add(self, regions: Float[np.ndarray, "r f"], row: int, image: str) -> None:
        """Takes one image's regions into account."""
        self._regions_of_image[len(regions)] += 1
        if not len(regions):
            return
        width = regions.shape[1]
        if self._widths and width not in self._widths:
            self._problems.add("other width than the first image's", f"image {image} has {width}")
        self._widths[width] += 1
        if not np.isfinite(regions).all():
            nan = int(np.isnan(regions).sum())
            infinite = int(np.isinf(regions).sum())
            self._not_finite += Counter({"NaN": nan, "infinite": infinite})
            self._problems.add("NaN or infinite numbers", f"row {row}, image {image}: {nan} NaN, {infinite} infinite")
            return
        self.columns.add(regions)
        self.layouts.add(regions, row, image)

    def add_tags(self, tags: list[str]) -> None:
        """Takes one image's detected classes into account."""
        self.tags.update(tags)

    def described(self) -> dict[str, Any]:
        """What is known, as plain data."""
        images = sum(self._regions_of_image.values())
        regions = sum(number * times for number, times in self._regions_of_image.items())
        beyond = {number: times for number, times in self._regions_of_image.items() if number > self._max_regions}
        return {
            "images": images,
            "regions": regions,
            "regions an image": {
                "least": min(self._regions_of_image, default=0),
                "most": max(self._regions_of_image, default=0),
                "mean": regions / max(1, images),
                "images without any": self._regions_of_image[0],
                f"images with more than the {self._max_regions} that training keeps": sum(beyond.values()),
                "regions beyond": sum((number - self._max_regions) * times for number, times in beyond.items()),
                "histogram": histogram(self._regions_of_image),
            },
            "numbers a region": {str(width): times for width, times in sorted(self._widths.items())},
            "values": {**self.columns.described(), "NaN": self._not_finite["NaN"]}
            | {"infinite": self._not_finite["infinite"]},
            "boxes": self._boxes(),
            "tags": {
                "detected classes": sum(self.tags.values()),
                "distinct": len(self.tags),
                "most common": dict(self.tags.most_common(_MOST_COMMON)),
            },
        }

    def _boxes(self) -> dict[str, Any]:
        layout, scaled, reason = self.layouts.verdict()
        unit = {True: "to [0, 1]", False: "no: pixels", None: "unclear"}[scaled]
        found: dict[str, Any] = {"last columns": layout or "no box encoding", "scaled": unit, "how one knows": reason}
        if layout:
            images, first = self.layouts.exceptions(layout)
            found["images with other boxes"] = images
            for row, image in first:
                self._problems.add(f"boxes that are not {layout}", f"row {row}, image {image}")
            if layout != LAYOUTS[0] or not scaled:
                self._problems.add("boxes are not encoded as VinVL's", f"{layout}, scaled: {unit}")
        return found


def histogram(counts: Counter[int]) -> dict[str, int]:
    """Counts in about ten ranges of whole numbers, each as "from-to"."""
    if not counts:
        return {}
    most = max(counts)
    step = next(s for size in range(12) for s in (10**size, 2 * 10**size, 5 * 10**size) if most / s < 12)
    ranges: Counter[int] = Counter()
    for number, times in counts.items():
        ranges[number // step] += times
    low, high = min(ranges), max(ranges)
    label = (lambda k: str(k)) if step == 1 else (lambda k: f"{k * step}-{k * step + step - 1}")
    return {label(k): ranges[k] for k in range(low, high + 1)}
