import logging

import jax.numpy as jnp
import pytest

from aladin_jax.training.metrics import TrainMetrics
from aladin_jax.training.objective import Objective
from aladin_jax.training.plateau import STEPS, PlateauWatch

HINGE = Objective(matching=1.0, margin=0.2)


def watch(objective, losses, caplog, num_pairs=32):
    """The warnings of a run with these losses."""
    metrics = TrainMetrics(observe=PlateauWatch(objective).look)
    with caplog.at_level(logging.WARNING):
        for step, loss in enumerate(losses, 1):
            values = {"loss": loss, "loss_matching": loss, "grad_norm": 0.0}
            metrics.add(step, {name: jnp.float32(value) for name, value in values.items()}, num_pairs)
            if step % 7 == 0:
                metrics.flush()
        metrics.flush()
    return [record.getMessage() for record in caplog.records]


def test_a_loss_that_sits_at_the_plateau_is_said_once_with_what_helps(caplog):
    [message] = watch(HINGE, [20.0, *[12.8 + 0.05 * (-1) ** k for k in range(3 * STEPS)]], caplog)
    assert message.startswith(f"Step {STEPS + 1}: loss_matching has been at 2 x margin x pairs = 12.8 for 200 steps")
    assert "hardest_after" in message


@pytest.mark.parametrize(
    ("objective", "losses"),
    [
        (HINGE, [12.8] * (STEPS - 1) + [12.0] + [12.8] * (STEPS - 1)),
        (HINGE, [12.8 - 0.01 * step for step in range(STEPS * 3)]),
        (Objective(matching=1.0, margin=0.2, hardest=False), [12.8] * STEPS),
        (Objective(matching=1.0, margin=0.2, ranking_loss="info_nce"), [12.8] * STEPS),
        (Objective(alignment=1.0, margin=0.2), [12.8] * STEPS),  # which is of another loss
    ],
    ids=["it leaves", "it falls", "all negatives", "InfoNCE", "no such loss"],
)
def test_other_losses_are_not_spoken_of(objective, losses, caplog):
    assert watch(objective, losses, caplog) == []


def test_a_smaller_last_batch_has_a_lower_plateau(caplog):
    assert watch(HINGE, [0.4 * 5] * STEPS, caplog, num_pairs=5)
