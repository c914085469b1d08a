"""MaxSim: for every word its best region, summed over the words of a caption, for all pairs (ALADIN, section 3.1).

`best_region` is the one kernel: scores of a large collection, of a query's candidates and their explanation are made
of it, and so is `maxsim`, which the training losses differentiate.

In `maxsim`, only real words enter the matrix products: they are brought together first, and a loop over chunks of them
stops after the last. Where only the device knows how many there are, its host waits to be told whether the loop goes
on: on GPUs the caller, who has counted them, says how many to make room for.

For the backward pass the index of the best region is kept, not the similarities, so that memory grows with images x
words, not with images x words x regions; nothing is scattered, so gradients do not depend on the order of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int16

from aladin_jax import precision

# Words in a chunk. On CPUs few, so that little is lost on the last chunk, until the matrix is large enough anyway; on
# accelerators so many that one or two products do it all: 140 MB of similarities with 256 images.
SMALL_CHUNK, LARGE_CHUNK, LARGE_FROM, ACCELERATOR_CHUNK = 128, 512, 2**14, 4096


def best_region(
    words: Float[Array, "w d"],
    regions: Float[Array, "a b d"],
    is_region: Bool[Array, "a b"] | None = None,
    *,
    region_axis: int,
) -> tuple[Float[Array, "w i"], Int16[Array, "w i"]]:
    """The largest dot product of every word with a region of every image, and the first region that has it.

    Args:
        words: of any captions, end to end.
        regions: [i, r, d], or [r, i, d], where CPUs find the maximum sooner.
        is_region: False at regions that take no part; minus infinity is an image's value where none does. Without it,
            all do: a zero vector as padding is a floor of 0.
        region_axis: where r stands.

    Returns:
        float32 values, whatever the format of the vectors, and the place of the best region.
    """
    similarity = dot(words, regions)
    if is_region is not None:
        similarity = jnp.where(is_region, similarity, -jnp.inf)
    axis, count = 1 + region_axis, regions.shape[region_axis]
    value = similarity.max(axis=axis, keepdims=True)
    # Two plain reductions: argmax, which carries pairs, is several times slower on CPUs.
    place = jnp.expand_dims(jnp.arange(count, dtype=jnp.int16), 1 - region_axis)
    region = jnp.where(similarity == value, place, count).min(axis=axis).astype(jnp.int16)
    return value.squeeze(axis), region


def dot(x: Float[Array, "*m d"], y: Float[Array, "*n d"]) -> Float[Array, "*m *n"]:
    """Dot products of all vectors of one array with all of another: float32, whatever the format of the vectors."""
    return _product(x, y, ((x.ndim - 1,), (y.ndim - 1,)))


def _product(x: Array, y: Array, axes: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    return jnp.tensordot(x, y, axes=axes, precision=precision.of(x.dtype), preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def maxsim(
    regions: Float[Array, "i r d"],
    is_region: Bool[Array, "i r"],
    floored: Bool[Array, " i"],
    words: Float[Array, "c w d"],
    is_word: Bool[Array, "c w"],
    room: int | None = None,
) -> Float[Array, "i c"]:
    """Sums over words the largest dot product with a region.

    Args:
        regions: of each image.
        is_region: False at padding.
        floored: images whose maximum is at least 0; that of an image without any region is 0 either way.
        words: of each caption, in the same number format as the regions: products are computed in it.
        is_word: False at padding.
        room: real words that there are at most, if the caller knows; all scores are NaN if there are more.

    Returns:
        float32 scores. Where two regions are equally good, the first gets the gradient.
    """
    return _forward(regions, is_region, floored, words, is_word, room)[0]


class _Words(NamedTuple):
    """Real words brought together.

    Attributes:
        slots: [n] padded slot (caption * w + position) of each; a multiple of `chunk`, arbitrary past `count`.
        place: [c, w] the other way round; arbitrary at padding.
        count: how many there are.
        chunk: how many are taken at a time.
        chunks: how often.
    """

    slots: Int[Array, " n"]
    place: Int[Array, "c w"]
    count: Int[Array, ""]
    chunk: int
    chunks: Int[Array, ""] | int


class _Residuals(NamedTuple):
    """What the backward pass needs: `best[n, i]` is the region that a word's value came from, r if the floor did."""

    regions: Float[Array, "i r d"]
    words: Float[Array, "c w d"]
    is_word: Bool[Array, "c w"]
    best: Int16[Array, "n i"]


def _forward(
    regions: Float[Array, "i r d"],
    is_region: Bool[Array, "i r"],
    floored: Bool[Array, " i"],
    words: Float[Array, "c w d"],
    is_word: Bool[Array, "c w"],
    room: int | None,
) -> tuple[Float[Array, "i c"], _Residuals]:
    (i, r, _), real, flat_words = regions.shape, _bring_together(is_word, room), words.reshape(-1, words.shape[-1])
    floored = floored | ~is_region.any(axis=1)

    def chunk(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        value, region = best_region(_chunk_of(flat_words, real, k), regions, is_region, region_axis=1)
        at_floor = floored & (value < 0)
        value, region = jnp.where(at_floor, 0, value), jnp.where(at_floor, r, region).astype(jnp.int16)
        return _update(carry[0], value, real, k), _update(carry[1], region, real, k)

    shape = (real.slots.size, i)
    values, best = _over_chunks(real, chunk, (jnp.zeros(shape), jnp.zeros(shape, jnp.int16)))
    scores = jnp.where(is_word[..., None], values[real.place], 0).sum(axis=1).T
    if room is not None:  # losing words must not pass unnoticed
        scores = jnp.where(real.count > room, jnp.nan, scores)
    return scores, _Residuals(regions, words, is_word, best)


def _backward(
    room: int | None, residuals: _Residuals, grad: Float[Array, "i c"]
) -> tuple[Array, None, None, Array, None]:
    regions, words, is_word, best = residuals
    real, flat_words = _bring_together(is_word, room), words.reshape(-1, words.shape[-1])
    place = jnp.arange(regions.shape[1], dtype=jnp.int16)

    def chunk(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        caption = _slice(real.slots, real, k) // words.shape[1]
        is_real = k * real.chunk + jnp.arange(real.chunk) < real.count
        # The gradient of a similarity: that of its pair where the region is the word's best, else 0.
        of_pair = jnp.where(is_real[:, None], grad.T[caption], 0).astype(words.dtype)
        of_similarity = jnp.where(_slice(best, real, k)[..., None] == place, of_pair[..., None], 0)  # [n, i, r]
        of_regions = _product(of_similarity, _chunk_of(flat_words, real, k), ((0,), (0,)))
        of_words = _product(of_similarity, regions, ((1, 2), (0, 1)))
        return carry[0] + of_regions, _update(carry[1], of_words, real, k)

    zeros = jnp.zeros(regions.shape), jnp.zeros((real.slots.size, words.shape[-1]))
    grad_regions, grad_words = _over_chunks(real, chunk, zeros)
    grad_words = jnp.where(is_word[..., None], grad_words[real.place], 0)
    return grad_regions.astype(regions.dtype), None, None, grad_words.astype(words.dtype), None


maxsim.defvjp(_forward, _backward)


def _bring_together(is_word: Bool[Array, "c w"], room: int | None) -> _Words:
    flat = is_word.reshape(-1)
    size = flat.size if room is None else min(room, flat.size)
    if jax.default_backend() == "cpu":
        chunk = LARGE_CHUNK if flat.size >= LARGE_FROM else SMALL_CHUNK
    else:
        chunk = ACCELERATOR_CHUNK
    chunk, count = min(chunk, size), flat.sum()
    slots = jnp.pad(jnp.argsort(~flat, stable=True)[:size], (0, -size % chunk))
    place = jnp.maximum(jnp.cumsum(flat) - 1, 0)
    chunks = (count + chunk - 1) // chunk if room is None else slots.size // chunk
    return _Words(slots, place.reshape(is_word.shape), count, chunk, chunks)


def _over_chunks(real: _Words, body: Callable[[Array, Any], Any], carry: Any) -> Any:
    if real.slots.size == real.chunk:
        return body(jnp.zeros((), jnp.int32), carry)
    return jax.lax.fori_loop(0, real.chunks, body, carry)


def _slice(array: Array, real: _Words, k: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, k * real.chunk, real.chunk)


def _update(array: Array, part: Array, real: _Words, k: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, k * real.chunk, 0)


def _chunk_of(flat_words: Float[Array, "s d"], real: _Words, k: Array) -> Float[Array, "n d"]:
    return flat_words.at[_slice(real.slots, real, k)].get(mode="promise_in_bounds")
