"""What a regime minimises: which losses, with which weights, and which parameters they move.

A regime is data: an `Objective` and a set of frozen parameter groups, nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from aladin_jax import losses
from aladin_jax.models.aladin import CaptionEmbeddings, ImageEmbeddings, Params
from aladin_jax.scores import similarity

RankingLoss = Literal["hinge", "info_nce"]
LOSS_NAMES = ("alignment", "matching", "distillation")
INITIAL_LOG_VARIANCE = -2.3


@dataclasses.dataclass(frozen=True)
class Objective:
    """Losses of a regime (table in docs/original.md); a weight of 0 leaves a loss out.

    Attributes:
        alignment: weight of the ranking loss on alignment scores.
        matching: weight of the ranking loss on matching scores.
        distillation: weight of the distillation loss, alignment scores teaching matching scores.
        learned_weights: learn the weights instead (Kendall et al., 2018): 0.5 * sum(loss * exp(-s) + s). In the
            original s was never registered with the optimizer and stayed at its start; here it moves.
        ranking_loss: `hinge` (triplets) or `info_nce`.
        margin: of the hinge, and of the distillation modes that have one.
        hardest: hinge on the hardest negatives only.
        hardest_after: steps with all negatives before that, for weights that cannot tell pairs apart yet.
        mask_same_image: other captions of a pair's image, and their images, are none of its negatives.
        pooling: of alignment scores, see `similarity.alignment_scores`.
        measure: of matching scores, see `similarity.matching_scores`.
        distillation_mode: see `losses.distillation`.
        activate_distillation_after: epochs before the distillation loss joins in.
    """

    alignment: float = 0.0
    matching: float = 0.0
    distillation: float = 0.0
    learned_weights: bool = False
    ranking_loss: RankingLoss = "hinge"
    margin: float = 0.2
    hardest: bool = True
    hardest_after: int = 0
    mask_same_image: bool = False
    pooling: similarity.Pooling = "MrSw"
    measure: similarity.Measure = "dot"
    distillation_mode: losses.DistillationMode = "listnet"
    activate_distillation_after: int = 0

    @property
    def losses(self) -> tuple[str, ...]:
        """Names of the losses with a weight."""
        return tuple(name for name in LOSS_NAMES if getattr(self, name) > 0)

    def active_in(self, epoch: int) -> tuple[str, ...]:
        """Names of the losses that act in an epoch, counted from 0."""
        waits = epoch < self.activate_distillation_after
        return tuple(name for name in self.losses if not (waits and name == "distillation"))

    def init_params(self) -> Params:
        """The losses' own learnable scalars, a group per loss that has any: {"alignment_loss": {...}, ...}."""
        groups: Params = {}
        for name in self.losses:
            group = {}
            if self.learned_weights:
                group["log_variance"] = jnp.asarray(INITIAL_LOG_VARIANCE)
            if name == "distillation" and self.distillation_mode == "mse":
                group["affine"] = jnp.asarray(losses.INITIAL_AFFINE)
            if name != "distillation" and self.ranking_loss == "info_nce":
                group["log_scale"] = jnp.asarray(losses.INITIAL_LOG_SCALE)
            if group:
                groups[f"{name}_loss"] = group
        return groups

    def trained_groups(self, active: Iterable[str], frozen: Iterable[str]) -> tuple[str, ...]:
        """The parameter groups that receive a gradient while the losses `active` are."""
        active = [name for name in self.losses if name in active]
        groups = ["backbone"]
        if active != ["alignment"]:
            groups.append("matching_head")
        groups += [f"{name}_loss" for name in active if f"{name}_loss" in self.init_params()]
        return tuple(group for group in groups if group not in set(frozen))

    def __call__(
        self,
        images: ImageEmbeddings,
        captions: CaptionEmbeddings,
        params: Params,
        active: Iterable[str],
        *,
        step: Int[Array, ""] | int = 0,
        numbers: Int[Array, " b"] | None = None,
        words: int | None = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Computes the total loss of a batch and its parts.

        Args:
            images: of the batch.
            captions: of the batch; caption k belongs to image k.
            params: all parameter groups; only the losses' own are read.
            active: names of the losses to compute.
            step: that this is, from 0, for `hardest_after`.
            numbers: which image each pair is of: those of one image are masked. None masks nothing.
            words: that take part in alignment at most, if the caller knows: see `maxsim.maxsim`.

        Returns:
            The weighted sum, and the unweighted losses by name.
        """
        active = [name for name in self.losses if name in active]
        masked = None if numbers is None else losses.same_image(numbers)
        parts: dict[str, Array] = {}
        teacher = similarity.alignment_scores(
            images.regions, images.region_len, captions.tokens, captions.caption_len, pooling=self.pooling, room=words
        )
        student = similarity.matching_scores(images.vector, captions.vector, measure=self.measure)
        if "alignment" in active:
            parts["alignment"] = self._ranking(teacher, params.get("alignment_loss", {}), step, masked)
        if "matching" in active:
            parts["matching"] = self._ranking(student, params.get("matching_loss", {}), step, masked)
        if "distillation" in active:
            affine = params.get("distillation_loss", {}).get("affine", losses.INITIAL_AFFINE)
            parts["distillation"] = losses.distillation(
                teacher, student, self.distillation_mode, affine=affine, margin=self.margin, masked=masked
            )
        return self._total(parts, params), parts

    def _ranking(self, scores: Array, params: Params, step: Array | int, masked: Array | None) -> Array:
        if self.ranking_loss == "info_nce":
            return losses.info_nce(scores, params.get("log_scale", losses.INITIAL_LOG_SCALE), masked=masked)
        loss = losses.hinge_triplet(scores, self.margin, self.hardest, masked=masked)
        if not self.hardest_after:
            return loss
        of_all = losses.hinge_triplet(scores, self.margin, hardest=False, masked=masked)
        return jnp.where(step < self.hardest_after, of_all, loss)

    def _total(self, parts: dict[str, Array], params: Params) -> Array:
        if not self.learned_weights:
            return sum((getattr(self, name) * loss for name, loss in parts.items()), start=jnp.zeros(()))
        total = jnp.zeros(())
        for name, loss in parts.items():
            log_variance = params[f"{name}_loss"]["log_variance"]
            total += 0.5 * (loss * jnp.exp(-log_variance) + log_variance)
        return total
