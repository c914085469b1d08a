"""Reads an index: one open index sees one generation, whatever writers do meanwhile."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from aladin_jax.encoding import Encoded
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import Ragged, concatenate
from aladin_jax.search.index_files import MODEL, Manifest, Segment, SegmentEntry, read_manifest, read_segment


class Side:
    """The images, or the captions, of all segments as one run of rows; deleted rows keep their place.

    Attributes:
        alive: [n] rows that are not deleted.
    """

    def __init__(self, pieces: list[Encoded], alive: Bool[np.ndarray, " n"]):
        self.alive = alive
        self._pieces = pieces
        self._starts = np.cumsum([0, *(len(piece.vectors) for piece in pieces)])

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return len(self.alive)

    @functools.cached_property
    def live_rows(self) -> Int[np.ndarray, " k"]:
        """Rows that are not deleted, in order."""
        return np.flatnonzero(self.alive)

    @property
    def vectors(self) -> list[Float[np.ndarray, "k d"]]:
        """The matching head's vectors, segment by segment."""
        return [piece.vectors for piece in self._pieces]

    def vector(self, row: int) -> Float[np.ndarray, " d"]:
        """One row's vector."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return np.asarray(self._pieces[number].vectors[row - self._starts[number]])

    def parts(self, row: int) -> Float[np.ndarray, "n d"]:
        """One row's unit vectors, in float32."""
        return np.asarray(self.take(np.array([row])).vectors, np.float32)

    def by_segment(self, rows: Int[np.ndarray, " k"]) -> Iterator[tuple[np.ndarray, Ragged, np.ndarray]]:
        """Yields, for each segment with some of the rows: which of `rows`, all its parts, and their places there."""
        segment_of_row = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(segment_of_row):
            chosen = np.flatnonzero(segment_of_row == number)
            yield chosen, self._pieces[number].parts, rows[chosen] - self._starts[number]

    def take(self, rows: Int[np.ndarray, " k"]) -> Ragged:
        """Unit vectors of some rows, in the order given."""
        found = [(chosen, parts.take(places)) for chosen, parts, places in self.by_segment(rows)]
        if len(found) == 1:
            return found[0][1]
        if not found:
            return Ragged(self._pieces[0].parts.vectors[:0], np.zeros(1, np.int64))
        return concatenate([taken for _, taken in found]).take(np.argsort(np.concatenate([c for c, _ in found])))


class Region(NamedTuple):
    """A region that takes part in alignment.

    Attributes:
        number: its place among the image's regions as they were given, from 0.
        box: x1, y1, x2, y2 as shares of the picture's width and height, if known.
        tag: the detected class, if known.
    """

    number: int
    box: tuple[float, float, float, float] | None
    tag: str | None


class Index:
    """An open index; memory-mapped, so that opening costs little and processes share it.

    Attributes:
        path: its folder.
        manifest: of the generation that was opened.
        segments: of it.
        images: vectors of images.
        captions: vectors of captions.
        caption_image: [c] the image row of each caption.
    """

    def __init__(self, path: str | Path):
        """Opens the newest generation.

        Raises:
            ValueError: there is no index, it is unfinished, or it is damaged.
        """
        self.path = Path(path)
        self.manifest, self.segments, alive = _open_newest(self.path)
        starts = np.cumsum([0, *(segment.image_table.num_rows for segment in self.segments)])
        self._image_starts = starts[:-1]
        self._image_table = pa.concat_tables([segment.image_table for segment in self.segments])
        self._caption_table = pa.concat_tables([segment.caption_table for segment in self.segments])
        self.images = Side([segment.images for segment in self.segments], alive)
        self.caption_image = np.concatenate(
            [segment.caption_images + first for segment, first in zip(self.segments, starts[:-1], strict=True)]
        )
        self.captions = Side([segment.captions for segment in self.segments], alive[self.caption_image])

    def model(self) -> PretrainedModel:
        """Loads the model that the index was made with.

        Raises:
            ValueError: it is damaged, or another one than the index's vectors are of.
        """
        model = PretrainedModel(self.path / MODEL, self.manifest.settings)
        if model.fingerprint != self.manifest.fingerprint:
            raise ValueError(
                f"{self.path}: holds vectors of model {self.manifest.fingerprint}, but {MODEL}/ is model "
                f"{model.fingerprint}; put the right one there, or index the data again"
            )
        return model

    @functools.cached_property
    def ids(self) -> list[str]:
        """The id of each image row, deleted ones included."""
        return self._image_table["id"].to_pylist()

    @functools.cached_property
    def row_of_id(self) -> dict[str, int]:
        """The row of each image that is not deleted."""
        return {self.ids[row]: int(row) for row in self.images.live_rows}

    def row(self, image_id: str) -> int:
        """The row of an image.

        Raises:
            ValueError: there is no such image, or it is deleted.
        """
        if image_id not in self.row_of_id:
            raise ValueError(f"{self.path}: no image {image_id[:128]!r} in the index")
        return self.row_of_id[image_id]

    def caption(self, row: int) -> str:
        """The text of a caption."""
        return self._caption_table["text"][row].as_py()

    def tags(self, row: int) -> list[str]:
        """The detected class names of an image."""
        return self._image_table["tags"][row].as_py()

    def file(self, row: int) -> str:
        """The path of an image's picture in the folder that it was indexed from; empty where that is not known."""
        return self._image_table["file"][row].as_py()

    def boxes(self, row: int) -> Float[np.ndarray, "r 4"]:
        """The boxes of an image's regions, as shares of the picture; none where they are not known."""
        return np.asarray(self._image_table["boxes"][row].as_py(), np.float32).reshape(-1, 4)

    def regions(self, row: int) -> list[Region]:
        """What is known of an image's regions, in the order of `images.parts(row)` (without the first: see there)."""
        return describe_regions(len(self.images.parts(row)), self.boxes(row), self.tags(row))

    def picture(self, row: int) -> bytes:
        """An image's picture, a JPEG file; empty where there is none."""
        number = int(np.searchsorted(self._image_starts, row, side="right")) - 1
        return self.segments[number].picture(row - int(self._image_starts[number]))

    def by_segment(self) -> Iterator[tuple[SegmentEntry, Segment, Bool[np.ndarray, " i"]]]:
        """Yields each segment as the manifest lists it, as it is, and which of its images are not deleted."""
        alive = np.split(self.images.alive, self._image_starts[1:])
        return zip(self.manifest.segments, self.segments, alive, strict=True)


def describe_regions(count: int, boxes: np.ndarray, tags: list[str]) -> list[Region]:
    """Describes the `count` regions of an image that take part in alignment.

    Region 0 takes no part (`similarity.region_side`). A tag is known to be a region's only where there are as many
    tags as regions, for a data set gives the two lists apart.
    """
    paired: list[Any] = tags if len(boxes) and len(tags) == len(boxes) else [None] * (count + 1)
    known: list[Any] = [tuple(box) for box in boxes.tolist()] if len(boxes) > count else [None] * (count + 1)
    return [Region(number, known[number], paired[number]) for number in range(1, count + 1)]


def _open_newest(path: Path) -> tuple[Manifest, list[Segment], Bool[np.ndarray, " i"]]:
    """The newest generation, its segments, and which of all images are not deleted."""
    while True:
        manifest = read_manifest(path)
        if not manifest.segments:
            raise ValueError(f"{path}: the manifest lists no segment; index the data again")
        try:
            opened = [_open(path / entry.name, entry, manifest.width) for entry in manifest.segments]
        except FileNotFoundError as error:  # merged away between the two reads, or really missing
            if read_manifest(path).generation == manifest.generation:
                raise ValueError(f"{error.filename}: missing; restore it, or index the data again") from error
        else:
            return manifest, [segment for segment, _ in opened], np.concatenate([alive for _, alive in opened])


def _open(folder: Path, entry: SegmentEntry, width: int) -> tuple[Segment, Bool[np.ndarray, " i"]]:
    segment = read_segment(folder)
    alive = np.ones(segment.image_table.num_rows, bool)
    if entry.deleted:
        file = folder / entry.deleted
        rows = np.load(file, allow_pickle=False)
        if rows.dtype != np.int64 or rows.ndim != 1 or not ((rows >= 0) & (rows < len(alive))).all():
            raise ValueError(f"{file}: not rows of the segment; restore it, or index the data again")
        alive[rows] = False
    found = {**segment.counts(alive), "width": segment.images.vectors.shape[1]}
    expected = {name: getattr(entry, name, width) for name in found}
    if found != expected:
        raise ValueError(f"{folder}: has {found}, the manifest says {expected}; restore it, or index the data again")
    return segment, alive
