"""The device mesh, and how batches, parameters and optimizer states lie on it.

Two axes: `data` divides the batch only; `fsdp` divides the batch and, in the manner of ZeRO-3, parameters and
optimizer states. XLA gathers a layer's parameters just before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

BATCH_AXES = ("data", "fsdp")

# Smaller arrays (biases, LayerNorms) are not worth a gather.
MIN_SHARDED_SIZE = 2**14


def make_mesh(fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over all devices with `fsdp` of them along the parameter-sharding axis.

    Raises:
        ValueError: `fsdp` does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp is {fsdp}; it must divide the number of devices, {len(devices)}")
    return Mesh(np.asarray(devices).reshape(-1, fsdp), BATCH_AXES)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples divided over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Shardings for any tree of arrays: parameters, and optimizer states that mirror them.

    An array of at least `MIN_SHARDED_SIZE` is divided along its longest axis that `fsdp` divides; the leading axis of
    stacked layers is left whole, since the scan over layers walks along it.
    """
    size = mesh.shape["fsdp"]

    def sharding(path, leaf):
        first = 1 if any(getattr(key, "key", None) == "layers" for key in path) else 0
        axes = [axis for axis in range(first, leaf.ndim) if leaf.shape[axis] % size == 0]
        if size == 1 or not axes or leaf.size < MIN_SHARDED_SIZE:
            return replicated(mesh)
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree_util.tree_map_with_path(sharding, state)


def largest_of_processes(values: np.ndarray) -> np.ndarray:
    """The element-wise maximum over all processes, which they then agree on; with one process, what it gave."""
    if jax.process_count() == 1:
        return values
    return np.asarray(multihost_utils.process_allgather(values)).max(axis=0)


def wait_for_processes(place: str) -> None:
    """Waits until every process has come to this place, e.g. past a file that only the first one writes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)
