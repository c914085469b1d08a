"""A batch encoded in parts has the losses, gradients and steps of one that is encoded at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.models.aladin import bind
from aladin_jax.training import grad_cache, optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import StepVariant, init_state, make_train_step
from tests.golden_data import converted, unit_batch

ALL_LOSSES = Objective(
    alignment=1.0,
    matching=0.5,
    distillation=1.0,
    learned_weights=True,
    ranking_loss="info_nce",
    distillation_mode="mse",
)
HINGE = Objective(alignment=1.0, distillation=1.0)


def padded(batch, rows):
    """The batch with rows that only fill it up."""
    return {name: np.concatenate([x, np.repeat(x[:1], rows - len(x), axis=0)]) for name, x in batch.items()}


@functools.cache
def first_step(objective, micro_batches=1, frozen=(), remat=False, tokens=None, pairs=6, shards=1):
    params, config = converted("unit")
    optimizer = optim.adam()
    step = make_train_step(
        bind(*config, remat=remat),
        objective,
        optimizer,
        lambda step: jnp.float32(1e-3),
        frozen=frozen,
        grad_clip=0.0,
        shards=shards,
        micro_batches=micro_batches,
    )
    state = init_state(jax.tree.map(jnp.asarray, params), objective, optimizer, frozen, seed=0)
    batch = padded(unit_batch("0"), 8)
    return jax.jit(step, static_argnums=2)(state, batch, StepVariant(objective.losses, pairs, tokens))


def assert_same_step(found, expected):
    (state, metrics), (expected_state, expected_metrics) = found, expected
    for name, value in expected_metrics.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-5), name
    # Adam's first moment is a tenth of the gradient.
    moments, expected_moments = (
        {name: group.mu for name, group in s.opt_state.items()} for s in (state, expected_state)
    )
    assert moments.keys() == expected_moments.keys()

    def check(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max() + 1e-9)

    jax.tree.map(check, moments, expected_moments)


@pytest.mark.parametrize(
    ("objective", "micro_batches", "tokens"),
    [(HINGE, 4, 76), (ALL_LOSSES, 2, None)],
    ids=["hinge, 4 packed", "all, 2 padded"],
)
def test_micro_batches_give_the_gradients_of_the_whole_batch(objective, micro_batches, tokens):
    assert_same_step(first_step(objective, micro_batches, tokens=tokens), first_step(objective))


def test_a_frozen_backbone_stays_without_gradients():
    objective = Objective(matching=1.0)
    found = first_step(objective, 2, frozen=("backbone",))
    assert found[0].opt_state.keys() == {"matching_head"}
    assert_same_step(found, first_step(objective, frozen=("backbone",)))


def test_devices_cut_each_their_own_examples():
    assert_same_step(first_step(HINGE, 2, shards=2, tokens=76), first_step(HINGE))


def test_layers_computed_again_for_the_backward_pass_give_the_same_gradients():
    assert_same_step(first_step(HINGE, remat=True), first_step(HINGE))


def test_a_micro_batch_has_the_same_dropout_mask_both_times():
    batch = jnp.arange(1.0, 9.0)[:, None]

    def encode(weight, rows, key):
        return rows * weight * jax.random.bernoulli(key, 0.5, rows.shape)

    def loss(embeddings, weight):
        return jnp.square(embeddings).sum(), embeddings

    (value, embeddings), gradient = grad_cache.value_and_grad(
        encode, loss, jnp.float32(3.0), batch, jax.random.key(4), micro_batches=4, shards=1
    )
    assert 0 < np.count_nonzero(embeddings) < 8
    assert set(np.unique(embeddings / batch)) == {0.0, 3.0}
    assert gradient == pytest.approx(2 * float(value) / 3)  # only where both masks agree
