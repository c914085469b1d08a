"""What a metric is given: one head's scores of a collection of images and captions."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from aladin_jax.data.records import Split
from aladin_jax.evaluation.recall import ROWS, best, retrieval_ranks

Direction = Literal["i2t", "t2i"]


class Collection(NamedTuple):
    """Images and their captions, in the order of the scores' rows and columns.

    Attributes:
        image_ids: [i] as the data set has them.
        image_of_caption: [c] the row of each caption's image.
        caption_ids: [c] the captions' own ids; `IMAGE#K`, for the image's caption K from 0, where they have none.
        captions: [c] their texts.
    """

    image_ids: list[str]
    image_of_caption: Int[np.ndarray, " c"]
    caption_ids: list[str]
    captions: list[str]


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """One head's answer to all queries of a collection, in both directions.

    Attributes:
        scores: of all pairs, higher is better.
        collection: what the rows and columns are.
    """

    scores: Float[np.ndarray, "i c"]
    collection: Collection

    @functools.cached_property
    def ranks(self) -> dict[str, Int[np.ndarray, " q"]]:
        """Of every query the rank, from 0, of the best placed item that belongs to it; see `recall.retrieval_ranks`."""
        i2t, t2i = retrieval_ranks(self.scores, self.collection.image_of_caption)
        return {"i2t": i2t, "t2i": t2i}

    def best(self, direction: Direction, count: int) -> tuple[Int[np.ndarray, "q n"], Float[np.ndarray, "q n"]]:
        """The best `count` items of every query, or all where there are fewer, and their scores.

        Among equal scores the later item comes first, as everywhere (see `recall`).
        """
        scores = self.scores if direction == "i2t" else self.scores.T
        count = min(count, scores.shape[1])
        items = np.zeros((len(scores), count), np.int64)
        for start in range(0, len(scores), ROWS):
            rows = np.ascontiguousarray(scores[start : start + ROWS])  # a column of the matrix alone is slow to read
            items[start : start + ROWS] = [best(row, count) for row in rows]
        return items, np.take_along_axis(scores, items, axis=1)

    def ids(self, direction: Direction) -> tuple[list[str], list[str]]:
        """The ids of the queries, and of the items among which they search."""
        images, captions = self.collection.image_ids, self.collection.caption_ids
        return (images, captions) if direction == "i2t" else (captions, images)


def read_collection(split: Split, images: np.ndarray, image_of_caption: np.ndarray) -> Collection:
    """Reads what `report.score_split` scored: images of a split with their captions."""
    records = [split.read(image) for image in images.tolist()]
    return Collection(
        image_ids=[record.id for record in records],
        image_of_caption=image_of_caption,
        caption_ids=[
            own
            for record in records
            for own in (record.caption_ids or [f"{record.id}#{k}" for k in range(len(record.captions))])
        ],
        captions=[caption for record in records for caption in record.captions],
    )
