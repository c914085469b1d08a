"""Goes on with a run of the original: its weights, Adam's state and epoch, in a workdir of its own.

What the original's `--resume` does, and this does too: training goes on at the beginning of the epoch after the last
one that was done, Adam's moments and counts are those of the checkpoint, and the learning rate is that of the epoch.
In which order the original would have visited the pairs is not in its checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import logging

from aladin_jax.model_folder import RunState
from aladin_jax.models.aladin import Params
from aladin_jax.training.step import TrainState

SCHEDULE_FIELDS = ("learning_rate", "lr_step_epochs", "lr_gamma", "warmup_steps", "lr_cooldown")
ADDED_FIELDS = {"lr_cooldown": 0.0}  # what runs were that knew no such field: the original's, and earlier ones of ours


def resume(state: TrainState, run: RunState, *, steps_per_epoch: int, num_steps: int, source: str) -> TrainState:
    """Puts a converted run's progress into a fresh state.

    Args:
        state: at step 0, with the run's weights.
        run: from `model_folder.load_run_state`.
        steps_per_epoch: of this run, the last, smaller batch included.
        num_steps: where this run is to stop, counted from the first step of the one that goes on.
        source: the folder, for messages.

    Raises:
        ValueError: there is nothing left to train, or Adam's state is of another model.
    """
    step = int(run.progress["epoch"]) * steps_per_epoch
    if step >= num_steps:
        raise ValueError(
            f"{source}: {run.progress['epoch']} epochs are done, which are {step} steps here; num_epochs and num_steps "
            f"count from the run's beginning and end at step {num_steps}, so set them higher"
        )
    if step != run.progress["iterations"]:
        logging.warning(
            "%s counts %d iterations in %d epochs; an epoch is %d steps here, so it goes on from step %d",
            source, run.progress["iterations"], run.progress["epoch"], steps_per_epoch, step,
        )  # fmt: skip
    params, opt_state = dict(state.params), dict(state.opt_state)
    for group, values in run.losses.items():
        if _same_leaves(params.get(group), values):
            params[group] = jax.tree.map(jnp.asarray, values)
    for group in opt_state:
        saved = run.adam.get(group)
        if saved is None or (group in run.losses and not _same_leaves(params[group], saved["mu"])):
            logging.info("Adam starts anew for the %s: %s has no state of it", group, source)
            continue
        if not _same_leaves(params[group], saved["mu"]):
            raise ValueError(
                f"{source}: Adam's state is of another model than this data asks for; take its weights alone, init_from"
            )
        opt_state[group] = optax.ScaleByAdamState(*(jax.tree.map(jnp.asarray, saved[n]) for n in ("count", "mu", "nu")))
    logging.info("Going on from %s: epoch %d, step %d", source, run.progress["epoch"], step)
    return TrainState(jnp.asarray(step, jnp.int32), params, opt_state, state.rng)


def check_schedule(config: Mapping[str, Any], progress: Mapping[str, Any], source: str) -> None:
    """Holds the configured schedule against that of the run which goes on, as far as its checkpoint tells it.

    Raises:
        ValueError: fields differ; the message shows each one's two values.
    """
    before = {**ADDED_FIELDS, **{name: progress[name] for name in SCHEDULE_FIELDS if name in progress}}
    differences = [
        f"{name} was {value!r}, is {config[name]!r}"
        for name, value in before.items()
        if not np.isclose(value, config[name], rtol=1e-6, atol=0)
    ]
    if differences:
        raise ValueError(
            f"{source}: trained with another schedule ({'; '.join(differences)}); set it back, or let the schedule "
            "start anew with --config.reinitialize_scheduler=True"
        )


def _same_leaves(params: Params | None, other: Params) -> bool:
    """Whether two trees have the same leaves with the same shapes."""
    if params is None or jax.tree.structure(params) != jax.tree.structure(other):
        return False
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: a.shape == b.shape, params, other)))
