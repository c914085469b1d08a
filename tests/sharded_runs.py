"""Trains the golden model on one device and on meshes of eight; run as a program of its own, which has eight.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.sharded_runs OUTPUT.npz
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np

from aladin_jax import sharding
from aladin_jax.data.pipeline import pad_rows
from aladin_jax.model_folder import flatten
from aladin_jax.models.aladin import bind
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import choose_variant, init_state, jit_train_step, make_train_step
from tests.golden_data import converted, unit_batch

# Devices, how many of them share parameters between them, steps, and kernels; the fused ones have dropout, too.
MESHES = {
    "1": (1, 1, 4, "xla"),
    "4x2": (8, 2, 4, "xla"),
    "2x4": (8, 4, 2, "xla"),
    "fused 1": (1, 1, 1, "pallas"),
    "fused 4x2": (8, 2, 1, "pallas"),
}
# Pairs of each step's batch: the third is an epoch's last, with fewer pairs than there are devices.
NUM_PAIRS = (16, 16, 2, 16)
OBJECTIVE = Objective(alignment=1.0, matching=0.1, distillation=1.0)


def batches(steps):
    """Three golden batches as one, in an order that turns with every step."""
    parts = [unit_batch(name) for name in "012"]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for step, pairs in enumerate(NUM_PAIRS[:steps]):
        yield {name: np.roll(array, 5 * step, axis=0)[:pairs] for name, array in whole.items()}, pairs


def run(devices, fsdp, steps, kernels):
    mesh = sharding.make_mesh(fsdp, jax.devices()[:devices])
    params, (backbone, head) = converted("unit")
    if kernels == "pallas":
        backbone = dataclasses.replace(backbone, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
        head = dataclasses.replace(head, dropout=0.1)
    optimizer = optim.adam()
    step = make_train_step(
        bind(backbone, head, kernels=kernels, mesh=mesh),
        OBJECTIVE,
        optimizer,
        lambda step: jnp.float32(1e-4),
        frozen=(),
        grad_clip=0.0,
        shards=devices,
    )
    state = init_state(jax.tree.map(jnp.array, params), OBJECTIVE, optimizer, (), seed=0)
    state = jax.device_put(state, sharding.state_sharding(state, mesh))
    step, results = jit_train_step(step, state, mesh), {}
    for number, (batch, pairs) in enumerate(batches(steps)):
        batch = pad_rows(batch, -(-pairs // devices) * devices)
        variant = choose_variant(OBJECTIVE.losses, pairs, batch, slots=38, shards=devices)
        state, metrics = step(state, jax.device_put(batch, sharding.batch_sharding(mesh)), variant)
        results |= {f"{name}/{number}": value for name, value in metrics.items()}
        if number == 0:  # Adam's first moment is a tenth of the gradient
            moments = {group: adam.mu for group, adam in state.opt_state.items()}
            results |= {f"gradient/{name}": 10 * np.asarray(leaf) for name, leaf in flatten(moments).items()}
    for kind, tree in (("params", state.params), ("moments", {g: adam.nu for g, adam in state.opt_state.items()})):
        for name, leaf in flatten(tree).items():
            results[f"{kind}/{name}"] = np.asarray(leaf)
            results[f"{kind}_on_each_device/{name}"] = [shard.data.size for shard in leaf.addressable_shards]
    return {name: np.asarray(value) for name, value in results.items()}


if __name__ == "__main__":
    np.savez(
        sys.argv[1],
        **{f"{mesh}/{name}": value for mesh, sizes in MESHES.items() for name, value in run(*sizes).items()},
    )
