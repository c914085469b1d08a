"""The two stages: candidates by the matching head, order by the alignment head.

Order of equal scores, in both stages: the later row first, as in `evaluation.recall`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from aladin_jax.evaluation.recall import best
from aladin_jax.processors import on_all
from aladin_jax.scores.similarity import Measure, matching_scores
from aladin_jax.search.index import Side
from aladin_jax.search.results import Found

# Rows that a processor compares at a time: of BERT-base's width 25 MB.
PIECE_ROWS = 8192

Align = Callable[[Int[np.ndarray, " k"]], Float[np.ndarray, " k"]]


class Candidates(NamedTuple):
    """Rows by falling score of the matching head."""

    rows: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


class Ranked(NamedTuple):
    """Rows in their final order.

    Attributes:
        rows: [k].
        matching: [k] the matching head's scores.
        alignment: [k] the alignment head's scores, NaN for rows that were not re-ranked.
    """

    rows: Int[np.ndarray, " k"]
    matching: Float[np.ndarray, " k"]
    alignment: Float[np.ndarray, " k"]


@runtime_checkable
class Finder(Protocol):
    """Finds candidates for a vector."""

    def find(self, vector: Float[np.ndarray, " d"], count: int) -> Candidates:
        """The best `count` rows that are not deleted (all, if there are fewer), or nearly the best."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs both stages of a text query elsewhere.

    Attributes:
        fingerprint: of the model whose vectors it has.
        images: how many it has.
        note: what an answer should say of it; mostly empty.
    """

    fingerprint: str
    images: int
    note: str

    def find(self, vector: Float[np.ndarray, " d"], words: Float[np.ndarray, "w d"], depth: int, k: int) -> list[Found]:
        """The first k images, `depth` candidates re-ranked."""
        ...


class ExactFinder:
    """Compares with every row: matrix products on all processors, right up to about a million vectors."""

    def __init__(self, side: Side, measure: Measure, *, captions: bool = False):
        """Puts the vectors on the device, 4 bytes a number.

        Args:
            side: what is searched.
            measure: see `similarity.matching_scores`.
            captions: the rows are captions (`order` compares them with images, not images with them).
        """
        self._dead = None if side.alive.all() else ~side.alive
        self._live = len(side.live_rows)
        self._vectors = [
            jnp.asarray(np.asarray(piece[start : start + PIECE_ROWS]))
            for piece in side.vectors
            for start in range(0, len(piece) or 1, PIECE_ROWS)
        ]

        def scores(rows: jax.Array, vector: jax.Array) -> jax.Array:
            if captions:
                return matching_scores(vector[None], rows, measure=measure)[0]
            return matching_scores(rows, vector[None], measure=measure)[:, 0]

        self._scores = jax.jit(scores)

    def scores(self, vector: Float[np.ndarray, " d"]) -> Float[np.ndarray, " n"]:
        """The score of every row; minus infinity for deleted ones."""
        found = np.concatenate(on_all(lambda piece: np.asarray(self._scores(piece, vector)), self._vectors))
        if self._dead is not None:
            found[self._dead] = -np.inf
        return found

    def find(self, vector: Float[np.ndarray, " d"], count: int) -> Candidates:
        """The best `count` rows that are not deleted."""
        scores = self.scores(vector)
        rows = best(scores, min(count, self._live))
        return Candidates(rows, scores[rows])


def rank(candidates: Candidates, depth: int, align: Align) -> Ranked:
    """Puts the first `depth` candidates in the order of the alignment head; the others follow as they were.

    Args:
        candidates: by the matching head.
        depth: how many to re-rank.
        align: gives the alignment scores of rows.
    """
    rows, matching = candidates
    alignment = np.full(len(rows), np.nan, np.float32)
    if depth:
        ascending = np.argsort(rows[:depth])  # so that the later row comes first among equals
        aligned = align(rows[ascending])
        order = ascending[np.argsort(aligned, kind="stable")[::-1]]
        alignment[: len(order)] = np.sort(aligned, kind="stable")[::-1]
        order = np.concatenate([order, np.arange(len(order), len(rows))])
        rows, matching = rows[order], matching[order]
    return Ranked(rows, matching, alignment)


def align(
    score: Callable[..., np.ndarray], query: Float[np.ndarray, "n d"], side: Side, rows: Int[np.ndarray, " k"]
) -> Float[np.ndarray, " k"]:
    """Alignment scores of a query with rows of a side, gathered straight out of their segments' files.

    Args:
        score: `ragged.scores_of_caption` or `scores_of_image`, with which evaluation scores all pairs too.
        query: unit vectors of its words or regions.
        side: the images for words, the captions for regions.
        rows: of it; nothing else of the files is read.
    """
    scores = np.zeros(len(rows), np.float32)
    for chosen, parts, places in side.by_segment(rows):
        scores[chosen] = score(query, parts, places)
    return scores
