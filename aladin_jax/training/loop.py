"""Training: build or restore, loop, report, validate, keep checkpoints."""

from __future__ import annotations

import contextlib
from pathlib import Path

import jax
from absl import logging

from aladin_jax.config import Config
from aladin_jax.evaluation.table import print_reports, report_scalars
from aladin_jax.files import make_folder
from aladin_jax.pretrained import enable_compilation_cache
from aladin_jax.training import checkpoint
from aladin_jax.training.metrics import TrainMetrics
from aladin_jax.training.plateau import PlateauWatch
from aladin_jax.training.preemption import Interruption, ends_at_once
from aladin_jax.training.setup import Run, make_objective, prepare
from aladin_jax.training.writers import create_profile, create_writer, log_scalars

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
    objective = make_objective(config)
    make_folder(workdir)
    schedule_start = checkpoint.check_config(workdir, config.to_dict())
    enable_compilation_cache(config.compilation_cache)
    with (
        contextlib.closing(checkpoint.RunCheckpoints(workdir)) as checkpoints,
        Interruption().caught() as interruption,
        ends_at_once(),
    ):
        run = prepare(config, objective, workdir, checkpoints, schedule_start)
        step = _loop(config, workdir, run, checkpoints, interruption)
    stopped_by = interruption.agreed()
    if stopped_by:
        logging.info("Saved step %d; the same command goes on from there", step)
        raise SystemExit(128 + stopped_by)
    logging.info("Trained %d steps; evaluate with --mode evaluate --workdir %s", step, workdir)


def _loop(
    config: Config, workdir: Path, run: Run, checkpoints: checkpoint.RunCheckpoints, interruption: Interruption
) -> int:
    """Trains to the end, or to the step in which a signal came; returns the step."""
    state, step = run.state, int(run.state.step)
    if step >= run.num_steps:
        return step
    profile = None
    if config.profile_steps:
        first = step + STEPS_BEFORE_PROFILE
        profile = create_profile(
            workdir, first_step=first, num_profile_steps=config.profile_steps, num_steps=run.num_steps
        )
    metrics = TrainMetrics(workdir=workdir, observe=PlateauWatch(run.objective).look)
    with contextlib.closing(create_writer(workdir)) as writer:
        while step < run.num_steps:
            batch = next(run.batches)
            variant = run.variant_of(batch, run.objective.active_in(step // run.steps_per_epoch))
            if variant not in run.step:
                with metrics.paused():
                    run.step.compile(state, batch.arrays, variant)
            state, values = run.step(state, batch.arrays, variant)
            step += 1
            metrics.add(step, values, batch.num_pairs)
            if profile:
                profile(step)

            interrupted = interruption.agreed() != 0
            last = step == run.num_steps or interrupted
            if last or step % config.log_every == 0:
                scalars = metrics.flush(checkpoints.latest_step)
                writer.write_scalars(step, scalars)
                seconds = (run.num_steps - step) * config.batch_size / scalars["train/examples_per_second"]
                log_scalars(step, run.num_steps, scalars, seconds)
            if run.validate and (step == run.num_steps or step % config.eval_every == 0):
                metrics.check(checkpoints.latest_step)
                with metrics.paused():
                    reports = run.validate(state.params)
                writer.write_scalars(step, report_scalars(reports))
                if jax.process_index() == 0:
                    print_reports(reports)
                rsum = sum(head["rsum"] for report in reports.values() for head in report.values())
                if checkpoints.save_if_best(step, state.params, rsum):
                    logging.info("Step %d: best so far, rsum %.1f", step, rsum)
            if last or step % config.checkpoint_every == 0:
                metrics.check(checkpoints.latest_step)
                with metrics.paused():
                    checkpoints.save(state, batch.state)
                writer.flush()
            if interrupted:
                break
    return step
