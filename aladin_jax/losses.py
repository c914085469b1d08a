"""Losses over the scores of a batch, where image k and caption k belong together.

All are functions of a score matrix [images, captions] with the matching pairs on the diagonal. Values are pinned by
tests/golden/unit/expected.npz. Pairs that are `masked` take no part, neither as negatives nor in what is distilled: see
`same_image`. The diagonal is never masked.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

DistillationMode = Literal["listnet", "mse", "ordinal", "contrastive"]
DISTILLATION_MODES: tuple[DistillationMode, ...] = ("listnet", "mse", "ordinal", "contrastive")

LISTNET_TEMPERATURE = 6.0
INITIAL_LOG_SCALE = 2.6592600  # ln(1 / 0.07), as in CLIP
INITIAL_AFFINE = (0.5, 0.5)


def same_image(images: Int[Array, " b"]) -> Bool[Array, "b b"]:
    """What to mask so that no caption is a negative of the image that it describes.

    An image comes twice in a batch with two of its captions, each of which is right for both rows. The original counts
    them as negatives.

    Args:
        images: of the batch's pairs, a number for each image.

    Returns:
        The pairs of one image besides the diagonal.
    """
    return (images[:, None] == images[None, :]) & ~jnp.eye(len(images), dtype=bool)


def hinge_triplet(
    scores: Float[Array, "b b"], margin: float = 0.2, hardest: bool = True, *, masked: Bool[Array, "b b"] | None = None
) -> Float[Array, ""]:
    """Triplet ranking loss of VSE++ (Faghri et al., 2018), both directions, summed over the batch.

    Args:
        scores: all pairs; matching ones on the diagonal.
        margin: by how much a matching pair must beat a negative.
        hardest: count only the worst negative of every row and column, not all of them.
        masked: pairs that are no negatives.
    """
    positive = jnp.diagonal(scores)
    negative = ~jnp.eye(len(scores), dtype=bool)
    if masked is not None:
        negative &= ~masked
    captions = jnp.where(negative, jax.nn.relu(margin + scores - positive[:, None]), 0)
    images = jnp.where(negative, jax.nn.relu(margin + scores - positive[None, :]), 0)
    if hardest:
        return captions.max(1).sum() + images.max(0).sum()
    return captions.sum() + images.sum()


def info_nce(
    scores: Float[Array, "b b"], log_scale: Float[Array, ""] | float, *, masked: Bool[Array, "b b"] | None = None
) -> Float[Array, ""]:
    """Cross entropy of the matching pair among the batch, mean of both directions (CLIP; Radford et al., 2021).

    Args:
        scores: all pairs; matching ones on the diagonal.
        log_scale: learnable logarithm of the inverse temperature; starts at `INITIAL_LOG_SCALE`.
        masked: pairs that are no negatives.
    """
    logits = _unmasked(scores * jnp.exp(log_scale), masked)
    captions = jnp.diagonal(jax.nn.log_softmax(logits, axis=1))
    images = jnp.diagonal(jax.nn.log_softmax(logits, axis=0))
    return -(captions.mean() + images.mean()) / 2


def distillation(
    teacher: Float[Array, "b b"],
    student: Float[Array, "b b"],
    mode: DistillationMode = "listnet",
    *,
    affine: Float[Array, " 2"] | tuple[float, float] = INITIAL_AFFINE,
    margin: float = 0.2,
    threshold: float = 0.1,
    stride: int = 3,
    masked: Bool[Array, "b b"] | None = None,
) -> Float[Array, ""]:
    """Teaches the matching head's scores the ranking of the alignment head's (ALADIN, section 3.3).

    Args:
        teacher: alignment scores; no gradient flows into them.
        student: matching scores.
        mode: `listnet` (Cao et al., 2007; all regimes), `mse`, `ordinal`, `contrastive`.
        affine: `mse` only: learnable (scale, shift) of the student.
        margin: `ordinal` and `contrastive`.
        threshold: `ordinal`: pairs whose better teacher score is lower than this do not count.
        stride: `ordinal`: how far apart in the teacher's order two compared scores are.
        masked: pairs that are not compared.

    Raises:
        ValueError: unknown mode.
    """
    teacher = _unmasked(jax.lax.stop_gradient(teacher), masked)
    masked_columns = None if masked is None else masked.T
    match mode:
        case "listnet":
            rows = _listnet(teacher, _unmasked(student, masked))
            return rows + _listnet(teacher.T, _unmasked(student, masked).T)
        case "mse":
            fitted = student * affine[0] + affine[1]
            if masked is None:
                return jnp.mean(jnp.square(fitted - teacher))
            return jnp.mean(jnp.square(jnp.where(masked, 0, fitted - teacher)), where=~masked)
        case "ordinal":
            rows = _ordinal(teacher, student, margin, threshold, stride)
            return rows + _ordinal(teacher.T, student.T, margin, threshold, stride)
        case "contrastive":
            rows = _contrastive(teacher, student, margin, masked)
            return rows + _contrastive(teacher.T, student.T, margin, masked_columns)
    raise ValueError(f"distillation mode is {mode!r}; choose one of {', '.join(DISTILLATION_MODES)}")


def _unmasked(scores: Array, masked: Array | None) -> Array:
    """Scores of which masked ones are lower than any other, with no weight in a softmax."""
    return scores if masked is None else jnp.where(masked, -jnp.inf, scores)


def _listnet(teacher: Array, student: Array) -> Array:
    target = jax.nn.softmax(teacher, axis=1)
    prediction = jax.nn.softmax(LISTNET_TEMPERATURE * student, axis=1)
    return -jnp.mean(jnp.sum(target * jnp.log(prediction + 1e-10), axis=1))


def _ordinal(teacher: Array, student: Array, margin: float, threshold: float, stride: int) -> Array:
    order = jnp.argsort(teacher, axis=1)
    teacher, student = (jnp.take_along_axis(scores, order, axis=1) for scores in (teacher, student))
    violation = jax.nn.relu(margin + student[:, :-stride] - student[:, stride:])
    counts = (teacher[:, stride:] >= threshold) & (teacher[:, :-stride] > -jnp.inf)  # masked ones come first
    return jnp.sum(violation, where=counts) / jnp.maximum(counts.sum(), 1)


def _contrastive(teacher: Array, student: Array, margin: float, masked: Array | None) -> Array:
    # The original indexes whole columns by each row's hardest negative, so that every row meets the negatives of
    # all rows (its own positive among them); kept, and pinned by `distillation/contrastive`.
    negative = jnp.argmax(jnp.where(jnp.eye(len(teacher), dtype=bool), 0, teacher), axis=1)
    violations = jax.nn.relu(margin + student[:, negative] - jnp.diagonal(student)[:, None])
    return violations.sum() if masked is None else violations.sum(where=~masked[:, negative])
