"""Training: build or restore, loop, report, validate, keep checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import logging
from clu.metric_writers import MetricWriter

from aladin_jax import configuration
from aladin_jax.configuration import Config
from aladin_jax.evaluation.table import report_scalars
from aladin_jax.training import checkpoint
from aladin_jax.training.metrics import TrainMetrics
from aladin_jax.training.preemption import FiniteWatch, Interruption, ends_at_once
from aladin_jax.training.setup import prepare
from aladin_jax.training.step import metric_names
from aladin_jax.training.writers import create_profile, create_progress, create_writer

# Compilation and warm-up stay out of a profile.
STEPS_BEFORE_PROFILE = 10


def train(config: Config, workdir: Path) -> None:
    """Trains in a workdir, going on from its latest checkpoint if it has one.

    Args:
        config: see configs/common.py.
        workdir: for checkpoints, TensorBoard files and the model's description.

    Raises:
        ValueError: the configuration, the data and the workdir do not fit together.
        FloatingPointError: the loss is not finite; the newest checkpoint is from before.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    configuration.check_ranges(config)
    configuration.check_training(config)
    workdir.mkdir(parents=True, exist_ok=True)
    schedule_start = checkpoint.check_config(workdir, config.to_dict())
    configuration.enable_compilation_cache(config.compilation_cache)
    with (
        contextlib.closing(checkpoint.RunCheckpoints(workdir)) as checkpoints,
        contextlib.closing(create_writer(workdir)) as writer,
        Interruption().caught() as interruption,
        ends_at_once(),
    ):
        step = _loop(config, workdir, checkpoints, writer, interruption, schedule_start)
    stopped_by = interruption.agreed()
    if stopped_by:
        logging.info("Saved step %d; the same command goes on from there", step)
        raise SystemExit(128 + stopped_by)
    logging.info("Trained %d steps; evaluate with --mode evaluate --workdir %s", step, workdir)


def _loop(
    config: Config,
    workdir: Path,
    checkpoints: checkpoint.RunCheckpoints,
    writer: MetricWriter,
    interruption: Interruption,
    schedule_start: int,
) -> int:
    """Trains to the end, or to the step in which a signal came; returns the step."""
    run = prepare(config, workdir, checkpoints, schedule_start)
    state, step = run.state, int(run.state.step)
    hooks = _hooks(config, workdir, writer, step, run.num_steps)
    watch, metrics = FiniteWatch(), TrainMetrics(())
    while step < run.num_steps:
        batch = next(run.batches)
        shape = run.shape_of(batch, step // run.steps_per_epoch)
        if metrics.names != metric_names(shape.active):  # the first step, or a loss joins in with this epoch
            if metrics.names:
                writer.write_scalars(step, metrics.flush())
            metrics = TrainMetrics(metric_names(shape.active))
        if shape not in run.step:
            with metrics.paused():
                run.step.compile(state, batch.arrays, shape)
        state, values = run.step(state, batch.arrays, shape)
        step += 1
        metrics.update(values, batch.num_pairs)
        watch.add(step, values)
        for hook in hooks:
            hook(step)

        interrupted = interruption.agreed() != 0
        last = step == run.num_steps or interrupted
        if last or step % config.log_every == 0:
            watch.check(checkpoints.latest_step)
            writer.write_scalars(step, metrics.flush())
        if run.validate and (step == run.num_steps or step % config.eval_every == 0):
            watch.check(checkpoints.latest_step)
            with metrics.paused():
                reports = run.validate(state.params)
            writer.write_scalars(step, report_scalars(reports))
            rsum = sum(head["rsum"] for report in reports.values() for head in report.values())
            if checkpoints.save_if_best(step, state.params, rsum):
                logging.info("Step %d: best so far, rsum %.1f", step, rsum)
        if last or step % config.checkpoint_every == 0:
            watch.check(checkpoints.latest_step)
            with metrics.paused():
                checkpoints.save(state, batch.state)
            writer.flush()
        if interrupted:
            break
    return step


def _hooks(
    config: Config, workdir: Path, writer: MetricWriter, step: int, num_steps: int
) -> list[Callable[[int], Any]]:
    """What is called with every step's number: progress, and the profile if one is wanted."""
    hooks: list[Callable[[int], Any]] = [create_progress(writer, num_steps=num_steps, every_steps=config.log_every)]
    if config.profile_steps:
        first = step + STEPS_BEFORE_PROFILE
        hooks.append(
            create_profile(workdir, first_step=first, num_profile_steps=config.profile_steps, num_steps=num_steps)
        )
    return hooks
