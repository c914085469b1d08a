"""One training step: dropout, losses with learnable numbers, and number formats."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.models.aladin import bind
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import StepVariant, choose_variant, init_state, make_train_step
from tests.golden_data import converted, unit_batch

PAIRS = 6


@functools.cache
def compiled(objective, frozen=(), dropout=0.0, dtype=jnp.float32):
    """A jitted step on the golden model with dropout in the backbone, and a state for any seed."""
    params, config = converted("unit")
    backbone = dataclasses.replace(config.backbone, hidden_dropout_prob=dropout)
    step = make_train_step(
        bind(backbone, config.matching_head, dtype),
        objective,
        optim.adam(),
        lambda step: jnp.float32(1e-4),
        frozen=frozen,
        grad_clip=2.0,
        shards=1,
    )
    state = functools.partial(init_state, jax.tree.map(jnp.asarray, params), objective, optim.adam(), frozen)
    return jax.jit(step, static_argnums=2), state


def run(step, state, objective, batch="0"):
    return step(state, unit_batch(batch), StepVariant(objective.losses, PAIRS, 200))


def test_a_frozen_backbone_runs_with_dropout_that_follows_seed_and_step():
    objective = Objective(matching=1.0)
    step, state_of = compiled(objective, ("backbone",), 0.2)
    moved, metrics = run(step, state_of(seed=1), objective)
    losses = {
        "again": run(step, state_of(seed=1), objective)[1]["loss"],
        "other seed": run(step, state_of(seed=2), objective)[1]["loss"],
        "other step": run(step, state_of(seed=1)._replace(step=jnp.int32(1)), objective)[1]["loss"],
    }
    assert losses["again"] == metrics["loss"]
    assert len({float(loss) for loss in losses.values()}) == 3
    jax.tree.map(np.testing.assert_array_equal, moved.params["backbone"], state_of(seed=1).params["backbone"])
    assert moved.opt_state.keys() == {"matching_head"}


def test_learnable_numbers_of_losses_move_with_their_own_optimizer_state():
    objective = Objective(
        alignment=1.0, distillation=1.0, learned_weights=True, ranking_loss="info_nce", distillation_mode="mse"
    )
    step, state_of = compiled(objective)
    before = state_of(seed=0)
    after, metrics = run(step, before, objective)
    assert metrics.keys() == {"loss", "loss_alignment", "loss_distillation", "grad_norm", "learning_rate"}
    for group, names in (
        ("alignment_loss", {"log_variance", "log_scale"}),
        ("distillation_loss", {"log_variance", "affine"}),
    ):
        assert after.params[group].keys() == names
        assert int(after.opt_state[group].count) == 1
        for name in names:
            # Adam's first step is one learning rate long.
            moved = np.abs(after.params[group][name] - before.params[group][name])
            np.testing.assert_allclose(moved, 1e-4, rtol=1e-2, err_msg=name)


def test_bfloat16_steps_stay_close_and_keep_float32_parameters():
    objective = Objective(alignment=1.0, matching=0.1, distillation=1.0)
    exact = compiled(objective)
    rounded = compiled(objective, dtype=jnp.bfloat16)
    states = [state_of(seed=0) for _, state_of in (exact, rounded)]
    for batch in "012":
        results = [
            run(step, state, objective, batch) for (step, _), state in zip((exact, rounded), states, strict=True)
        ]
        states = [state for state, _ in results]
        (_, full), (_, half) = results
        assert float(half["loss"]) == pytest.approx(float(full["loss"]), rel=0.02)
        assert float(half["grad_norm"]) == pytest.approx(float(full["grad_norm"]), rel=0.1)
        assert full["loss"] != half["loss"]
    for leaf in jax.tree.leaves((states[1].params, states[1].opt_state)):
        assert leaf.dtype in (jnp.float32, jnp.int32)


def test_tokens_that_do_not_fit_make_the_loss_nan():
    objective = Objective(matching=1.0)
    step, state_of = compiled(objective, ("backbone",), 0.2)
    _, metrics = step(state_of(seed=1), unit_batch("0"), StepVariant(objective.losses, PAIRS, 40))
    assert np.isnan(metrics["loss"])


def test_one_variant_serves_batches_of_about_as_many_words_and_only_accelerators_need_to_know_them(monkeypatch):
    def variant(longest, seed):
        lengths = np.random.default_rng(seed).integers(3, longest, 256)
        batch = {"caption_len": lengths, "label_len": lengths, "region_len": lengths}
        return choose_variant(("alignment",), 256, batch, slots=134, shards=1)

    assert variant(24, seed=0).words is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert {variant(24, seed).words for seed in range(20)} == {3072}  # about 10 a caption take part
    assert variant(4, seed=0).words == 1024


def test_all_negatives_count_until_the_step_in_which_the_hardest_begin():
    objective = Objective(matching=1.0, hardest_after=3)
    step, state_of = compiled(objective, ("backbone",))
    found = {
        k: float(run(step, state_of(seed=0)._replace(step=jnp.int32(k)), objective)[1]["loss"]) for k in (0, 2, 3, 9)
    }
    expected = {}
    for hardest in (False, True):
        plain = Objective(matching=1.0, hardest=hardest)
        other, start = compiled(plain, ("backbone",))
        expected[hardest] = float(run(other, start(seed=0), plain)[1]["loss"])
    assert found == pytest.approx(
        {0: expected[False], 2: expected[False], 3: expected[True], 9: expected[True]}, rel=1e-5
    )
    assert expected[False] > 1.5 * expected[True]


def test_pairs_of_one_image_are_no_negatives_of_each_other_if_asked():
    objective = Objective(alignment=1.0, matching=1.0, distillation=1.0, hardest=False, mask_same_image=True)
    step, state_of = compiled(objective)
    losses = {}
    for name, numbers in (("none", [0, 1, 2, 3, 4, 5]), ("some", [0, 1, 0, 3, 1, 5]), ("all", [7] * 6)):
        batch = unit_batch("0")
        rows = len(batch["caption_len"])
        batch["image"] = jnp.asarray(numbers + [0] * (rows - PAIRS), jnp.int32)
        _, losses[name] = step(state_of(seed=0), batch, StepVariant(objective.losses, PAIRS, 200))
    plain = dataclasses.replace(objective, mask_same_image=False)
    other, state_of = compiled(plain)
    for loss in ("loss_alignment", "loss_matching", "loss_distillation"):
        unmasked = float(run(other, state_of(seed=0), plain)[1][loss])
        assert float(losses["none"][loss]) == pytest.approx(unmasked, rel=1e-5)
        assert unmasked > float(losses["some"][loss]) > float(losses["all"][loss])
        assert float(losses["all"][loss]) == pytest.approx(0, abs=1e-5)
