"""What a query gives: results by falling score, the region that answered each word, and what is said of them."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from aladin_jax.scores.ragged import best_region
from aladin_jax.search.index import Region
from aladin_jax.search.query_text import LeftOut


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
        number, box, tag = self.region or (None, None, None)
        box = None if box is None else [round(value, 5) for value in box]
        return {"word": self.word, "score": self.score, "region": number, "box": box, "tag": tag}


class Hit(NamedTuple):
    """One result.

    Attributes:
        id: of the image.
        matching: the matching head's score.
        alignment: the alignment head's; None if it was not re-ranked.
        caption: its text, where captions were asked for.
        tags: the image's detected classes, where pictures were asked for.
        why: the region that answered each word.
        row: in the index; -1 where there is none.
        file: of its picture, where that is known.
    """

    id: str
    matching: float
    alignment: float | None
    caption: str | None
    tags: list[str]
    why: list[Answer]
    row: int
    file: str = ""

    def to_json(self, rank: int) -> dict[str, Any]:
        """As the command line and the web page give it; `rank` counts from 1."""
        found: dict[str, Any] = {"rank": rank, "id": self.id, "matching": self.matching, "alignment": self.alignment}
        found |= {"tags": self.tags, "file": self.file} if self.caption is None else {"caption": self.caption}
        return found | {"why": [answer.to_json() for answer in self.why]}


Found = tuple[Hit, list[Region], Float[np.ndarray, "r d"]]  # and the image's regions, which explain it


@dataclasses.dataclass(frozen=True)
class Results:
    """Results by falling score.

    Attributes:
        hits: them.
        rerank: how many candidates were re-ranked.
        milliseconds: how long each stage took: encode, match, rerank, explain.
        note: what was not understood, and what became of the depth that was asked for; mostly empty.
        left_out: words of the text that did not count, and why.
    """

    hits: list[Hit]
    rerank: int
    milliseconds: dict[str, float]
    note: str
    left_out: tuple[LeftOut, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the command line and the web page give it."""
        return {
            "rerank": self.rerank,
            "note": self.note,
            "left_out": [piece._asdict() for piece in self.left_out],
            "milliseconds": {name: round(value, 2) for name, value in self.milliseconds.items()},
            "results": [hit.to_json(rank) for rank, hit in enumerate(self.hits, 1)],
        }


def explain_words(
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
