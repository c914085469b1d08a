"""Checkpoints of a run: one kind to go on exactly where it was, one of the best parameters; kept apart.

    WORKDIR/config.json            the configuration that the run was started with
    WORKDIR/model.json, vocab.txt  what model it is, so that a workdir can be what another run starts from
    WORKDIR/checkpoints/STEP/      the latest states, whole: step, parameters, optimizer, random key, place in the data
    WORKDIR/best/STEP/             the parameters of the validation with the largest rsum

Orbax writes in the background to a temporary name and renames: a run that is killed leaves whole checkpoints only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from aladin_jax import sharding
from aladin_jax.config import CONFIG_JSON
from aladin_jax.data.dataset import open_dataset
from aladin_jax.errors import DataError
from aladin_jax.files import read_json, write_whole
from aladin_jax.models.aladin import Params
from aladin_jax.training.resume import ADDED_FIELDS, SCHEDULE_FIELDS
from aladin_jax.training.step import TrainState
from aladin_jax.weights import BEST, LATEST, is_trained, newest_step

# Fields that change no number of a run, or only how long it is: they may differ when it goes on.
FREE_FIELDS = (
    "num_epochs",
    "num_steps",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "profile_steps",
    "compilation_cache",
    "model.kernels",
    "data.num_threads",
    "data.num_workers",
    "data.prefetch",
    "eval.",
    "reinitialize_scheduler",
    "schedule_start",
    "data_sha256",
)
LENGTH_FIELDS = ("num_epochs", "num_steps")  # of the schedule too, where that ends with the run
SCHEDULE_START = "schedule_start"  # in config.json; no field, but what `reinitialize_scheduler` led to
DATA_SHA256 = "data_sha256"  # in config.json; no field, but what tells the data set from others, wherever it lies


def _options(name: str, **options: Any) -> ocp.CheckpointManagerOptions:
    """Written in the background; barriers between processes carry the name, since both kinds may save one step."""
    barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=name)
    return ocp.CheckpointManagerOptions(enable_async_checkpointing=True, multiprocessing_options=barriers, **options)


class RunCheckpoints:
    """The checkpoints of a workdir that is being trained in."""

    def __init__(self, workdir: Path):
        """Opens both kinds, making the folders."""
        workdir = workdir.absolute()
        self._latest = ocp.CheckpointManager(
            workdir / LATEST, options=_options(LATEST, max_to_keep=2), item_names=("state", "data")
        )
        self._best = ocp.CheckpointManager(
            workdir / BEST, options=_options(BEST, max_to_keep=1, best_fn=lambda metrics: metrics["rsum"])
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint."""
        return self._latest.latest_step()

    def save(self, state: TrainState, data_state: Mapping[str, Any]) -> None:
        """Saves in the background what it takes to go on; does nothing where this step is saved already."""
        step = int(state.step)
        if step in self._latest.all_steps():
            return
        self._latest.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state._asdict()), data=ocp.args.JsonSave(dict(data_state))
            ),
        )

    def restore(self, state: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Reads the newest checkpoint.

        Args:
            state: shapes and shardings to restore to.

        Returns:
            The state, and the data's state.
        """
        restored: Any = self._latest.restore(
            self.latest_step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(state._asdict()), data=ocp.args.JsonRestore()),
        )
        return TrainState(**restored["state"]), restored["data"]

    def save_if_best(self, step: int, params: Params, rsum: float) -> bool:
        """Saves parameters if no earlier validation had as large an rsum."""
        self._best.wait_until_finished()  # a save in progress has no metrics yet
        best = self._best.best_step()
        if best is not None and (step <= best or rsum <= (self._best.metrics(best) or {})["rsum"]):
            return False
        self._best.save(step, args=ocp.args.StandardSave(params), metrics={"rsum": rsum})
        return True

    def close(self) -> None:
        """Waits until all is written."""
        self._latest.close()
        self._best.close()


def check_config(workdir: Path, config: Mapping[str, Any]) -> int:
    """Compares with the configuration that a workdir was started with, and keeps it there.

    Before the first checkpoint there is nothing that another configuration could contradict: a first start that failed
    over a wrong path can be put right. The same data set may lie elsewhere. With `reinitialize_scheduler` the
    schedule's fields may differ: it then starts anew at the newest checkpoint's step, which is kept too, so that a
    start with the same configuration goes on.

    Returns:
        The step at which the learning rate's schedule begins.

    Raises:
        ValueError: fields that matter differ; the message shows each one's two values.
    """
    file = workdir / CONFIG_JSON
    now = json.loads(json.dumps(config))
    started = file.exists() and is_trained(workdir)
    kept = read_json(file) if started else {}
    sharding.wait_for_processes("looked for config.json")
    start = kept.get(SCHEDULE_START, 0)
    before, after = ADDED_FIELDS | _flatten(kept), _flatten(now)
    fields_of_schedule = (*SCHEDULE_FIELDS, *(LENGTH_FIELDS if after["lr_cooldown"] else ()))
    differences = {
        name: f"{name} was {before.get(name)!r}, is {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and (name in fields_of_schedule or not name.startswith(FREE_FIELDS))
        # A field that is unset changes nothing, as before there was such a field.
        if name in before or after[name]
    }
    data = _sha256_of_data(now)
    if "data.dir" in differences and data and data == kept.get(DATA_SHA256):
        logging.info("%s: the data set is that of %s", now["data"]["dir"], kept["data"]["dir"])
        del differences["data.dir"]
    elif started and data and kept.get(DATA_SHA256, data) != data:
        differences["data.dir"] = f"data.dir held other data than {now['data']['dir']} holds now"
    of_schedule = [differences.pop(name) for name in fields_of_schedule if name in differences]
    anew, was_anew = (bool(c.get("reinitialize_scheduler")) for c in (now, kept))
    if started and (differences or (of_schedule and not anew)):
        hint = "" if differences else ", or let the schedule start anew with --config.reinitialize_scheduler=True"
        raise ValueError(
            f"{workdir}: started with another configuration ({'; '.join([*differences.values(), *of_schedule])}); "
            f"set it back, or choose a new --workdir{hint}"
        )
    if started and anew and (of_schedule or not was_anew):
        start = newest_step(workdir / LATEST) or 0
        logging.info("The schedule starts anew at step %d%s", start, "".join(f"; {told}" for told in of_schedule))
    # What may differ is kept too: a longer num_steps, another log_every.
    _keep_config(file, now | ({DATA_SHA256: data} if data else {}), start)
    return start


def keep_schedule_start(workdir: Path, start: int) -> None:
    """Keeps the step at which a schedule starts anew, beside the configuration."""
    logging.info("The schedule starts anew at step %d", start)
    _keep_config(workdir / CONFIG_JSON, read_json(workdir / CONFIG_JSON), start)


def _keep_config(file: Path, config: Mapping[str, Any], schedule_start: int) -> None:
    if jax.process_index() == 0:
        kept = {**config, SCHEDULE_START: schedule_start} if schedule_start else config
        write_whole(file, json.dumps(kept, indent=2).encode() + b"\n")
    sharding.wait_for_processes("kept config.json")


def _sha256_of_data(config: Mapping[str, Any]) -> str:
    """Of what describes the data set: ids, numbers of captions, sizes; "" where there is none."""
    try:
        folder = open_dataset(config["data"]["dir"]).folder
    except (DataError, KeyError):
        return ""
    described = (folder / name for name in ("dataset_info.json", "features.json", "metadata.json"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in described if file.is_file())).hexdigest()


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
