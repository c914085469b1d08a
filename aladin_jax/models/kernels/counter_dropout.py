"""Dropout without a stored mask: whether an entry is kept is a hash of the key, its token and its column.

The backward pass computes the hash again. A token is known by its place in the batch (example and slot), not by its
place in a flat array, so that masks depend neither on packing nor on the number of devices.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt32

_GOLDEN_RATIO = 0x9E3779B9  # odd, and far from any simple fraction of 2**32: neighbouring counters fall far apart


def mix(h: UInt32[Array, "*s"]) -> UInt32[Array, "*s"]:
    """MurmurHash3's finaliser: every bit of the input moves every bit of the output."""
    h = _mix_upper(h)
    return h ^ (h >> 16)


def _mix_upper(h: UInt32[Array, "*s"]) -> UInt32[Array, "*s"]:
    """All of the finaliser but its last line, which leaves the upper half as it is."""
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    return (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)


def row_seeds(tokens: UInt32[Array, ...], key0: UInt32[Array, ""], key1: UInt32[Array, ""]) -> UInt32[Array, ...]:
    """A hash of each token under a key of two words."""
    return mix(mix(tokens ^ key0) + key1)


def kept(seeds: UInt32[Array, ...], columns: UInt32[Array, ...], rate: float) -> Bool[Array, ...]:
    """Whether an entry is kept; it is dropped with probability `rate` (to 1 in 65,536). The arguments broadcast."""
    words = _mix_upper(seeds + columns * jnp.uint32(_GOLDEN_RATIO))  # the upper bits alone decide
    return (words >> 16) >= jnp.uint32(round(rate * 2**16))


def key_words(key: Array | None) -> UInt32[Array, " 2"]:
    """The two words of a random key; zeros where there is no dropout."""
    return jnp.zeros(2, jnp.uint32) if key is None else jax.random.key_data(key)


def counter_dropout(x: Float[Array, "*r d"], rate: float, key: Array | None) -> Float[Array, "*r d"]:
    """Dropout of an array whose rows are tokens in their own places; None as key leaves it alone."""
    if key is None or rate == 0:
        return x
    words = key_words(key)
    rows = jax.lax.iota(jnp.uint32, math.prod(x.shape[:-1])).reshape(x.shape[:-1])
    seeds = row_seeds(rows, words[0], words[1])
    keep = kept(seeds[..., None], jax.lax.iota(jnp.uint32, x.shape[-1]), rate)
    return jnp.where(keep, x * (1 / (1 - rate)), 0).astype(x.dtype)
