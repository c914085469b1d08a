"""MaxSim: for every word its best region, summed over the words of a caption, for all pairs (ALADIN, section 3.1).

Only real words enter the matrix product: they are brought together first, and a loop over chunks of them stops after
the last. For the backward pass the index of the best region is kept, not the similarities, so that memory grows with
images x words, not with images x words x regions; nothing is scattered, so gradients do not depend on the order of
threads.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Words in a chunk: few, so that little is lost on the last chunk, until the matrix is large enough anyway.
SMALL_CHUNK, LARGE_CHUNK, LARGE_FROM = 128, 512, 2**14


class _Words(NamedTuple):
    """Real words brought together.

    Attributes:
        slots: [n] padded slot (caption * w + position) of each; a multiple of `chunk`, arbitrary past `count`.
        place: [c, w] the other way round; arbitrary at padding.
        count: how many there are.
        chunk: how many are taken at a time.
    """

    slots: Int[Array, " n"]
    place: Int[Array, "c w"]
    count: Int[Array, ""]
    chunk: int


@jax.custom_vjp
def maxsim(
    regions: Float[Array, "i r d"],
    is_region: Bool[Array, "i r"],
    floored: Bool[Array, " i"],
    words: Float[Array, "c w d"],
    is_word: Bool[Array, "c w"],
) -> Float[Array, "i c"]:
    """Sums over words the largest dot product with a region.

    Args:
        regions: of each image.
        is_region: False at padding.
        floored: images whose maximum is at least 0; those without any region must be.
        words: of each caption.
        is_word: False at padding.

    Returns:
        Scores. Where two regions are equally good, the first gets the gradient.
    """
    return _forward(regions, is_region, floored, words, is_word)[0]


def _forward(regions, is_region, floored, words, is_word):
    packed = _bring_together(is_word)
    (i, r, d), flat_words = regions.shape, words.reshape(-1, words.shape[-1])

    def chunk(k, carry):
        best, best_region = carry
        similarity = jnp.matmul(
            _chunk_of(flat_words, packed, k), regions.reshape(i * r, d).T, preferred_element_type=jnp.float32
        )
        similarity = jnp.where(is_region, similarity.reshape(-1, i, r), -jnp.inf)
        largest = similarity.max(axis=-1)
        # Two plain reductions: argmax, which carries pairs, is several times slower on CPUs.
        index = jnp.where(similarity == largest[..., None], jnp.arange(r, dtype=jnp.int16), r).min(axis=-1)
        at_floor = floored & (largest < 0)
        return (
            _update(best, jnp.where(at_floor, 0, largest), packed, k),
            _update(best_region, jnp.where(at_floor, r, index).astype(jnp.int16), packed, k),  # r: no gradient
        )

    shape = (packed.slots.size, i)
    best, best_region = _over_chunks(packed, chunk, (jnp.zeros(shape), jnp.zeros(shape, jnp.int16)))
    scores = jnp.where(is_word[..., None], best[packed.place], 0).sum(axis=1).T
    return scores, (regions, words, is_word, best_region)


def _backward(residuals, grad: Float[Array, "i c"]):
    regions, words, is_word, best_region = residuals
    packed = _bring_together(is_word)
    (i, r, d), flat_words = regions.shape, words.reshape(-1, words.shape[-1])

    def chunk(k, carry):
        grad_regions, grad_words = carry
        first = k * packed.chunk
        caption = _slice(packed.slots, packed, k) // words.shape[1]
        is_real = first + jnp.arange(packed.chunk) < packed.count
        # The gradient of a similarity: that of its pair where the region is the word's best, else 0.
        sparse = jnp.where(
            _slice(best_region, packed, k)[..., None] == jnp.arange(r, dtype=jnp.int16),
            jnp.where(is_real[:, None], grad.T[caption], 0)[..., None],
            0,
        ).reshape(-1, i * r)
        return (
            grad_regions + jnp.matmul(sparse.T, _chunk_of(flat_words, packed, k)),
            _update(grad_words, jnp.matmul(sparse, regions.reshape(i * r, d)), packed, k),
        )

    zeros = jnp.zeros((i * r, d), regions.dtype), jnp.zeros((packed.slots.size, d), words.dtype)
    grad_regions, grad_words = _over_chunks(packed, chunk, zeros)
    return (
        grad_regions.reshape(regions.shape),
        None,
        None,
        jnp.where(is_word[..., None], grad_words[packed.place], 0),
        None,
    )


maxsim.defvjp(_forward, _backward)


def _bring_together(is_word: Bool[Array, "c w"]) -> _Words:
    flat = is_word.reshape(-1)
    chunk = LARGE_CHUNK if flat.size >= LARGE_FROM else SMALL_CHUNK
    slots = jnp.argsort(~flat, stable=True)
    place = jnp.maximum(jnp.cumsum(flat) - 1, 0)
    return _Words(jnp.pad(slots, (0, -flat.size % chunk)), place.reshape(is_word.shape), flat.sum(), chunk)


def _over_chunks(packed: _Words, body, carry):
    return jax.lax.fori_loop(0, (packed.count + packed.chunk - 1) // packed.chunk, body, carry)


def _slice(array: Array, packed: _Words, k: Array) -> Array:
    return jax.lax.dynamic_slice_in_dim(array, k * packed.chunk, packed.chunk)


def _update(array: Array, part: Array, packed: _Words, k: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(array, part, k * packed.chunk, 0)


def _chunk_of(flat_words: Float[Array, "s d"], packed: _Words, k: Array) -> Float[Array, "n d"]:
    return flat_words.at[_slice(packed.slots, packed, k)].get(mode="promise_in_bounds")
