"""Schedule, clipping and Adam, held to torch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from aladin_jax.training import optim


def rates(steps, **choices):
    return [float(optim.learning_rate_schedule(1e-2, **choices)(jnp.asarray(step))) for step in steps]


def test_the_rate_drops_after_every_so_many_epochs():
    steps = (0, 19, 20, 39, 40, 119)
    found = rates(steps, steps_per_epoch=10, lr_step_epochs=2)
    np.testing.assert_allclose(found, [1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-7], rtol=1e-6)
    np.testing.assert_allclose(rates((0, 19), steps_per_epoch=10, lr_step_epochs=1, lr_gamma=0.5), [1e-2, 5e-3])


def test_no_drops_leave_the_rate_alone():
    assert rates((0, 10**6), steps_per_epoch=10, lr_step_epochs=0) == pytest.approx([1e-2, 1e-2])


def test_warm_up_rises_in_a_line_to_the_full_rate():
    found = rates((0, 1, 3, 4, 50), steps_per_epoch=1000, lr_step_epochs=1, warmup_steps=4)
    np.testing.assert_allclose(found, [2.5e-3, 5e-3, 1e-2, 1e-2, 1e-2], rtol=1e-6)


def test_warm_up_and_drops_multiply():
    assert rates((10,), steps_per_epoch=10, lr_step_epochs=1, warmup_steps=22) == pytest.approx([1e-3 * 0.5])


def test_a_schedule_that_starts_anew_counts_from_there():
    choices = {"steps_per_epoch": 10, "lr_step_epochs": 1, "warmup_steps": 2}
    steps = range(25)
    assert rates([step + 33 for step in steps], **choices, start=33) == rates(steps, **choices)


def test_a_cooldown_falls_in_a_line_to_nothing_at_the_runs_end():
    choices = {"steps_per_epoch": 1000, "lr_step_epochs": 0, "lr_cooldown": 0.25, "num_steps": 100}
    np.testing.assert_allclose(rates((0, 75, 80, 99, 100), **choices), [1e-2, 1e-2, 0.8e-2, 0.04e-2, 0], rtol=1e-6)
    np.testing.assert_allclose(rates((60, 90, 95), start=60, **choices), [1e-2, 1e-2, 0.5e-2], rtol=1e-6)
    assert rates((1, 98), warmup_steps=4, **choices) == pytest.approx([0.5e-2, 0.08e-2])


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    shapes = {"backbone": {"kernel": (4, 3), "bias": (3,)}, "matching_head": {"kernel": (3, 2)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape, np.float32)), shapes, is_leaf=lambda x: type(x) is tuple
    )


def gradients(seed, params, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(scale * rng.standard_normal(p.shape).astype(np.float32)), params)


def apply(params, state, grads, *, grad_clip=2.0, rate=1e-3):
    return optim.apply_gradients(
        optim.adam(), params, state, grads, learning_rate=jnp.float32(rate), grad_clip=grad_clip
    )


@pytest.mark.parametrize("grad_clip", [2.0, 0.0])
def test_steps_are_torchs_adam_behind_torchs_clipping(params, grad_clip):
    leaves = [torch.tensor(np.asarray(leaf)).requires_grad_() for leaf in jax.tree.leaves(params)]
    adam = torch.optim.Adam(leaves, lr=1e-3, eps=1e-8)
    state = optim.init_optimizer(optim.adam(), params, frozen=())
    for seed, scale in ((1, 3.0), (2, 0.01), (3, 1.0), (4, 1e-9)):  # clipped, not clipped, ...
        grads = gradients(seed, params, scale)
        for leaf, grad in zip(leaves, jax.tree.leaves(grads), strict=True):
            leaf.grad = torch.tensor(np.asarray(grad))
        expected_norm = torch.nn.utils.clip_grad_norm_(leaves, grad_clip or float("inf"))
        adam.step()
        params, state, norm = apply(params, state, grads, grad_clip=grad_clip)
        assert float(norm) == pytest.approx(float(expected_norm), rel=1e-5)
        for found, expected in zip(jax.tree.leaves(params), leaves, strict=True):
            np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-7)


def test_a_group_without_gradients_stays_and_starts_counting_when_it_gets_them(params):
    state = optim.init_optimizer(optim.adam(), params, frozen=())
    only_backbone = {"backbone": gradients(1, params["backbone"])}
    moved, state, _ = apply(params, state, only_backbone)
    moved, state, _ = apply(moved, state, only_backbone)
    assert (int(state["backbone"].count), int(state["matching_head"].count)) == (2, 0)
    np.testing.assert_array_equal(moved["matching_head"]["kernel"], params["matching_head"]["kernel"])

    late, state, _ = apply(moved, state, {"matching_head": gradients(2, params["matching_head"])}, grad_clip=0.0)
    first, _, _ = apply(
        params,
        optim.init_optimizer(optim.adam(), params, frozen=()),
        {"matching_head": gradients(2, params["matching_head"])},
        grad_clip=0.0,
    )
    np.testing.assert_array_equal(late["matching_head"]["kernel"], first["matching_head"]["kernel"])
    assert (int(state["backbone"].count), int(state["matching_head"].count)) == (2, 1)


def test_the_norm_is_that_of_all_trained_groups_before_clipping(params):
    grads = gradients(1, params, scale=100.0)
    _, _, norm = apply(params, optim.init_optimizer(optim.adam(), params, frozen=()), grads)
    expected = np.sqrt(sum(np.square(np.asarray(leaf, float)).sum() for leaf in jax.tree.leaves(grads)))
    assert float(norm) == pytest.approx(expected, rel=1e-6)


def test_frozen_groups_have_no_optimizer_state(params):
    assert optim.init_optimizer(optim.adam(), params, frozen=("backbone",)).keys() == {"matching_head"}
