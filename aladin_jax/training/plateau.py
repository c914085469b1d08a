"""Says once when a hinge on the hardest negatives has stopped teaching."""

from __future__ import annotations

from collections.abc import Mapping

from absl import logging

from aladin_jax.training.objective import Objective

STEPS = 200
TOLERANCE = 0.01
"""How near, relative, a loss has to be to the plateau to sit at it."""


class PlateauWatch:
    """Watches the hinge losses of an objective, step by step.

    Where all embeddings have become one, every score equals every other, each row's and column's hardest negative
    violates by the whole margin, and the loss sits at 2 * margin * pairs. Random weights often end there: the hardest
    negatives of a model that knows nothing push all embeddings together (Wu et al., ICCV 2017).
    """

    def __init__(self, objective: Objective):
        """Watches nothing where no hinge on the hardest negatives acts."""
        watched = objective.hardest and objective.ranking_loss == "hinge"
        self._names = [f"loss_{name}" for name in objective.losses if name != "distillation"] if watched else []
        self._objective = objective
        self._sitting = dict.fromkeys(self._names, 0)

    def look(self, step: int, values: Mapping[str, float], num_pairs: int) -> None:
        """Looks at a step; warns at the end of `STEPS` in a row at the plateau, once.

        Args:
            step: its number, from 1.
            values: its losses, by `loss_<name>`.
            num_pairs: of its batch.
        """
        plateau = 2 * self._objective.margin * num_pairs
        for name in self._names:
            near = name in values and abs(values[name] - plateau) <= TOLERANCE * plateau
            self._sitting[name] = self._sitting[name] + 1 if near else 0
            if self._sitting[name] == STEPS:
                logging.warning(
                    "Step %d: %s has been at 2 x margin x pairs = %.3g for %d steps: all pairs score alike, and "
                    "the hardest negatives teach nothing. Begin with all negatives (hardest_after=1000, or "
                    "hardest=False), from trained weights (init_from), or with a lower learning_rate",
                    step,
                    name,
                    plateau,
                    STEPS,
                )
                self._names = []
                return
