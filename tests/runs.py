"""Runs of the whole program on the golden `e2e` files, in this process or in one of their own, and what they leave."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from aladin_jax import checkpoint
from aladin_jax.model_folder import flatten

REPOSITORY = Path(__file__).parents[1]


def make_config(name: str, fields: dict[str, Any]) -> ConfigDict:
    """A configuration of configs/, with fields changed as `--config.FIELD=VALUE` does."""
    config = importlib.import_module(f"configs.{name}").get_config()
    with config.unlocked():
        config.update_from_flattened_dict(fields)
    return config


def command(name: str, workdir: Path, fields: dict[str, Any], *, mode: str = "train") -> list[str]:
    """The command line of a run."""
    flags = [f"--config.{field}={value}" for field, value in fields.items() if value is not None]
    program = [sys.executable, "-m", "aladin_jax.main", "--config", f"configs/{name}.py"]
    return [*program, "--workdir", str(workdir), "--mode", mode, *flags]


def start(arguments: list[str], *, devices: int = 1) -> subprocess.Popen:
    """Starts a command in the repository, on so many devices; it computes as the tests do."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        env=os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(arguments: list[str], *, devices: int = 1) -> subprocess.CompletedProcess:
    """Runs a command to its end."""
    process = start(arguments, devices=devices)
    output, errors = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


def scalars(workdir: Path) -> dict[str, dict[int, float]]:
    """TensorBoard's scalars: name -> step -> value, of all the event files together."""
    events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
    events.Reload()
    return {
        tag: {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}
        for tag in events.Tags()["tensors"]
    }


def saved(workdir: Path, kind: str = checkpoint.LATEST) -> tuple[int, dict[str, np.ndarray]]:
    """The newest checkpoint of a kind: its step, and all its arrays by path."""
    step = checkpoint.newest_step(workdir / kind)
    assert step is not None
    item = "state" if kind == checkpoint.LATEST else "default"
    with ocp.PyTreeCheckpointer() as checkpointer:
        folder = workdir / kind / str(step) / item
        as_arrays = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), checkpointer.metadata(folder).item_metadata.tree
        )
        return step, flatten(checkpointer.restore(folder, restore_args=as_arrays))


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Asserts that two sets of arrays are equal to the last bit."""
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def cache_folder() -> str:
    """Where this session keeps compiled programs."""
    return str(jax.config.jax_compilation_cache_dir)
