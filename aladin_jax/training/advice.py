"""What is said before a run begins: starts that are allowed, and that a night would be lost to."""

from __future__ import annotations

from absl import logging

from aladin_jax.config import Config
from aladin_jax.lineage import Lineage, untrained_heads
from aladin_jax.training.objective import Objective


def warn_of_start(config: Config, objective: Objective, lineage: Lineage) -> None:
    """Warns where the weights that a run starts from cannot teach what its losses ask for.

    Args:
        config: of the run.
        objective: of the run.
        lineage: of the weights.
    """
    learns_alignment = "alignment" in objective.losses and "backbone" not in config.frozen
    if "distillation" in objective.losses and not learns_alignment and "alignment" in untrained_heads(lineage):
        logging.warning(
            "The alignment head teaches here, but was never trained (%s): the matching head will learn nothing of use; "
            "set init_from to a run of configs/alignment_triplet.py, or to a converted ALADIN checkpoint",
            "; ".join(stage.told for stage in lineage),
        )
    ranked = {"alignment", "matching"} & set(objective.losses)
    random = not (config.init_from or config.resume_from)
    if random and ranked and config.ranking_loss == "hinge" and config.hardest and not config.hardest_after:
        logging.warning(
            "The hardest negatives teach random weights nothing: all scores are alike, and the loss stays where it is; "
            "set --config.hardest_after=STEPS to begin with all negatives, or init_from"
        )
