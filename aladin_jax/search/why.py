"""Why a result: which region answered each word, out of the similarities that the alignment score is the sum of."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from aladin_jax.scores.ragged import best_region
from aladin_jax.search.index import Region


class Answer(NamedTuple):
    """A word and the region that answered it.

    Attributes:
        word: the word piece.
        score: its similarity with the region, what it adds to the score (0 if no region is similar: the floor).
        region: the region, None if none is similar.
    """

    word: str
    score: float
    region: Region | None

    def to_json(self) -> dict[str, Any]:
        """As the command line and the web page give it."""
        region = self.region
        box = None if region is None or region.box is None else [round(value, 5) for value in region.box]
        return {
            "word": self.word,
            "score": self.score,
            "region": None if region is None else region.number,
            "box": box,
            "tag": None if region is None else region.tag,
        }


def explain(
    words: list[str],
    word_vectors: Float[np.ndarray, "w d"],
    regions: list[Region],
    region_vectors: Float[np.ndarray, "r d"],
) -> list[Answer]:
    """Finds the region of each word: with the pooling MrSw, the scores add up to the alignment score.

    Args:
        words: the word pieces that take part in alignment.
        word_vectors: their unit vectors.
        regions: the regions that take part in alignment.
        region_vectors: their unit vectors.
    """
    if not regions:
        return [Answer(word, 0.0, None) for word in words]
    values, places = best_region(word_vectors, region_vectors)
    return [
        Answer(word, value, regions[place]) if value > 0 else Answer(word, 0.0, None)
        for word, value, place in zip(words, values.tolist(), places.tolist(), strict=True)
    ]
