"""Losses over the scores of a batch, where image k and caption k belong together.

All are functions of a score matrix [images, captions] with the matching pairs on the diagonal. Values are pinned by
tests/golden/unit/expected.npz.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

DistillationMode = Literal["listnet", "mse", "ordinal", "contrastive"]
DISTILLATION_MODES: tuple[DistillationMode, ...] = ("listnet", "mse", "ordinal", "contrastive")

LISTNET_TEMPERATURE = 6.0
INITIAL_LOG_SCALE = 2.6592600  # ln(1 / 0.07), as in CLIP
INITIAL_AFFINE = (0.5, 0.5)


def hinge_triplet(scores: Float[Array, "b b"], margin: float = 0.2, hardest: bool = True) -> Float[Array, ""]:
    """Triplet ranking loss of VSE++ (Faghri et al., 2018), both directions, summed over the batch.

    Args:
        scores: all pairs; matching ones on the diagonal.
        margin: by how much a matching pair must beat a negative.
        hardest: count only the worst negative of every row and column, not all of them.
    """
    positive = jnp.diagonal(scores)
    off_diagonal = ~jnp.eye(len(scores), dtype=bool)
    captions = jnp.where(off_diagonal, jax.nn.relu(margin + scores - positive[:, None]), 0)
    images = jnp.where(off_diagonal, jax.nn.relu(margin + scores - positive[None, :]), 0)
    if hardest:
        return captions.max(1).sum() + images.max(0).sum()
    return captions.sum() + images.sum()


def info_nce(scores: Float[Array, "b b"], log_scale: Float[Array, ""] | float) -> Float[Array, ""]:
    """Cross entropy of the matching pair among the batch, mean of both directions (CLIP; Radford et al., 2021).

    Args:
        scores: all pairs; matching ones on the diagonal.
        log_scale: learnable logarithm of the inverse temperature; starts at `INITIAL_LOG_SCALE`.
    """
    logits = scores * jnp.exp(log_scale)
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

    Raises:
        ValueError: unknown mode.
    """
    teacher = jax.lax.stop_gradient(teacher)
    match mode:
        case "listnet":
            return _listnet(teacher, student) + _listnet(teacher.T, student.T)
        case "mse":
            return jnp.mean(jnp.square(student * affine[0] + affine[1] - teacher))
        case "ordinal":
            rows = _ordinal(teacher, student, margin, threshold, stride)
            return rows + _ordinal(teacher.T, student.T, margin, threshold, stride)
        case "contrastive":
            return _contrastive(teacher, student, margin) + _contrastive(teacher.T, student.T, margin)
    raise ValueError(f"distillation mode is {mode!r}; choose one of {', '.join(DISTILLATION_MODES)}")


def _listnet(teacher: Array, student: Array) -> Array:
    target = jax.nn.softmax(teacher, axis=1)
    prediction = jax.nn.softmax(LISTNET_TEMPERATURE * student, axis=1)
    return -jnp.mean(jnp.sum(target * jnp.log(prediction + 1e-10), axis=1))


def _ordinal(teacher: Array, student: Array, margin: float, threshold: float, stride: int) -> Array:
    order = jnp.argsort(teacher, axis=1)
    teacher, student = (jnp.take_along_axis(scores, order, axis=1) for scores in (teacher, student))
    violation = jax.nn.relu(margin + student[:, :-stride] - student[:, stride:])
    counts = teacher[:, stride:] >= threshold
    return jnp.sum(violation, where=counts) / jnp.maximum(counts.sum(), 1)


def _contrastive(teacher: Array, student: Array, margin: float) -> Array:
    # The original indexes whole columns by each row's hardest negative, so that every row meets the negatives of
    # all rows (its own positive among them); kept, and pinned by `distillation/contrastive`.
    negative = jnp.argmax(jnp.where(jnp.eye(len(teacher), dtype=bool), 0, teacher), axis=1)
    return jax.nn.relu(margin + student[:, negative] - jnp.diagonal(student)[:, None]).sum()
