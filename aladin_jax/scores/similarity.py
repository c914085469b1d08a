"""Scores between images and captions: the one copy that losses, evaluation and search share.

The alignment head compares every region with every word (fine, slow); the matching head compares one vector a side.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aladin_jax.models.matching_head import normalize
from aladin_jax.scores.maxsim import maxsim

Pooling = Literal["MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences"]
Measure = Literal["dot", "cosine", "order"]
Floor = Literal["batch", "always"]

POOLINGS: tuple[Pooling, ...] = ("MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences")
MEASURES: tuple[Measure, ...] = ("dot", "cosine", "order")

# The original pads both sides to 71 positions in evaluation; only the `mean` pooling divides by that.
EVALUATION_REGIONS, EVALUATION_WORDS = 70, 68


class Side(NamedTuple):
    """One side of an alignment: unit vectors of the regions or words that count, and which of them are real.

    Attributes:
        x: [n, k, d] L2-normalised.
        real: [n, k] False at padding.
        shorter: [n] whether the original's array has padding behind this example, whose zeros floor a maximum.
        slots: length of the original's array, the divisor of the `mean` pooling.
    """

    x: Float[Array, "n k d"]
    real: Bool[Array, "n k"]
    shorter: Bool[Array, " n"]
    slots: Int[Array, ""]


def region_side(regions: Float[Array, "i r d"], region_len: Int[Array, " i"], floor: Floor) -> Side:
    """Regions that take part in alignment: all but position 0, whose output is the matching head's."""
    return _side(regions[:, 1:], region_len - 1, floor, EVALUATION_REGIONS)


def word_side(tokens: Float[Array, "c w d"], caption_len: Int[Array, " c"], floor: Floor) -> Side:
    """Words that take part: without `[CLS]`, `[SEP]` and, a quirk of the original, the last word piece."""
    return _side(tokens[:, 1:-2], caption_len - 3, floor, EVALUATION_WORDS)


def _side(x: Array, length: Array, floor: Floor, evaluation_slots: int) -> Side:
    if floor not in ("batch", "always"):
        raise ValueError(f"floor is {floor!r}; choose 'batch' (training) or 'always' (evaluation)")
    longest = jnp.max(length)
    if floor == "batch":
        shorter, slots = length < longest, longest
    else:
        shorter, slots = jnp.ones_like(length, bool), jnp.asarray(evaluation_slots)
    return Side(normalize(x), jnp.arange(x.shape[1]) < length[:, None], shorter, slots)


def alignment_scores(
    regions: Float[Array, "i r d"],
    region_len: Int[Array, " i"],
    tokens: Float[Array, "c w d"],
    caption_len: Int[Array, " c"],
    *,
    pooling: Pooling = "MrSw",
    floor: Floor = "batch",
) -> Float[Array, "i c"]:
    """Fine-grained scores of all pairs (ALADIN, section 3; values pinned by `alignment/*` of the golden data).

    Args:
        regions: backbone outputs at regions, position 0 included; they are L2-normalised here.
        region_len: real regions of each image.
        tokens: backbone outputs of captions, `[CLS]` and `[SEP]` included.
        caption_len: real tokens of each caption.
        pooling: how region-word similarities become a score. `MrSw` (all regimes): maximum over regions, sum over
            words.
        floor: similarities at padding count as 0, so a maximum over an example with padding behind it cannot fall
            below 0. "batch": examples shorter than the batch's longest (training); "always": every example, as in
            the original's evaluation, where all are padded to 71.

    Raises:
        ValueError: unknown pooling or floor.
    """
    sides = region_side(regions, region_len, floor), word_side(tokens, caption_len, floor)
    return alignment_scores_of_sides(*sides, pooling=pooling)


def alignment_scores_of_sides(images: Side, captions: Side, *, pooling: Pooling = "MrSw") -> Float[Array, "i c"]:
    """Scores of all pairs: the same function as `alignment_scores`, from its two sides."""
    match pooling:
        case "MrSw":
            return _sum_of_best(images, captions)
        case "MrAVGw":
            return _sum_of_best(images, captions) / jnp.maximum(captions.real.sum(-1), 1)
        case "MwSr":
            return _sum_of_best(captions, images).T
        case "symm":
            return _sum_of_best(images, captions) + _sum_of_best(captions, images).T
    (i, r, d), (c, w, _) = images.x.shape, captions.x.shape
    # One GEMM over all regions and words; batched small products are several times slower.
    similarity = jnp.matmul(
        images.x.reshape(i * r, d), captions.x.reshape(c * w, d).T, preferred_element_type=jnp.float32
    )
    real = images.real[:, None, :, None] & captions.real[:, None, :]
    similarity = jnp.where(real, similarity.reshape(i, r, c, w).swapaxes(1, 2), 0)  # [i, c, r, w]
    match pooling:
        case "sum":
            return similarity.sum((2, 3))
        case "mean":
            return similarity.sum((2, 3)) / (images.slots * captions.slots)
        case "scan-sentences":
            return _attended_sentence(similarity, real, images, captions)
    raise ValueError(f"pooling is {pooling!r}; choose one of {', '.join(POOLINGS)}")


def _sum_of_best(searched: Side, queries: Side) -> Float[Array, "s q"]:
    floored = searched.shorter | ~searched.real.any(-1)
    return maxsim(searched.x, searched.real, floored, queries.x, queries.real)


def _attended_sentence(
    similarity: Float[Array, "i c r w"], real: Bool[Array, "i c r w"], images: Side, captions: Side
) -> Float[Array, "i c"]:
    """SCAN's image-to-text attention: each region against the mix of words that it attends to (Lee et al., 2018)."""
    attention = jnp.maximum(similarity, 0).swapaxes(2, 3)
    attention = normalize(attention).swapaxes(2, 3)  # each word's weights have unit norm over the regions
    attention = jnp.where(real, jnp.exp(attention), 0)
    attention = attention / jnp.maximum(attention.sum(-1, keepdims=True), 1e-12)
    sentence = normalize(jnp.matmul(attention, captions.x))
    return jnp.sum(images.x[:, None] * sentence, axis=(2, 3), where=images.real[:, None, :, None])


def matching_scores(
    images: Float[Array, "i d"], captions: Float[Array, "c d"], *, measure: Measure = "dot"
) -> Float[Array, "i c"]:
    """Scores of all pairs from one vector a side (pinned by `matching/*` of the golden data).

    Args:
        images: matching vectors of images.
        captions: matching vectors of captions.
        measure: `dot`, `cosine`, or `order` (minus the norm of what the caption exceeds the image by; Vendrov et
            al., 2016).

    Raises:
        ValueError: unknown measure.
    """
    match measure:
        case "dot":
            return jnp.matmul(images, captions.T, preferred_element_type=jnp.float32)
        case "cosine":
            return jnp.matmul(normalize(images), normalize(captions).T, preferred_element_type=jnp.float32)
        case "order":
            return _order_scores(images, captions)
    raise ValueError(f"measure is {measure!r}; choose one of {', '.join(MEASURES)}")


@functools.partial(jax.vmap, in_axes=(0, None))
def _order_scores(image: Float[Array, " d"], captions: Float[Array, "c d"]) -> Float[Array, " c"]:
    square = jnp.square(jnp.maximum(captions - image, 0)).sum(-1)
    positive = square > 0
    return jnp.where(positive, -jnp.sqrt(jnp.where(positive, square, 1)), 0)  # sqrt has no gradient at 0
