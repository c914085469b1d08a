"""Scores between images and captions: the one copy that losses, evaluation and search share.

The alignment head compares every region with every word (fine, slow); the matching head compares one vector a side.
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aladin_jax import precision
from aladin_jax.models.matching_head import normalize
from aladin_jax.scores.maxsim import dot, maxsim

Pooling = Literal["MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences"]
Measure = Literal["dot", "cosine", "order"]
Floor = Literal["batch", "always"]

POOLINGS: tuple[Pooling, ...] = ("MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences")
MEASURES: tuple[Measure, ...] = ("dot", "cosine", "order")

# The original pads both sides to 71 positions in evaluation; only the `mean` pooling divides by that.
EVALUATION_REGIONS, EVALUATION_WORDS = 70, 68
LEFT_OUT = 3  # tokens of a caption


class Padded(NamedTuple):
    """Unit vectors of images' regions or captions' words that take part in alignment, padded to one length.

    Attributes:
        x: [n, k, d] L2-normalised.
        real: [n, k] False at padding, which stands behind what is real.
        shorter: [n] whether the original's array has padding behind this example, whose zeros floor a maximum.
        slots: length of the original's array, the divisor of the `mean` pooling.
    """

    x: Float[Array, "n k d"]
    real: Bool[Array, "n k"]
    shorter: Bool[Array, " n"]
    slots: Int[Array, ""]


def region_side(regions: Float[Array, "i r d"], region_len: Int[Array, " i"], floor: Floor) -> Padded:
    """Regions that take part in alignment: all but position 0, whose output is the matching head's."""
    return _padded(regions[:, 1:], region_len - 1, floor, EVALUATION_REGIONS)


def word_side(tokens: Float[Array, "c w d"], caption_len: Int[Array, " c"], floor: Floor) -> Padded:
    """Words that take part: without `[CLS]`, `[SEP]` and, a quirk of the original, the last word piece."""
    return _padded(tokens[:, 1:-2], caption_len - LEFT_OUT, floor, EVALUATION_WORDS)


def _padded(x: Array, length: Array, floor: Floor, evaluation_slots: int) -> Padded:
    if floor not in ("batch", "always"):
        raise ValueError(f"floor is {floor!r}; choose 'batch' (training) or 'always' (evaluation)")
    longest = jnp.max(length)
    if floor == "batch":
        shorter, slots = length < longest, longest
    else:
        shorter, slots = jnp.ones_like(length, bool), jnp.asarray(evaluation_slots)
    unit = normalize(x.astype(jnp.float32)).astype(x.dtype)
    return Padded(unit, jnp.arange(x.shape[1]) < length[:, None], shorter, slots)


def as_in_evaluation(x: Float[Array, "n k d"], real: Bool[Array, "n k"], slots: int) -> Padded:
    """Unit vectors as the original's evaluation pads them: to `EVALUATION_REGIONS` or `EVALUATION_WORDS`."""
    return Padded(x, real, jnp.ones(len(x), bool), jnp.asarray(slots))


def alignment_scores(
    regions: Float[Array, "i r d"],
    region_len: Int[Array, " i"],
    tokens: Float[Array, "c w d"],
    caption_len: Int[Array, " c"],
    *,
    pooling: Pooling = "MrSw",
    floor: Floor = "batch",
    room: int | None = None,
) -> Float[Array, "i c"]:
    """Fine-grained scores of all pairs (ALADIN, section 3; values pinned by `alignment/*` of the golden data).

    Args:
        regions: backbone outputs at regions, position 0 included; they are L2-normalised here. Products are computed
            in the number format that they come in, sums in float32.
        region_len: real regions of each image.
        tokens: backbone outputs of captions, `[CLS]` and `[SEP]` included.
        caption_len: real tokens of each caption.
        pooling: how region-word similarities become a score. `MrSw` (all regimes): maximum over regions, sum over
            words.
        floor: similarities at padding count as 0, so a maximum over an example with padding behind it cannot fall
            below 0. "batch": examples shorter than the batch's longest (training); "always": every example, as in
            the original's evaluation, where all are padded to 71.
        room: words that take part at most, all captions together, if the caller knows: see `maxsim`.

    Raises:
        ValueError: unknown pooling or floor.
    """
    sides = region_side(regions, region_len, floor), word_side(tokens, caption_len, floor)
    return pooled_scores(*sides, pooling=pooling, room=room)


def sum_of_best(images: Padded, captions: Padded) -> Float[Array, "i c"]:
    """`S = sum_w max_r a_rw`, as the paper writes it (section 3.1): for every word its best region, summed over words.

    To be read, and to be compared with: it keeps all similarities of all pairs. What runs is `maxsim.maxsim`.
    """
    a = region_word_similarities(images, captions)
    best = jnp.where(images.real[:, None, :, None], a, -jnp.inf).max(axis=2)
    best = jnp.where(_floored(images)[:, None, None], jnp.maximum(best, 0), best)
    return best.sum(axis=2)


def region_word_similarities(images: Padded, captions: Padded) -> Float[Array, "i c r w"]:
    """`a_rw`: the dot product of region r and word w, 0 if either is padding."""
    # One product of all regions and words; many small ones are several times slower.
    a = jnp.swapaxes(dot(images.x, captions.x), 1, 2)
    return jnp.where(images.real[:, None, :, None] & captions.real[:, None, :], a, 0)


def pooled_scores(
    images: Padded, captions: Padded, *, pooling: Pooling = "MrSw", room: int | None = None
) -> Float[Array, "i c"]:
    """Scores of all pairs: the same function as `alignment_scores`, from its two sides."""
    match pooling:
        case "MrSw":
            return _maxsim(images, captions, room)
        case "MrAVGw":
            return _maxsim(images, captions, room) / jnp.maximum(captions.real.sum(-1), 1)
        case "MwSr":
            return _maxsim(captions, images).T
        case "symm":
            return _maxsim(images, captions, room) + _maxsim(captions, images).T
        case "sum":
            return region_word_similarities(images, captions).sum((2, 3))
        case "mean":
            return region_word_similarities(images, captions).sum((2, 3)) / (images.slots * captions.slots)
        case "scan-sentences":
            return _attended_sentence(images, captions)
    raise ValueError(f"pooling is {pooling!r}; choose one of {', '.join(POOLINGS)}")


def _maxsim(searched: Padded, queries: Padded, room: int | None = None) -> Float[Array, "s q"]:
    return maxsim(searched.x, searched.real, _floored(searched), queries.x, queries.real, room)


def _floored(searched: Padded) -> Bool[Array, " n"]:
    return searched.shorter | ~searched.real.any(-1)


def _attended_sentence(images: Padded, captions: Padded) -> Float[Array, "i c"]:
    """SCAN's image-to-text attention: each region against the mix of words that it attends to (Lee et al., 2018)."""
    a = region_word_similarities(images, captions)
    attention = jnp.maximum(a, 0).swapaxes(2, 3)
    attention = normalize(attention).swapaxes(2, 3)  # each word's weights have unit norm over the regions
    real = images.real[:, None, :, None] & captions.real[:, None, :]
    attention = jnp.where(real, jnp.exp(attention), 0)
    attention = attention / jnp.maximum(attention.sum(-1, keepdims=True), 1e-12)
    sentence = normalize(jnp.matmul(attention, captions.x, precision=precision.of(captions.x.dtype)))
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
            return dot(images, captions)
        case "cosine":
            return dot(normalize(images), normalize(captions))
        case "order":
            return _order_scores(images, captions)
    raise ValueError(f"measure is {measure!r}; choose one of {', '.join(MEASURES)}")


@functools.partial(jax.vmap, in_axes=(0, None))
def _order_scores(image: Float[Array, " d"], captions: Float[Array, "c d"]) -> Float[Array, " c"]:
    square = jnp.square(jnp.maximum(captions - image, 0)).sum(-1)
    positive = square > 0
    return jnp.where(positive, -jnp.sqrt(jnp.where(positive, square, 1)), 0)  # sqrt has no gradient at 0
