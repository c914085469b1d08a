"""Unit vectors of many images' regions or captions' words, end to end on the host, ready for alignment scores."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from aladin_jax.scores import similarity


class Packed(NamedTuple):
    """Unit vectors of many examples end to end, without padding.

    Attributes:
        vectors: [n, d] float32 or float16, L2-normalised.
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


def pack_regions(regions: Any, region_len: Any, dtype: Any = np.float32) -> Packed:
    """Normalises and packs the regions that take part in alignment (`similarity.region_side`: all but position 0).

    Args:
        regions: [i, r, d] backbone outputs at regions.
        region_len: [i] real regions of each image.
        dtype: float32, or float16 for half the memory (scores then move by about 1e-4 a word).
    """
    side = _region_side(regions, region_len)
    return pack(np.asarray(side.x), np.asarray(side.real), dtype)


def pack_words(tokens: Any, caption_len: Any, dtype: Any = np.float32) -> Packed:
    """Normalises and packs the words that take part (`similarity.word_side`: no `[CLS]`, `[SEP]`, last word piece).

    Args:
        tokens: [c, w, d] backbone outputs of captions.
        caption_len: [c] real tokens of each caption.
        dtype: as in `pack_regions`.
    """
    side = _word_side(tokens, caption_len)
    return pack(np.asarray(side.x), np.asarray(side.real), dtype)


def pack(x: Float[np.ndarray, "n k d"], real: Bool[np.ndarray, "n k"], dtype: Any = np.float32) -> Packed:
    """Leaves out padding."""
    return Packed(x[real].astype(dtype, copy=False), offsets_of(real.sum(axis=1)))


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


_region_side = jax.jit(functools.partial(similarity.region_side, floor="always"))
_word_side = jax.jit(functools.partial(similarity.word_side, floor="always"))
