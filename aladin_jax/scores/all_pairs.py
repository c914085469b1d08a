"""Alignment scores of all pairs, or of a query's candidates, for evaluation and search (floor "always").

The work is one matrix product, every word with every region. It is done in tiles that bound memory: a few images
padded to a common number of regions against many captions' words end to end, without padding. A region of padding is
a zero vector, whose similarity of 0 is the floor itself; a caption's words are summed in their own order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from aladin_jax.scores.ragged import Packed, concatenate, pack_one, pack_regions, pack_words
from aladin_jax.scores.similarity import Pooling
from aladin_jax.scores.tiles import ScoreBlock, check_sides, score_blocks, tiling_of_all_pairs, tiling_of_few

__all__ = [
    "Packed",
    "ScoreBlock",
    "alignment_score_blocks",
    "all_alignment_scores",
    "concatenate",
    "pack_regions",
    "pack_words",
    "scores_of_caption",
    "scores_of_image",
]

Progress = Callable[[int, int], None]


def all_alignment_scores(
    images: Packed,
    captions: Packed,
    *,
    pooling: Pooling = "MrSw",
    dtype: Any = jnp.float32,
    progress: Progress | None = None,
) -> Float[np.ndarray, "i c"]:
    """Scores every image with every caption: `similarity.alignment_scores(..., floor="always")` on packed vectors.

    Memory beside the inputs: 4 bytes a pair for the result, and less than 500 MB.

    Ties: with `MrSw` on CPU, equal images get equal scores with a caption, and equal captions with an image, to the
    last bit, wherever they stand. (Equal images fall into one level, so their tiles have one shape, and a caption's
    words are summed in order, not in the order of a matrix product.)

    Args:
        images: from `pack_regions`.
        captions: from `pack_words`.
        pooling: as in `similarity.alignment_scores`.
        dtype: of the vectors in the matrix product; sums are float32 either way.
        progress: called with (pairs done, pairs in all) after every block.

    Returns:
        float32 scores (golden: `unit/retrieval.npz`); 0 where an image has no regions left or a caption no words.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    scores = np.zeros((len(images.lengths), len(captions.lengths)), np.float32)
    done = 0
    for block in alignment_score_blocks(images, captions, pooling=pooling, dtype=dtype):
        scores[block.images, block.captions] = block.scores
        done += block.scores.size
        if progress is not None:
            progress(done, scores.size)
    return scores


def alignment_score_blocks(
    images: Packed, captions: Packed, *, pooling: Pooling = "MrSw", dtype: Any = jnp.float32
) -> Iterator[ScoreBlock]:
    """Yields the scores of all pairs block by block, each pair once, for callers that keep only part of them.

    A block has at most `score_tiles.MAX_TILE_IMAGES` images and the captions of `score_tiles.RESIDENT_WORDS` words.

    Args:
        images: from `pack_regions`.
        captions: from `pack_words`.
        pooling: as in `similarity.alignment_scores`.
        dtype: as in `all_alignment_scores`.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    return score_blocks(images, captions, tiling_of_all_pairs(images, captions, pooling), pooling=pooling, dtype=dtype)


def scores_of_caption(
    words: Float[np.ndarray, "w d"],
    images: Packed,
    chosen: Int[np.ndarray, " k"],
    *,
    pooling: Pooling = "MrSw",
) -> Float[np.ndarray, " k"]:
    """Scores one caption with chosen images, for re-ranking; new lengths compile nothing (`MrSw`) or little.

    Args:
        words: unit vectors of the caption's words, as `pack_words` gives them.
        images: all images.
        chosen: which of them, in the order wanted.
        pooling: as in `similarity.alignment_scores`.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    return _score_few(images.take(chosen), pack_one(words), pooling)[:, 0]


def scores_of_image(
    regions: Float[np.ndarray, "r d"],
    captions: Packed,
    chosen: Int[np.ndarray, " k"],
    *,
    pooling: Pooling = "MrSw",
) -> Float[np.ndarray, " k"]:
    """Scores one image with chosen captions: `scores_of_caption` the other way round.

    Args:
        regions: unit vectors of the image's regions, as `pack_regions` gives them.
        captions: all captions.
        chosen: which of them, in the order wanted.
        pooling: as in `similarity.alignment_scores`.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    return _score_few(pack_one(regions), captions.take(chosen), pooling)[0]


def _score_few(images: Packed, captions: Packed, pooling: Pooling) -> np.ndarray:
    if pooling == "MrSw":
        return _mrsw_on_host(images, captions)
    scores = np.zeros((len(images.lengths), len(captions.lengths)), np.float32)
    tiling = tiling_of_few(images, captions)
    for block in score_blocks(images, captions, tiling, pooling=pooling, dtype=jnp.float32):
        scores[block.images, block.captions] = block.scores
    return scores


def _mrsw_on_host(images: Packed, captions: Packed) -> np.ndarray:
    """The same scores without tiles: for a query's candidates, padding and moving them takes longer than the product.

    Nothing is compiled, so that a query of any length is answered as fast.
    """
    check_sides(images, captions, "MrSw")
    scores = np.zeros((len(images.lengths), len(captions.lengths)), np.float32)
    with_regions, with_words = np.flatnonzero(images.lengths), np.flatnonzero(captions.lengths)
    if len(with_regions) and len(with_words):
        similarity = images.vectors.astype(np.float32) @ captions.vectors.astype(np.float32).T
        best = np.maximum.reduceat(similarity, images.offsets[with_regions], axis=0)
        sums = np.add.reduceat(np.maximum(best, 0), captions.offsets[with_words], axis=1)
        scores[np.ix_(with_regions, with_words)] = sums
    return scores
