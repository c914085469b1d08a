"""Where training reports to: TensorBoard's files, the log, and a profile."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging


def create_writer(workdir: str | os.PathLike[str]) -> Any:
    """Writes scalars to TensorBoard files in the workdir, in a thread of its own: a CLU `MetricWriter`.

    On a machine of several, only the first process writes. What is written is on disk after `flush()`; an error in the
    writer's thread is raised by the next write or flush.

    Args:
        workdir: folder of the event files, made when missing.
    """
    import tensorflow as tf  # slow; needed once training really begins
    from clu import metric_writers

    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    if jax.process_index() > 0:
        return metric_writers.MultiWriter([])
    return metric_writers.AsyncWriter(metric_writers.SummaryWriter(os.fspath(workdir)))


def log_scalars(step: int, num_steps: int, scalars: Mapping[str, float], seconds: float) -> None:
    """Logs an interval in one line: its scalars, how far the run is, and how long the rest will take.

    Args:
        step: the interval's last.
        num_steps: the run's last.
        scalars: by name.
        seconds: for the rest of the steps, at the interval's rate.
    """
    values = ", ".join(f"{name}={value:.5g}" for name, value in sorted(scalars.items()))
    left = datetime.timedelta(seconds=round(seconds))
    logging.info("[%d] %s; %.1f%% of %d steps, %s left", step, values, 100 * step / num_steps, num_steps, left)


def create_profile(workdir: str | os.PathLike[str], *, first_step: int, num_profile_steps: int, num_steps: int) -> Any:
    """Records one profile for TensorBoard (`workdir/plugins/profile`); call it with every step's number.

    Args:
        workdir: the run's folder.
        first_step: recording starts after this step; on a resumed run it must lie ahead.
        num_profile_steps: steps recorded.
        num_steps: the last step of the run.

    Raises:
        ValueError: the run ends before the recording does, so that no file would be written.
    """
    from clu import periodic_actions

    if num_profile_steps < 1 or first_step + num_profile_steps > num_steps:
        raise ValueError(
            f"a profile of {num_profile_steps} steps after step {first_step} does not end within {num_steps} steps"
        )
    return periodic_actions.Profile(
        logdir=os.fspath(workdir),
        num_profile_steps=num_profile_steps,
        profile_duration_ms=None,
        first_profile=first_step,
        every_secs=None,
    )


def log_parameters(params: Mapping[str, Any]) -> None:
    """Logs a table of every parameter's name, shape, type, size and sharding, and the totals.

    Args:
        params: nested dict of arrays.
    """
    from clu import parameter_overview

    parameter_overview.log_parameter_overview(
        dict(params), include_stats="sharding", msg="Parameters", jax_logging_process=0
    )
