"""What a query gives: results by falling score, and what is said of them."""

from __future__ import annotations

import dataclasses
from typing import Any

from aladin_jax.search import why
from aladin_jax.search.query_text import LeftOut


@dataclasses.dataclass(frozen=True)
class Hit:
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
    why: list[why.Answer]
    row: int
    file: str = ""

    def to_json(self, rank: int) -> dict[str, Any]:
        """As the command line and the web page give it; `rank` counts from 1."""
        found: dict[str, Any] = {"rank": rank, "id": self.id, "matching": self.matching, "alignment": self.alignment}
        found |= {"tags": self.tags, "file": self.file} if self.caption is None else {"caption": self.caption}
        return found | {"why": [answer.to_json() for answer in self.why]}


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
