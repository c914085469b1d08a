"""Where training reports to: TensorBoard, the log, and the actions that happen every so many steps."""

import os
from collections.abc import Mapping
from typing import Any

import jax
from clu import metric_writers, parameter_overview, periodic_actions


def create_writer(workdir: str | os.PathLike[str]) -> metric_writers.MetricWriter:
    """Writes scalars to TensorBoard files in the workdir and to the log, in threads of its own.

    On a machine of several, only the first process writes TensorBoard files. What is written is on disk after
    `flush()`; an error in a writer's thread is raised by the next write or flush. Log lines have level INFO.

    Args:
        workdir: folder of the event files, made when missing.
    """
    return metric_writers.create_default_writer(os.fspath(workdir), just_logging=jax.process_index() > 0)


def create_progress(
    writer: metric_writers.MetricWriter, *, num_steps: int, every_steps: int
) -> periodic_actions.ReportProgress:
    """Logs steps per second, the percentage done and the time left; call it with every step's number, from 1.

    Args:
        writer: takes `steps_per_sec` and `uptime`.
        num_steps: the last step of the run.
        every_steps: steps between two reports.
    """
    return periodic_actions.ReportProgress(
        num_train_steps=num_steps, writer=writer, every_steps=every_steps, every_secs=None
    )


def create_profile(
    workdir: str | os.PathLike[str], *, first_step: int, num_profile_steps: int, num_steps: int
) -> periodic_actions.Profile:
    """Records one profile for TensorBoard (`workdir/plugins/profile`); call it with every step's number.

    Args:
        workdir: the run's folder.
        first_step: recording starts after this step; on a resumed run it must lie ahead.
        num_profile_steps: steps recorded.
        num_steps: the last step of the run.

    Raises:
        ValueError: the run ends before the recording does, so that no file would be written.
    """
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
    parameter_overview.log_parameter_overview(
        dict(params), include_stats="sharding", msg="Parameters", jax_logging_process=0
    )
