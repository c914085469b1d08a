"""The golden data, as the tests read it; see tests/golden/README.md."""

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import Params
from convert.conversion import convert
from convert.sources import read_vinvl

GOLDEN = Path(__file__).parent / "golden"
UNIT, E2E = GOLDEN / "unit", GOLDEN / "e2e"

# The original's names of the regimes, by the names of this project's configurations.
REGIMES = {
    "alignment_triplet": "alad-alignment-triplet",
    "matching_triplet_finetune": "alad-matching-triplet-finetune",
    "matching_distill_finetune": "alad-matching-distill-finetune",
    "matching_triplet_e2e": "alad-matching-triplet-e2e",
    "alignment_and_matching_distill": "alad-alignment-and-matching-distill",
    "alignment_and_matching_triplet_distill": "alad-alignment-and-matching-triplet0.1-plus-distill",
}


class Model(NamedTuple):
    """A converted checkpoint: parameters as float32 NumPy arrays, and what model they are of."""

    params: Params
    config: ModelConfig


@functools.cache
def converted(name: str) -> Model:
    """The model of `unit` or `e2e`, through the functions behind `python -m convert.checkpoint`."""
    source = read_vinvl(GOLDEN / name / "vinvl", GOLDEN / name / "checkpoint.pth.tar")
    return Model(convert(source, seed=0)[0], source.model_config)


@functools.cache
def arrays(path: str) -> dict[str, np.ndarray]:
    """All arrays of an .npz file under tests/golden."""
    with np.load(GOLDEN / path) as data:
        return dict(data)


@functools.cache
def unit_batch(name: str) -> dict[str, np.ndarray]:
    """The batch `0`, `1`, `2` or `eval`, with lengths in the place of masks and types, which they amount to."""
    given = {
        key.split("/")[1]: array for key, array in arrays("unit/batches.npz").items() if key.startswith(f"{name}/")
    }
    slots = given["label_ids"].shape[1]
    tag_mask, region_mask = given["image_mask"][:, :slots], given["image_mask"][:, slots:]
    given["label_len"] = tag_mask.sum(1)
    for mask, side in ((given["caption_mask"], "caption"), (tag_mask, "label"), (region_mask, "region")):
        np.testing.assert_array_equal(mask, np.arange(mask.shape[1]) < given[f"{side}_len"][:, None])
    position = np.arange(slots)
    np.testing.assert_array_equal(given["label_type"], (position > 0) & (position < given["label_len"][:, None]))
    np.testing.assert_array_equal(given["caption_type"], 0)
    fields = ("caption_ids", "caption_len", "label_ids", "label_len", "region_len")
    return {field: given[field].astype(np.int32) for field in fields} | {"region_features": given["region_features"]}


@functools.cache
def e2e_expected() -> dict[str, Any]:
    """What the original gave on the files of `e2e`."""
    return json.loads((E2E / "expected.json").read_text())


class Differences:
    """Compares with the golden data and remembers by how much each group of numbers differed at most."""

    def __init__(self):
        self.groups: dict[str, tuple[str, float, float]] = {}

    def check(self, group: str, actual: Any, expected: Any, *, atol: float | None = None, rtol: float | None = None):
        """Asserts that every number is within the tolerance, absolute or relative."""
        actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
        assert actual.shape == expected.shape, group
        difference, kind, tolerance = np.abs(actual - expected), "absolute", atol
        if rtol is not None:
            difference, kind, tolerance = difference / np.abs(expected), "relative", rtol
        assert tolerance is not None
        largest = float(difference.max())
        previous = self.groups.get(group, (kind, 0.0, tolerance))
        assert previous[::2] == (kind, tolerance), f"{group}: one tolerance for a group"
        self.groups[group] = (kind, max(largest, previous[1]), tolerance)
        assert largest <= tolerance, f"{group}: {kind} difference {largest:.2e}, allowed {tolerance:.0e}"

    def merge(self, groups: dict[str, tuple[str, float, float]]):
        """Takes what other tests saw."""
        for group, (kind, largest, tolerance) in groups.items():
            self.groups[group] = (kind, max(largest, self.groups.get(group, (kind, 0.0))[1]), tolerance)

    def table(self) -> list[str]:
        """A line a group."""
        return [
            f"{group:<42} {largest:>9.1e} {kind}, allowed {tolerance:.0e}"
            for group, (kind, largest, tolerance) in sorted(self.groups.items())
        ]
