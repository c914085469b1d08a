"""Unit vectors of many images' regions or captions' words, end to end on the host; scores of one query with some."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from aladin_jax.processors import on_all
from aladin_jax.scores import similarity
from aladin_jax.scores.similarity import Pooling

# Vectors of a block: in float32 of BERT-base 1.2 MB.
BLOCK_ROWS = 400
# Multiplications up to which OpenBLAS takes a product for small.
SMALL_PRODUCT = 10**6
# Candidates padded at once for the poolings that are: of BERT-base's regions in float32, 200 MB.
POOLED_CANDIDATES = 2048


class Ragged(NamedTuple):
    """Unit vectors of many examples end to end, without padding.

    Attributes:
        vectors: [n, d] float32, float16 or bfloat16, L2-normalised.
        offsets: [examples + 1]; example k has vectors[offsets[k]:offsets[k + 1]], perhaps none.
    """

    vectors: Float[np.ndarray, "n d"]
    offsets: Int[np.ndarray, " e"]

    @property
    def lengths(self) -> Int[np.ndarray, " e"]:
        """Vectors of each example."""
        return np.diff(self.offsets)

    def take(self, examples: Int[np.ndarray, " k"]) -> Ragged:
        """Selects examples, in the order given."""
        lengths = self.offsets[examples + 1] - self.offsets[examples]
        offsets = offsets_of(lengths)
        rows = np.repeat(self.offsets[examples] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.vectors[rows], offsets)


def ragged_regions(regions: Any, region_len: Any) -> Ragged:
    """Normalises the regions that take part in alignment (`similarity.region_side`: all but position 0).

    Args:
        regions: [i, r, d] backbone outputs at regions.
        region_len: [i] real regions of each image.
    """
    return drop_padding(*jax.tree.map(np.asarray, unit_regions(regions, region_len)))


def ragged_words(tokens: Any, caption_len: Any) -> Ragged:
    """Normalises the words that take part (`similarity.word_side`: no `[CLS]`, `[SEP]`, last word piece).

    Args:
        tokens: [c, w, d] backbone outputs of captions.
        caption_len: [c] real tokens of each caption.
    """
    return drop_padding(*jax.tree.map(np.asarray, unit_words(tokens, caption_len)))


@functools.partial(jax.jit, static_argnames="dtype")
def unit_regions(
    regions: Float[Array, "i r d"], region_len: Int[Array, " i"], dtype: DTypeLike = jnp.float32
) -> tuple[Float[Array, "i s d"], Bool[Array, "i s"]]:
    """Of images, for `drop_padding`: unit vectors, computed in float32 and rounded to `dtype`, and which are real."""
    side = similarity.region_side(regions.astype(jnp.float32), region_len, "always")
    return side.x.astype(dtype), side.real


@functools.partial(jax.jit, static_argnames="dtype")
def unit_words(
    tokens: Float[Array, "c w d"], caption_len: Int[Array, " c"], dtype: DTypeLike = jnp.float32
) -> tuple[Float[Array, "c s d"], Bool[Array, "c s"]]:
    """Of captions; see `unit_regions`."""
    side = similarity.word_side(tokens.astype(jnp.float32), caption_len, "always")
    return side.x.astype(dtype), side.real


def drop_padding(x: Float[np.ndarray, "n k d"], real: Bool[np.ndarray, "n k"]) -> Ragged:
    """Leaves out padding."""
    return Ragged(x[real], offsets_of(real.sum(axis=1)))


def concatenate(parts: Sequence[Ragged]) -> Ragged:
    """Joins examples that came batch by batch."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Ragged(np.concatenate([part.vectors for part in parts]), offsets_of(lengths))


def single(vectors: Float[np.ndarray, "n d"]) -> Ragged:
    """A single example."""
    return Ragged(vectors, offsets_of(np.asarray([len(vectors)])))


def offsets_of(lengths: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e1"]:
    """Where each example starts, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def scores_of_caption(
    words: Float[np.ndarray, "w d"], images: Ragged, chosen: Int[np.ndarray, " k"], *, pooling: Pooling = "MrSw"
) -> Float[np.ndarray, " k"]:
    """Scores one caption with chosen images, for re-ranking; new lengths compile nothing (`MrSw`) or little.

    Args:
        words: unit vectors of the caption's words, as `ragged_words` gives them.
        images: all images, perhaps mapped from a file: only what is chosen is read.
        chosen: which of them, in the order wanted.
        pooling: as in `similarity.alignment_scores`.

    Raises:
        ValueError: unknown pooling, or vectors of different sizes.
    """
    caption = single(words)
    check_comparable(images, caption, pooling)
    if pooling != "MrSw":
        return _pooled_scores(lambda some: (images.take(some), caption), chosen, pooling)

    def score(a: Float[np.ndarray, "n w"], first: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        return np.maximum(np.maximum.reduceat(a, first, axis=0), 0).sum(axis=1)

    return _in_blocks(score, words, images, chosen)


def scores_of_image(
    regions: Float[np.ndarray, "r d"], captions: Ragged, chosen: Int[np.ndarray, " k"], *, pooling: Pooling = "MrSw"
) -> Float[np.ndarray, " k"]:
    """Scores one image with chosen captions: `scores_of_caption` the other way round."""
    image = single(regions)
    check_comparable(image, captions, pooling)
    if pooling != "MrSw":
        return _pooled_scores(lambda some: (image, captions.take(some)), chosen, pooling)

    def score(a: Float[np.ndarray, "n r"], first: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
        return np.add.reduceat(a.max(axis=1, initial=0), first)

    return _in_blocks(score, regions, captions, chosen)


def best_region(
    words: Float[np.ndarray, "w d"], regions: Float[np.ndarray, "r d"]
) -> tuple[Float[np.ndarray, " w"], Int[np.ndarray, " w"]]:
    """`maxsim.best_region` of one image on the host, where no shape of a query is compiled: value and first place."""
    a = words @ regions.T
    region = a.argmax(axis=1)
    return a[np.arange(len(words)), region], region


def _in_blocks(
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
    query: Float[np.ndarray, "q d"],
    side: Ragged,
    chosen: Int[np.ndarray, " k"],
) -> Float[np.ndarray, " k"]:
    """Scores examples by blocks that stay in a processor's cache, and blocks on all processors at once.

    Args:
        score: from similarities [n, q] of a block's vectors with the query, and where each example starts in them.
        query: unit vectors.
        side: all examples.
        chosen: which of them; without vectors they score 0.
    """
    scores = np.zeros(len(chosen), np.float32)
    start, length = side.offsets[chosen], side.lengths[chosen]
    filled = np.flatnonzero(length) if len(query) else np.zeros(0, int)
    query = np.ascontiguousarray(query, np.float32)

    def score_block(some: Int[np.ndarray, " n"]) -> None:
        first, begin = offsets_of(length[some]), int(start[some[0]])
        if np.array_equal(start[some] - begin, first[:-1]):  # one behind the other: where they lie, without a copy
            block = side.vectors[begin : begin + first[-1]]
        else:
            block = side.vectors[np.repeat(start[some] - first[:-1], length[some]) + np.arange(first[-1])]
        scores[some] = score(_similarities(block, query), first[:-1])

    if len(filled):
        on_all(score_block, np.array_split(filled, -(-int(length.sum()) // BLOCK_ROWS)))
    return scores


def _similarities(block: Float[np.ndarray, "n d"], query: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "n q"]:
    if block.dtype == np.float16:
        # NumPy widens float16 one number at a time. Here its bits move to where float32 has them, for all at once,
        # which leaves exponents 112 too small; the query makes up for it. Exact, as 2^112 is a power of 2.
        wide = block.view(np.int16).astype(np.int32)
        wide <<= 13
        wide &= ~0x70000000
        block, query = wide.view(np.float32), query * np.float32(2.0**112)
    block = block.astype(np.float32, copy=False)
    # Products of few rows, since OpenBLAS multiplies what is small as it lies and copies what is large first; and all
    # of one shape, so that equal rows get equal similarities wherever they stand.
    rows = max(min(SMALL_PRODUCT // query.size, 64) // 8 * 8, 8)
    count = len(block)
    if count < rows:
        block = np.pad(block, ((0, rows - count), (0, 0)))
    out, whole = np.empty((len(block), len(query)), np.float32), len(block) // rows * rows
    np.matmul(block[:whole].reshape(-1, rows, block.shape[1]), query.T, out=out[:whole].reshape(-1, rows, len(query)))
    out[-rows:] = block[-rows:] @ query.T
    return out[:count]


def _pooled_scores(
    sides: Callable[[np.ndarray], tuple[Ragged, Ragged]], chosen: Int[np.ndarray, " k"], pooling: Pooling
) -> Float[np.ndarray, " k"]:
    """Scores by another pooling: padded, with few candidates at a time."""
    scores = np.zeros(len(chosen), np.float32)
    for start in range(0, len(chosen), POOLED_CANDIDATES):
        some = chosen[start : start + POOLED_CANDIDATES]
        images, captions = sides(some)
        padded = (
            *_pad(images, -(-int(images.lengths.max(initial=1)) // 8) * 8),
            *_pad(captions, _power_of_two(int(captions.lengths.max(initial=1)), 16)),
        )
        found = np.asarray(_pooled(*padded, pooling=pooling))[: len(images.lengths), : len(captions.lengths)]
        scores[start : start + len(some)] = found.ravel()
    return scores


def _pad(side: Ragged, slots: int) -> tuple[Float[np.ndarray, "n k d"], Bool[np.ndarray, "n k"]]:
    """The other way round from `drop_padding`, with examples up to a power of two: few shapes are ever compiled."""
    spare = _power_of_two(len(side.lengths), 1) - len(side.lengths)
    real = np.arange(slots) < np.pad(side.lengths, (0, spare))[:, None]
    x = np.zeros((*real.shape, side.vectors.shape[1]), np.float32)
    x[real] = side.vectors
    return x, real


def _power_of_two(n: int, at_least: int) -> int:
    return max(at_least, 1 << max(n - 1, 0).bit_length())


@functools.partial(jax.jit, static_argnames="pooling")
def _pooled(
    regions: Float[Array, "i r d"],
    is_region: Bool[Array, "i r"],
    words: Float[Array, "c w d"],
    is_word: Bool[Array, "c w"],
    *,
    pooling: Pooling,
) -> Float[Array, "i c"]:
    return similarity.pooled_scores(
        similarity.as_in_evaluation(regions, is_region, similarity.EVALUATION_REGIONS),
        similarity.as_in_evaluation(words, is_word, similarity.EVALUATION_WORDS),
        pooling=pooling,
    )


def check_comparable(images: Ragged, captions: Ragged, pooling: Pooling) -> None:
    """Checks that images and captions can be compared.

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
