"""float32 means float32: every product of a float32 training step asks a GPU for all of its bits."""

import re

import jax
import jax.numpy as jnp
import pytest

from aladin_jax.models.aladin import bind
from aladin_jax.scores import similarity
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import StepVariant, init_state, make_train_step
from tests.golden_data import converted, unit_batch


@pytest.fixture
def default_precision():
    """JAX's own, which on GPUs is TF32; the tests' is "highest" already."""
    before = jax.config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", None)
    yield
    jax.config.update("jax_default_matmul_precision", before)


def products(dtype, micro_batches):
    """The matrix products of a training step lowered for a GPU, which need not be there."""
    params, config = converted("unit")
    objective, optimizer = Objective(alignment=1.0, matching=0.1, distillation=1.0), optim.adam()
    step = make_train_step(
        bind(*config, dtype=dtype), objective, optimizer, lambda step: jnp.float32(1e-4),
        frozen=(), grad_clip=2.0, shards=1, micro_batches=micro_batches,
    )  # fmt: skip
    state = init_state(jax.tree.map(jnp.asarray, params), objective, optimizer, (), seed=0)
    batch = unit_batch("0")
    variant = StepVariant(objective.losses, len(batch["caption_len"]), None)
    lowered = jax.jit(step, static_argnums=2).trace(state, batch, variant).lower(lowering_platforms=("cuda",))
    return re.findall(r"stablehlo\.dot_general.*", lowered.as_text())


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.usefixtures("default_precision")
def test_every_product_of_a_float32_step_is_of_the_highest_precision_on_a_gpu(micro_batches):
    found = products(jnp.float32, micro_batches)
    assert len(found) > 20
    assert [line for line in found if "precision = [HIGHEST, HIGHEST]" not in line] == []


@pytest.mark.usefixtures("default_precision")
def test_the_alignment_loss_of_bfloat16_embeddings_multiplies_nothing_wider():
    def loss(regions, tokens):
        lengths = jnp.full(len(regions), 6), jnp.full(len(tokens), 9)
        return similarity.alignment_scores(regions, lengths[0], tokens, lengths[1]).sum()

    shapes = jax.ShapeDtypeStruct((4, 6, 16), jnp.bfloat16), jax.ShapeDtypeStruct((4, 9, 16), jnp.bfloat16)
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*shapes).lower(lowering_platforms=("cuda",))
    found = re.findall(r"stablehlo\.dot_general.*", lowered.as_text())
    assert len(found) == 3
    for line in found:
        assert re.search(r": \(tensor<[0-9x]*xbf16>, tensor<[0-9x]*xbf16>\) -> tensor<[0-9x]*xf32>", line), line
