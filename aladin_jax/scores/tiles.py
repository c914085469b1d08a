"""How all-pairs alignment scores are cut into tiles, and the compiled function that scores one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from aladin_jax.lookahead import look_ahead
from aladin_jax.scores import similarity
from aladin_jax.scores.ragged import Packed, offsets_of
from aladin_jax.scores.similarity import Pooling, Side

# Words and regions of a tile of all pairs. MrSw keeps a similarity per (word, region), 17 MB; other poolings keep a few
# arrays of that size, `scan-sentences` one of (image, caption, region, feature).
MRSW_TILE, OTHER_TILE = (2048, 2112), (256, 528)
MAX_TILE_IMAGES = 256
# Images of one level are padded to the same number of regions; each level is a compiled shape.
LEVEL_SPAN, MIN_LEVEL_IMAGES = 4, 32
# Words on the device at a time, in float32 of BERT-base 200 MB.
RESIDENT_WORDS = 2**16


class ScoreBlock(NamedTuple):
    """Scores of some images with some captions.

    Attributes:
        images: [i] which images.
        captions: which captions.
        scores: [i, c].
    """

    images: Int[np.ndarray, " i"]
    captions: slice
    scores: Float[np.ndarray, "i c"]


class ImageLevel(NamedTuple):
    """Images padded to the same number of regions: which, to how many, and how many to a tile."""

    images: np.ndarray
    regions: int
    tile_images: int


class CaptionTiling(NamedTuple):
    """How captions are cut into tiles: runs of captions, and the shape that all tiles share.

    `words` has a row to spare, a zero vector for the padding of [captions, longest] to point at.
    """

    runs: list[slice]
    words: int
    captions: int
    longest: int


class Tiling(NamedTuple):
    """Tiles of images and of captions; all pairs of them are all the work."""

    levels: list[ImageLevel]
    captions: CaptionTiling


def tiling_of_all_pairs(images: Packed, captions: Packed, pooling: Pooling) -> Tiling:
    """Tiles with as little padding as few shapes allow, for work that takes longer than compiling."""
    max_words, max_columns = MRSW_TILE if pooling == "MrSw" else OTHER_TILE
    return Tiling(_image_levels(images.lengths, max_columns), _caption_tiling(captions.lengths, max_words))


def tiling_of_few(images: Packed, captions: Packed) -> Tiling:
    """Tiles of coarsely rounded sizes, for small problems of ever new ones: few shapes are ever compiled."""
    num_images, num_captions = len(images.lengths), len(captions.lengths)
    regions = _round_up(int(images.lengths.max(initial=1)), 8)
    level = ImageLevel(np.arange(num_images), regions, min(_power_of_two(num_images, 1), MAX_TILE_IMAGES))
    longest = _power_of_two(int(captions.lengths.max(initial=1)), 16)
    room = max(min(_power_of_two(int(captions.lengths.sum()) + 1, 16), MRSW_TILE[0]), 2 * longest)
    most = min(_power_of_two(num_captions, 1), room // 4)
    runs = _runs_of_captions(captions.lengths, room - 1, most)
    return Tiling([level], CaptionTiling(runs, room, most, longest))


def score_blocks(
    images: Packed, captions: Packed, tiling: Tiling, *, pooling: Pooling, dtype: Any
) -> Iterator[ScoreBlock]:
    """Yields the scores of all pairs, a tile of images with as many tiles of captions as the device holds.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    check_sides(images, captions, pooling)
    return _generate_blocks(images, captions, tiling, pooling, dtype)


def check_sides(images: Packed, captions: Packed, pooling: Pooling) -> None:
    """Checks that both sides can be compared.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    if pooling not in similarity.POOLINGS:
        raise ValueError(f"pooling is {pooling!r}; choose one of {', '.join(similarity.POOLINGS)}")
    if images.vectors.shape[1] != captions.vectors.shape[1]:
        raise ValueError(
            f"image vectors have {images.vectors.shape[1]} features, caption vectors {captions.vectors.shape[1]}; "
            "both must come from one model"
        )


def _image_levels(lengths: np.ndarray, max_columns: int) -> list[ImageLevel]:
    """Groups images of similar numbers of regions, equal numbers always together; tiles of a level have one shape."""
    order = np.argsort(-lengths, kind="stable")
    negative = -lengths[order]  # ascending, as searchsorted wants
    levels, start = [], 0
    while start < len(order):
        most = int(lengths[order[start]])
        stop = max(int(np.searchsorted(negative, LEVEL_SPAN - most)), min(start + MIN_LEVEL_IMAGES, len(order)))
        stop = int(np.searchsorted(negative, negative[stop - 1], side="right"))
        regions, count = max(most, 1), stop - start
        tiles = -(-count // min(max(max_columns // regions, 1), MAX_TILE_IMAGES))
        levels.append(ImageLevel(order[start:stop], regions, -(-count // tiles)))
        start = stop
    return levels


def _caption_tiling(lengths: np.ndarray, max_words: int) -> CaptionTiling:
    """Cuts captions into as few tiles as `max_words` allows, then shrinks the tiles to what they need."""
    longest = int(lengths.max(initial=1))
    least = _round_up(longest + 1, 16)
    room = max(max_words, least)
    runs = _runs_of_captions(lengths, room - 1, room // 4)
    even = _round_up(int(lengths.sum()) // max(len(runs), 1) + 1, 16)
    for words in range(max(even, least), room, 16):
        shrunk = _runs_of_captions(lengths, words - 1, room // 4)
        if len(shrunk) <= len(runs):
            runs, room = shrunk, words
            break
    most = max((run.stop - run.start for run in runs), default=1)
    return CaptionTiling(runs, room, _round_up(most, 4), longest)


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


def _power_of_two(n: int, at_least: int) -> int:
    return max(at_least, 1 << (n - 1).bit_length())


def _generate_blocks(
    images: Packed, captions: Packed, tiling: Tiling, pooling: Pooling, dtype: Any
) -> Iterator[ScoreBlock]:
    runs, per_group = tiling.captions.runs, max(RESIDENT_WORDS // tiling.captions.words, 1)

    def computing() -> Iterator[tuple[np.ndarray, list[slice], list[Array]]]:
        for first in range(0, len(runs), per_group):
            group = runs[first : first + per_group]
            caption_tiles = [_caption_tile(captions, run, tiling.captions, dtype) for run in group]
            for level in tiling.levels:
                for start in range(0, len(level.images), level.tile_images):
                    chosen = level.images[start : start + level.tile_images]
                    image_tile = _image_tile(images, chosen, level, dtype)
                    yield chosen, group, [score_tile(*image_tile, *tile, pooling=pooling) for tile in caption_tiles]

    for chosen, group, tiles in look_ahead(computing(), 1):
        yield _block(chosen, group, tiles)


def _block(chosen: np.ndarray, group: list[slice], tiles: list[Array]) -> ScoreBlock:
    scores = np.empty((len(chosen), group[-1].stop - group[0].start), np.float32)
    for tile, run in zip(tiles, group, strict=True):
        columns = slice(run.start - group[0].start, run.stop - group[0].start)
        scores[:, columns] = np.asarray(tile)[: run.stop - run.start, : len(chosen)].T
    return ScoreBlock(chosen, slice(group[0].start, group[-1].stop), scores)


def _image_tile(images: Packed, chosen: np.ndarray, level: ImageLevel, dtype: Any) -> tuple[Array, Array]:
    """Zero-padded regions [d, r, i] and their counts [i]."""
    taken = images.take(chosen)
    tile = np.zeros((level.regions, level.tile_images, images.vectors.shape[1]), dtype)
    image = np.repeat(np.arange(len(chosen)), taken.lengths)
    tile[np.arange(len(image)) - taken.offsets[image], image] = taken.vectors
    return _features_first(tile), jnp.asarray(np.pad(taken.lengths, (0, level.tile_images - len(chosen))))


@jax.jit
def _features_first(tile: Float[Array, "r i d"]) -> Float[Array, "d r i"]:
    # The right operand's own layout: with it transposed, CPUs multiply bfloat16 at half the rate.
    return jnp.moveaxis(tile, -1, 0)


def _caption_tile(captions: Packed, run: slice, tiling: CaptionTiling, dtype: Any) -> tuple[Array, Array]:
    """Words end to end [w, d], and where each caption's words stand [c, longest] (at a zero vector past its end)."""
    offsets = captions.offsets[run.start : run.stop + 1]
    words = np.zeros((tiling.words, captions.vectors.shape[1]), dtype)
    words[: offsets[-1] - offsets[0]] = captions.vectors[offsets[0] : offsets[-1]]
    place = np.full((tiling.captions, tiling.longest), tiling.words - 1, np.int32)
    slot = (offsets[:-1] - offsets[0])[:, None] + np.arange(tiling.longest)
    place[: len(slot)] = np.where(slot < (offsets[1:] - offsets[0])[:, None], slot, tiling.words - 1)
    return jnp.asarray(words), jnp.asarray(place)


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
        return _mrsw_tile(regions, words, place)
    _, r, i = regions.shape
    ones = functools.partial(jnp.ones, dtype=bool)
    images = Side(
        jnp.transpose(regions),
        jnp.arange(r) < region_count[:, None],
        ones(i),
        jnp.asarray(similarity.EVALUATION_REGIONS),
    )
    captions = Side(words[place], place < len(words) - 1, ones(len(place)), jnp.asarray(similarity.EVALUATION_WORDS))
    return similarity.alignment_scores_of_sides(images, captions, pooling=pooling).T


def _mrsw_tile(regions: Array, words: Array, place: Array) -> Array:
    d, r, i = regions.shape
    # Without "highest", GPUs would round float32 vectors to 10 bits; of bfloat16 it asks nothing.
    precision = "highest" if words.dtype == jnp.float32 else None
    all_pairs = jnp.matmul(words, regions.reshape(d, r * i), precision=precision, preferred_element_type=jnp.float32)
    best = jnp.maximum(all_pairs.reshape(-1, r, i).max(axis=1), 0)
    return best[place].sum(axis=1)
