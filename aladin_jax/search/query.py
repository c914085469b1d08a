"""Asks an index: pictures for words, captions for a picture."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aladin_jax.data.records import Record
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import scores_of_caption, scores_of_image
from aladin_jax.search import ranking
from aladin_jax.search.index import Index, Side, describe_regions
from aladin_jax.search.inputs import ALL, MAX_K, Depth, check_depth
from aladin_jax.search.pictures import boxes_of_regions
from aladin_jax.search.query_encoder import QueryEncoder
from aladin_jax.search.query_text import ReadText
from aladin_jax.search.ranking import Engine, ExactFinder, Finder, Ranked
from aladin_jax.search.results import Hit, Results, explain_words


class Subject(NamedTuple):
    """What is asked for, as both heads see it.

    Attributes:
        vector: [d] the matching head's.
        parts: [n, d] unit vectors of words or regions, float32.
        names: what they are: word pieces, or regions.
        read: what was understood of it, if it is a text.
    """

    vector: np.ndarray
    parts: np.ndarray
    names: Any
    read: ReadText | None = None


class Searcher:
    """Answers queries on one open index; may be called from several threads."""

    def __init__(
        self,
        index: Index | None,
        model: PretrainedModel | None = None,
        images: Finder | None = None,
        engine: Engine | None = None,
    ):
        """Loads the model and the matching vectors.

        Args:
            index: to search; None if all that is asked for is in the engine.
            model: the index's, if it is loaded already; the engine's, if there is no index.
            images: finds candidates among images; None compares with all.
            engine: runs both stages of text queries elsewhere; None runs them here.

        Raises:
            ValueError: the model is not the one that the engine's vectors are of.
        """
        model = index.model() if model is None and index is not None else model
        assert model is not None, "without an index, give the model"
        if engine is not None and engine.fingerprint != model.fingerprint:
            raise ValueError(f"the collection is of model {engine.fingerprint}, not of {model.fingerprint}")
        self._index = index
        self.queries = QueryEncoder(model)
        self._settings = model.settings
        self._engine = engine
        self._images = images
        if images is None and engine is None:
            self._images = ExactFinder(self.index.images, self._settings.measure)
        self._lock = threading.Lock()
        self._captions: Finder | None = None

    def find_images(self, text: str, *, k: int = 10, rerank: Depth = 100, explain: bool = True) -> Results:
        """Pictures for words.

        Args:
            text: what the picture shows.
            k: how many results.
            rerank: how many candidates of the matching head the alignment head re-ranks; 0 none, "all" every image.
            explain: also say which region answered each word.

        Raises:
            ValueError: an argument is outside its bounds.
        """
        clock = _Clock()
        subject = self.encode_text(text)
        clock.lap("encode")
        # Where all scores are equal, the order is that of the index's rows, which only the index knows.
        wordless_all = rerank == ALL and not len(subject.parts)
        engine = None if wordless_all and self._index is not None else self._engine
        if engine is None:
            note = _note(subject, rerank, "word of the text")
            ranked, depth = self.rank_images(subject, k=k, rerank=rerank, clock=clock)
            rows = ranked.rows.tolist()
            matched = map(self._hit, *(array.tolist() for array in ranked))
            all_found = zip(matched, map(self.index.regions, rows), map(self.index.images.parts, rows), strict=True)
        else:
            rerank = 1 if wordless_all else rerank  # as any depth: the matching head's order is kept
            note = "; ".join(filter(None, (_note(subject, rerank, "word of the text"), engine.note)))
            depth, _ = _sizes(subject, k, rerank, engine.images, "images")
            all_found = engine.find(subject.vector, subject.parts, depth, k)
            clock.lap("rerank")  # both stages, in one request
        hits = []
        for hit, regions, parts in all_found:
            answers = explain_words(subject.names, subject.parts, regions, parts) if explain else []
            row = -1 if self._index is None else self._index.row_of_id.get(hit.id, -1)
            hits.append(hit._replace(why=answers, row=row))
        clock.lap("explain")
        return Results(hits, depth, clock.milliseconds, note, subject.read.left_out if subject.read else ())

    @property
    def index(self) -> Index:
        """The index.

        Raises:
            ValueError: there is none.
        """
        if self._index is None:
            raise ValueError("only words can be asked of a collection alone; give --index for the rest")
        return self._index

    def _hit(self, row: int, matching: float, alignment: float) -> Hit:
        index = self.index
        return Hit(index.ids[row], matching, _known(alignment), None, index.tags(row), [], row, index.file(row))

    def find_captions(self, subject: Subject, *, k: int = 10, rerank: Depth = 100, explain: bool = True) -> Results:
        """Captions for a picture.

        Args:
            subject: from `subject_of_image` or `encode_record`.
            k: how many results.
            rerank: as in `find_images`.
            explain: also say which region answered each word.

        Raises:
            ValueError: an argument is outside its bounds, or the index has no captions.
        """
        index, captions = self.index, self.index.captions
        clock = _Clock()
        with self._lock:
            if self._captions is None:
                self._captions = ExactFinder(captions, self._settings.measure, captions=True)
        score = functools.partial(scores_of_image, pooling=self._settings.pooling)
        ranked, depth = _two_stages(subject, captions, self._captions, score, "captions", k, rerank, clock)
        hits = []
        for row, matching, alignment in zip(*(array.tolist() for array in ranked), strict=True):
            text = index.caption(row)
            answers = []
            if explain:
                words = self.queries.words(text)
                answers = explain_words(words, captions.parts(row), subject.names, subject.parts)
            image_id = index.ids[index.caption_image[row]]
            hits.append(Hit(image_id, matching, _known(alignment), text, [], answers, row))
        clock.lap("explain")
        return Results(hits, depth, clock.milliseconds, _note(subject, rerank, "region of the picture"))

    def find_similar(self, subject: Subject, *, k: int = 10, leave_out: int | None = None) -> Results:
        """Pictures like a picture, by the matching head's vectors; the alignment head compares with words alone.

        Args:
            subject: from `subject_of_image` or `encode_record`.
            k: how many results.
            leave_out: row of the picture itself.

        Raises:
            ValueError: k is outside its bounds.
        """
        clock = _Clock()
        more = min(k + 1, MAX_K) if leave_out is not None and k <= MAX_K else k
        ranked, _ = self.rank_images(subject, k=more, rerank=0, clock=clock)
        matched = map(self._hit, *(array.tolist() for array in ranked))
        hits = [hit for hit in matched if hit.row != leave_out]
        return Results(hits[:k], 0, clock.milliseconds, "")

    def rank_images(
        self, subject: Subject, *, k: int, rerank: Depth, clock: _Clock | None = None
    ) -> tuple[Ranked, int]:
        """The two stages alone, here: rows and scores of the first k images, and how many were re-ranked."""
        images = self.index.images
        if self._images is None:
            self._images = ExactFinder(images, self._settings.measure)
        score = functools.partial(scores_of_caption, pooling=self._settings.pooling)
        return _two_stages(subject, images, self._images, score, "images", k, rerank, clock or _Clock())

    def encode_text(self, text: str) -> Subject:
        """Encodes words as the model's training captions have them: see `QueryReader.read`.

        Raises:
            ValueError: an empty or overlong text, or one of which the model knows nothing.
        """
        read = self.queries.reader.read(text)
        return Subject(*self.queries.caption(read.text), self.queries.words(read.text), read)

    def subject_of_image(self, row: int) -> Subject:
        """A picture of the index, as a query."""
        images = self.index.images
        return Subject(images.vector(row), images.parts(row), self.index.regions(row))

    def encode_record(self, record: Record) -> Subject:
        """A picture that is not in the index, from its regions and tags.

        Raises:
            ValueError: its regions are not of the width that the model takes.
        """
        vector, parts = self.queries.image(record)
        boxes = boxes_of_regions(record.regions)
        regions = describe_regions(len(parts), np.zeros((0, 4)) if boxes is None else boxes, record.tags)
        return Subject(vector, parts, regions)


def open_index(path: str | Path) -> Searcher:
    """Opens an index and loads its model, to ask it.

    Example:
        results = aladin_jax.open_index("index").find_images("two dogs on a red sofa", k=10, rerank=100)
        for hit in results.hits:
            print(hit.id, hit.matching, hit.alignment)

    Args:
        path: `--output` of ``python -m aladin_jax.search index``.

    Raises:
        ValueError: there is no index, it is unfinished, or damaged.
    """
    return Searcher(Index(path))


class _Clock:
    def __init__(self):
        self.milliseconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.milliseconds[name] = 1e3 * (now - self._last)
        self._last = now


def _two_stages(
    subject: Subject, side: Side, finder: Finder, score: Callable, what: str, k: int, rerank: Depth, clock: _Clock
) -> tuple[Ranked, int]:
    """The first k rows of a side, and how many candidates were re-ranked; `what` the rows are, for messages.

    `score` is as in `ranking.align`.
    """
    depth, count = _sizes(subject, k, rerank, len(side.live_rows), what)
    candidates = finder.find(subject.vector, count)
    clock.lap("match")
    ranked = ranking.rank(candidates, depth, functools.partial(ranking.align, score, subject.parts, side))
    clock.lap("rerank")
    return Ranked(*(array[:k] for array in ranked)), depth


def _sizes(subject: Subject, k: int, rerank: Depth, total: int, what: str) -> tuple[int, int]:
    """How many to re-rank, and how many candidates that takes."""
    if not 1 <= k <= MAX_K:
        raise ValueError(f"k is {k}; expected 1 to {MAX_K}")
    if not total:
        raise ValueError(f"the index has no {what}")
    depth = total if rerank == ALL else min(int(check_depth(rerank)), total)
    if not len(subject.parts) and rerank != ALL:
        depth = 0  # the alignment head scores all of them 0: its order would only undo the matching head's
    return depth, min(max(k, depth), total)


def _note(subject: Subject, rerank: Depth, what: str) -> str:
    notes = list(subject.read.notes) if subject.read else []
    if not len(subject.parts) and rerank != 0:
        kept, equal = "the matching head's order is kept", "all scores are 0, and the later row comes first"
        notes.append(f"no {what} takes part in alignment: {equal if rerank == ALL else kept}")
    return "; ".join(notes)


def _known(alignment: float) -> float | None:
    return None if math.isnan(alignment) else alignment
