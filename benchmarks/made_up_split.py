"""A split of made-up records that lie in memory, as a prepared data set gives them once they are read."""

from __future__ import annotations

import numpy as np

from aladin_jax.data.records import Record
from benchmarks import workload

FEATURE_DIM = 2054
_ROWS = 4096  # of random features, which the images share: each of its own would take a gigabyte for 3,000 images


class MadeUpSplit:
    """The part of `aladin_jax.data.records.Split` that encoding uses, over records of COCO's lengths.

    Attributes:
        name: for messages.
        num_images: how many there are.
        feature_dim: width of a region vector.
    """

    name = "made-up"
    feature_dim = FEATURE_DIM

    def __init__(self, rng: np.random.Generator, num_images: int):
        """Draws tags, captions, and where each image's regions stand among the random features."""
        self.num_images = num_images
        self._features = rng.standard_normal((_ROWS, FEATURE_DIM), np.float32)
        self._counts = workload.detections(rng, num_images)
        self._first = rng.integers(0, _ROWS - self._counts)
        self._tags = [workload.words(rng, count) for count in self._counts]
        lengths = workload.caption_lengths(rng, num_images * workload.CAPTIONS_PER_IMAGE).reshape(num_images, -1)
        self._captions = [[" ".join(workload.words(rng, n - 2)) for n in row] for row in lengths]

    def read(self, index: int) -> Record:
        """One image."""
        first = self._first[index]
        regions = self._features[first : first + self._counts[index]]
        return Record(str(index), regions, self._tags[index], self._captions[index])
