"""Alignment scores of all pairs, for evaluation and search (floor "always").

The work is one matrix product, every word with every region. It is done in tiles that bound memory: a few images
padded to a common number of regions against many captions' words end to end, without padding. A region of padding is
a zero vector, whose similarity of 0 is the floor itself; a caption's words are summed in their own order.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from aladin_jax.lookahead import look_ahead
from aladin_jax.scores import similarity
from aladin_jax.scores.maxsim import best_region
from aladin_jax.scores.ragged import Ragged, check_comparable, offsets_of
from aladin_jax.scores.similarity import Pooling


class TileSize(NamedTuple):
    """How much is computed at once, and how much of the captions is on the device at a time.

    Attributes:
        words: in a tile of captions.
        regions: in a tile of images, padding included. A tile keeps one similarity, 4 bytes, a word and region.
        images: most in a tile.
        padding: most regions that an image is padded by: images of similar numbers of regions make a level, which is
            a shape to compile.
        resident_words: of the captions that lie on the device together; in float32 of BERT-base 3 KB each.
    """

    words: int
    regions: int
    images: int
    padding: int
    resident_words: int


# Similarities of 17 MB on a CPU, 1.1 GB on an accelerator: a product large enough for either.
CPU_TILE = TileSize(words=2048, regions=2112, images=256, padding=3, resident_words=2**16)
ACCELERATOR_TILE = TileSize(words=2**14, regions=33 * 512, images=512, padding=15, resident_words=2**19)
# Poolings other than MrSw keep a few arrays of similarities, `scan-sentences` one of (image, caption, region, feature).
OTHER_TILE = TileSize(words=256, regions=528, images=256, padding=3, resident_words=2**16)


def all_alignment_scores(
    images: Ragged, captions: Ragged, *, pooling: Pooling = "MrSw", dtype: DTypeLike = jnp.float32
) -> Float[np.ndarray, "i c"]:
    """Scores every image with every caption: `similarity.alignment_scores(..., floor="always")` on ragged vectors.

    Memory on the host beside the inputs: 4 bytes a pair for the result, and less than 500 MB; on an accelerator, 3 GB.

    Ties: with `MrSw` on CPU, equal images get equal scores with a caption, and equal captions with an image, to the
    last bit, wherever they stand. (Equal images fall into one level, so their tiles have one shape, and a caption's
    words are summed in order, not in the order of a matrix product.)

    Args:
        images: from `ragged_regions`.
        captions: from `ragged_words`.
        pooling: as in `similarity.alignment_scores`.
        dtype: of the vectors in the matrix product; sums are float32 either way.

    Returns:
        float32 scores (golden: `unit/retrieval.npz`); 0 where an image has no regions left or a caption no words.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    check_comparable(images, captions, pooling)
    scores = np.zeros((len(images.lengths), len(captions.lengths)), np.float32)
    size = tile_size(pooling)
    for rows, columns, tile in look_ahead(_computing(images, captions, size, pooling, dtype), 1):
        scores[rows, columns] = np.asarray(tile)[: len(rows)]
    return scores


def tile_size(pooling: Pooling) -> TileSize:
    """The size of tiles on the device that scores are computed on."""
    if pooling != "MrSw":
        return OTHER_TILE
    return CPU_TILE if jax.default_backend() == "cpu" else ACCELERATOR_TILE


def _computing(
    images: Ragged, captions: Ragged, size: TileSize, pooling: Pooling, dtype: DTypeLike
) -> Iterator[tuple[np.ndarray, slice, Array]]:
    """Yields which images, which captions, and their scores (with rows to spare), as they are dispatched."""
    levels, tiling = _image_levels(images.lengths, size), _caption_tiling(captions.lengths, size)
    together = max(size.resident_words // tiling.words, 1)
    for first in range(0, len(tiling.runs), together):
        runs = tiling.runs[first : first + together]
        resident = [_caption_tile(captions, run, tiling, dtype) for run in runs]
        # Where each caption's scores stand among the tiles', which have captions to spare.
        place = np.concatenate([k * tiling.captions + np.arange(run.stop - run.start) for k, run in enumerate(runs)])
        for level in levels:
            for start in range(0, len(level.images), level.tile_images):
                rows = level.images[start : start + level.tile_images]
                image_tile = _image_tile(images, rows, level, dtype)
                tiles = [score_tile(*image_tile, *tile, pooling=pooling) for tile in resident]
                yield rows, slice(runs[0].start, runs[-1].stop), _side_by_side(tiles, place)


@functools.partial(jax.jit, static_argnames="pooling")
def score_tile(
    regions: Float[Array, "d r i"],
    region_count: Int[Array, " i"],
    words: Float[Array, "w d"],
    place: Int[Array, "c k"],
    *,
    pooling: Pooling,
) -> Float[Array, "c i"]:
    """Scores a tile; see `_image_tile` and `_caption_tile` for the arguments."""
    if pooling == "MrSw":
        best, _ = best_region(words, jnp.transpose(regions, (1, 2, 0)), region_axis=0)
        return jnp.maximum(best, 0)[place].sum(axis=1)
    is_region = jnp.arange(regions.shape[1]) < region_count[:, None]
    return similarity.pooled_scores(
        similarity.as_in_evaluation(jnp.transpose(regions), is_region, similarity.EVALUATION_REGIONS),
        similarity.as_in_evaluation(words[place], place < len(words) - 1, similarity.EVALUATION_WORDS),
        pooling=pooling,
    ).T


@jax.jit
def _side_by_side(tiles: list[Array], place: Int[Array, " c"]) -> Float[Array, "i c"]:
    """The scores of an image tile with the captions of all tiles, so that they come to the host in one piece."""
    return jnp.concatenate(tiles)[place].T


class _ImageLevel(NamedTuple):
    """Images padded to the same number of regions: which, to how many, and how many to a tile."""

    images: np.ndarray
    regions: int
    tile_images: int


def _image_levels(lengths: np.ndarray, size: TileSize) -> list[_ImageLevel]:
    """Groups images of similar numbers of regions, equal numbers always together; tiles of a level have one shape."""
    order = np.argsort(-lengths, kind="stable")
    negative = -lengths[order]  # ascending, as searchsorted wants
    levels, start = [], 0
    while start < len(order):
        most = int(lengths[order[start]])
        stop = int(np.searchsorted(negative, size.padding - most, side="right"))
        stop = max(stop, min(start + size.images // 8, len(order)))
        stop = int(np.searchsorted(negative, negative[stop - 1], side="right"))
        regions, count = max(most, 1), stop - start
        tiles = -(-count // min(max(size.regions // regions, 1), size.images))
        levels.append(_ImageLevel(order[start:stop], regions, -(-count // tiles)))
        start = stop
    return levels


class _CaptionTiling(NamedTuple):
    """How captions are cut into tiles: runs of captions, and the shape that all tiles share.

    `words` has a row to spare, a zero vector for the padding of [captions, longest] to point at.
    """

    runs: list[slice]
    words: int
    captions: int
    longest: int


def _caption_tiling(lengths: np.ndarray, size: TileSize) -> _CaptionTiling:
    """Cuts captions into as few tiles as the size allows, then shrinks the tiles to what they need."""
    longest = int(lengths.max(initial=1))
    least = _round_up(longest + 1, 16)
    room = max(size.words, least)
    runs = _runs_of_captions(lengths, room - 1, room // 4)
    even = _round_up(int(lengths.sum()) // max(len(runs), 1) + 1, 16)
    for words in range(max(even, least), room, 16):
        shrunk = _runs_of_captions(lengths, words - 1, room // 4)
        if len(shrunk) <= len(runs):
            runs, room = shrunk, words
            break
    most = max((run.stop - run.start for run in runs), default=1)
    return _CaptionTiling(runs, room, _round_up(most, 4), longest)


def _runs_of_captions(lengths: np.ndarray, max_words: int, max_captions: int) -> list[slice]:
    """Cuts captions into consecutive runs of at most `max_words` words, which no caption exceeds."""
    offsets, runs, start = offsets_of(lengths), [], 0
    while start < len(lengths):
        stop = int(np.searchsorted(offsets, offsets[start] + max_words, side="right")) - 1
        stop = min(stop, start + max_captions)
        runs.append(slice(start, stop))
        start = stop
    return runs


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def _image_tile(images: Ragged, rows: np.ndarray, level: _ImageLevel, dtype: DTypeLike) -> tuple[Array, Array]:
    """Zero-padded regions [d, r, i] and their counts [i]."""
    taken = images.take(rows)
    vectors = np.zeros((level.regions * level.tile_images + 1, images.vectors.shape[1]), images.vectors.dtype)
    vectors[: len(taken.vectors)] = taken.vectors
    counts = np.pad(taken.lengths, (0, level.tile_images - len(rows)))
    place = offsets_of(counts)[:-1] + np.arange(level.regions)[:, None]
    place = np.where(np.arange(level.regions)[:, None] < counts, place, len(vectors) - 1)
    return _features_first(vectors, place, dtype), jnp.asarray(counts)


@functools.partial(jax.jit, static_argnames="dtype")
def _features_first(vectors: Float[Array, "n d"], place: Int[Array, "r i"], dtype: DTypeLike) -> Float[Array, "d r i"]:
    # The right operand's own layout: with it transposed, CPUs multiply bfloat16 at half the rate.
    return jnp.moveaxis(vectors.astype(dtype)[place], -1, 0)


def _caption_tile(captions: Ragged, run: slice, tiling: _CaptionTiling, dtype: DTypeLike) -> tuple[Array, Array]:
    """Words end to end [w, d], and where each caption's words stand [c, longest] (at a zero vector past its end)."""
    offsets = captions.offsets[run.start : run.stop + 1]
    words = np.zeros((tiling.words, captions.vectors.shape[1]), captions.vectors.dtype)
    words[: offsets[-1] - offsets[0]] = captions.vectors[offsets[0] : offsets[-1]]
    place = np.full((tiling.captions, tiling.longest), tiling.words - 1, np.int32)
    slot = (offsets[:-1] - offsets[0])[:, None] + np.arange(tiling.longest)
    place[: len(slot)] = np.where(slot < (offsets[1:] - offsets[0])[:, None], slot, tiling.words - 1)
    return jnp.asarray(words).astype(dtype), jnp.asarray(place)
