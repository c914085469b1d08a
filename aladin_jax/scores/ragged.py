"""Unit vectors of many images' regions or captions' words, end to end on the host, ready for alignment scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from aladin_jax.scores import similarity
from aladin_jax.scores.similarity import Pooling


class Packed(NamedTuple):
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

    def take(self, examples: Int[np.ndarray, " k"]) -> Packed:
        """Selects examples, in the order given."""
        lengths = self.offsets[examples + 1] - self.offsets[examples]
        offsets = offsets_of(lengths)
        rows = np.repeat(self.offsets[examples] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Packed(self.vectors[rows], offsets)


def pack_regions(regions: Any, region_len: Any) -> Packed:
    """Normalises and packs the regions that take part in alignment (`similarity.region_side`: all but position 0).

    Args:
        regions: [i, r, d] backbone outputs at regions.
        region_len: [i] real regions of each image.
    """
    return pack(*jax.tree.map(np.asarray, unit_regions(regions, region_len)))


def pack_words(tokens: Any, caption_len: Any) -> Packed:
    """Normalises and packs the words that take part (`similarity.word_side`: no `[CLS]`, `[SEP]`, last word piece).

    Args:
        tokens: [c, w, d] backbone outputs of captions.
        caption_len: [c] real tokens of each caption.
    """
    return pack(*jax.tree.map(np.asarray, unit_words(tokens, caption_len)))


@functools.partial(jax.jit, static_argnames="dtype")
def unit_regions(
    regions: Float[Array, "i r d"], region_len: Int[Array, " i"], dtype: DTypeLike = jnp.float32
) -> tuple[Float[Array, "i s d"], Bool[Array, "i s"]]:
    """What `pack` takes of images: unit vectors, computed in float32 and rounded to `dtype`, and which are real."""
    side = similarity.region_side(regions.astype(jnp.float32), region_len, "always")
    return side.x.astype(dtype), side.real


@functools.partial(jax.jit, static_argnames="dtype")
def unit_words(
    tokens: Float[Array, "c w d"], caption_len: Int[Array, " c"], dtype: DTypeLike = jnp.float32
) -> tuple[Float[Array, "c s d"], Bool[Array, "c s"]]:
    """What `pack` takes of captions; see `unit_regions`."""
    side = similarity.word_side(tokens.astype(jnp.float32), caption_len, "always")
    return side.x.astype(dtype), side.real


def pack(x: Float[np.ndarray, "n k d"], real: Bool[np.ndarray, "n k"]) -> Packed:
    """Leaves out padding."""
    return Packed(x[real], offsets_of(real.sum(axis=1)))


def concatenate(parts: Sequence[Packed]) -> Packed:
    """Joins examples that were packed batch by batch."""
    lengths = np.concatenate([part.lengths for part in parts])
    return Packed(np.concatenate([part.vectors for part in parts]), offsets_of(lengths))


def pack_one(vectors: Float[np.ndarray, "n d"]) -> Packed:
    """A single example."""
    return Packed(vectors, offsets_of(np.asarray([len(vectors)])))


def offsets_of(lengths: Int[np.ndarray, " e"]) -> Int[np.ndarray, " e1"]:
    """Where each example starts, and the end."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def scores_of_caption(
    words: Float[np.ndarray, "w d"], images: Packed, chosen: Int[np.ndarray, " k"], *, pooling: Pooling = "MrSw"
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
    return _scores_of_few(images.take(chosen), pack_one(words), pooling)[:, 0]


def scores_of_image(
    regions: Float[np.ndarray, "r d"], captions: Packed, chosen: Int[np.ndarray, " k"], *, pooling: Pooling = "MrSw"
) -> Float[np.ndarray, " k"]:
    """Scores one image with chosen captions: `scores_of_caption` the other way round."""
    return _scores_of_few(pack_one(regions), captions.take(chosen), pooling)[0]


def _scores_of_few(images: Packed, captions: Packed, pooling: Pooling) -> Float[np.ndarray, "i c"]:
    check_comparable(images, captions, pooling)
    if pooling == "MrSw":
        return _sum_of_best_of_few(images, captions)
    padded = (
        *_pad(images, -(-int(images.lengths.max(initial=1)) // 8) * 8),
        *_pad(captions, _power_of_two(int(captions.lengths.max(initial=1)), 16)),
    )
    return np.asarray(_pooled(*padded, pooling=pooling))[: len(images.lengths), : len(captions.lengths)]


def _sum_of_best_of_few(images: Packed, captions: Packed) -> Float[np.ndarray, "i c"]:
    scores = np.zeros((len(images.lengths), len(captions.lengths)), np.float32)
    with_regions, with_words = np.flatnonzero(images.lengths), np.flatnonzero(captions.lengths)
    if len(with_regions) and len(with_words):
        similarity = images.vectors.astype(np.float32) @ captions.vectors.astype(np.float32).T
        best = np.maximum.reduceat(similarity, images.offsets[with_regions], axis=0)
        sums = np.add.reduceat(np.maximum(best, 0), captions.offsets[with_words], axis=1)
        scores[np.ix_(with_regions, with_words)] = sums
    return scores


def _pad(side: Packed, slots: int) -> tuple[Float[np.ndarray, "n k d"], Bool[np.ndarray, "n k"]]:
    """The other way round from `pack`, with examples up to a power of two: few shapes are ever compiled."""
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


def check_comparable(images: Packed, captions: Packed, pooling: Pooling) -> None:
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
