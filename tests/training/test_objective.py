"""What a regime adds up, and which parameter groups it moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax import losses
from aladin_jax.models.aladin import CaptionEmbeddings, ImageEmbeddings
from aladin_jax.scores import similarity
from aladin_jax.training.objective import INITIAL_LOG_VARIANCE, Objective
from tests.golden_data import arrays, unit_batch

ALL = ("alignment", "matching", "distillation")


@pytest.fixture(scope="module")
def embeddings():
    """The original's outputs of the evaluation batch."""
    expected, batch = arrays("unit/expected.npz"), unit_batch("eval")
    image, caption, regions, tokens = (
        jnp.asarray(expected[f"forward/{name}"])
        for name in ("image_embedding", "caption_embedding", "region_embeddings", "token_embeddings")
    )
    region_len, caption_len = jnp.asarray(batch["region_len"]), jnp.asarray(batch["caption_len"])
    return ImageEmbeddings(image, regions, region_len), CaptionEmbeddings(caption, tokens, caption_len)


@functools.partial(jax.jit, static_argnums=(0, 4))
def evaluate(objective, images, captions, params, active):
    return objective(images, captions, params, active)


def compute(objective, embeddings, active=ALL):
    total, parts = evaluate(objective, *embeddings, objective.init_params(), active)
    return float(total), {name: float(part) for name, part in parts.items()}


def test_the_total_is_the_weighted_sum_and_the_parts_are_unweighted(embeddings):
    expected = arrays("unit/expected.npz")
    total, parts = compute(Objective(alignment=2.0, matching=0.1, distillation=3.0), embeddings)
    assert parts == {
        "alignment": pytest.approx(float(expected["alignment/MrSw/loss"]), rel=1e-4),
        "matching": pytest.approx(float(expected["matching/dot/loss"]), rel=1e-4),
        "distillation": pytest.approx(float(expected["distillation/listnet"]), rel=1e-4),
    }
    assert total == pytest.approx(2 * parts["alignment"] + 0.1 * parts["matching"] + 3 * parts["distillation"])


def test_a_loss_that_is_not_active_is_left_out(embeddings):
    objective = Objective(alignment=1.0, distillation=1.0)
    total, parts = compute(objective, embeddings, active=("alignment", "matching"))
    assert parts.keys() == {"alignment"}
    assert total == parts["alignment"]


def test_every_choice_reaches_its_function(embeddings):
    expected = arrays("unit/expected.npz")
    for pooling in similarity.POOLINGS:
        _, parts = compute(Objective(alignment=1.0, hardest=False, pooling=pooling), embeddings)
        name = f"alignment/{pooling}/loss_sum_of_violations"
        assert parts["alignment"] == pytest.approx(float(expected[name]), rel=1e-4), pooling
    for measure in similarity.MEASURES:
        _, parts = compute(Objective(matching=1.0, measure=measure), embeddings)
        assert parts["matching"] == pytest.approx(float(expected[f"matching/{measure}/loss"]), rel=1e-4), measure
    for mode in losses.DISTILLATION_MODES:
        _, parts = compute(Objective(distillation=1.0, distillation_mode=mode), embeddings)
        assert parts["distillation"] == pytest.approx(float(expected[f"distillation/{mode}"]), rel=1e-4), mode
    _, parts = compute(Objective(matching=1.0, ranking_loss="info_nce"), embeddings)
    assert parts["matching"] == pytest.approx(float(expected["matching/infonce/loss"]), rel=1e-4)
    for margin in (0.0, 0.7):
        _, parts = compute(Objective(matching=1.0, margin=margin), embeddings)
        hinge = losses.hinge_triplet(similarity.matching_scores(embeddings[0].vector, embeddings[1].vector), margin)
        assert parts["matching"] == pytest.approx(float(hinge))


@pytest.mark.parametrize("pooling", similarity.POOLINGS)
def test_what_stands_in_padding_changes_no_loss_and_draws_no_gradient(embeddings, pooling):
    images, captions = embeddings
    objective = Objective(alignment=1.0, pooling=pooling)

    def loss(regions, tokens):
        return objective(images._replace(regions=regions), captions._replace(tokens=tokens), {}, ALL)[0]

    is_padding = [
        np.arange(x.shape[1]) >= np.asarray(length)[:, None]
        for x, length in ((images.regions, images.region_len), (captions.tokens, captions.caption_len))
    ]
    assert all(padding.any() for padding in is_padding)
    both = [images.regions, captions.tokens]
    other = [jnp.where(padding[..., None], 5.0, x) for padding, x in zip(is_padding, both, strict=True)]
    of = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    (value, gradients), (expected, expected_gradients) = of(*other), of(*both)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for found, wanted, padding in zip(gradients, expected_gradients, is_padding, strict=True):
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_array_equal(found[padding], 0)
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_no_gradient_reaches_the_teacher_through_distillation(embeddings):
    images, captions = embeddings

    def loss(vector, regions):
        objective = Objective(distillation=1.0)
        return objective(images._replace(vector=vector, regions=regions), captions, {}, ALL)[0]

    of_student, of_teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(images.vector, images.regions)
    assert np.abs(of_student).max() > 0
    np.testing.assert_array_equal(of_teacher, 0)


@pytest.mark.parametrize("choices", [{}, {"hardest": False}, {"ranking_loss": "info_nce"}])
def test_a_batch_of_one_pair_costs_nothing_and_gives_finite_gradients(embeddings, choices):
    single = jax.tree.map(lambda x: x[:1], embeddings)
    objective = Objective(alignment=1.0, matching=1.0, distillation=1.0, **choices)

    def loss(images, captions):
        whole = [single[n]._replace(**part) for n, part in enumerate((images, captions))]
        return objective(*whole, objective.init_params(), ALL)[0]

    floats = [{k: v for k, v in side._asdict().items() if not k.endswith("len")} for side in single]
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*floats)
    assert value == pytest.approx(0, abs=1e-6)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_learned_weights_trade_the_losses_against_their_variances(embeddings):
    objective = Objective(alignment=1.0, distillation=1.0, learned_weights=True)
    params = objective.init_params()
    assert params.keys() == {"alignment_loss", "distillation_loss"}
    assert all(group["log_variance"] == pytest.approx(INITIAL_LOG_VARIANCE) for group in params.values())
    params["alignment_loss"]["log_variance"] = jnp.asarray(0.7)

    def total(params):
        return objective(*embeddings, params, ALL)

    (value, parts), gradient = jax.value_and_grad(total, has_aux=True)(params)
    s = {"alignment": 0.7, "distillation": INITIAL_LOG_VARIANCE}
    expected = 0.5 * sum(float(parts[name]) * np.exp(-s[name]) + s[name] for name in s)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    for name in s:
        slope = 0.5 * (1 - float(parts[name]) * np.exp(-s[name]))
        assert float(gradient[f"{name}_loss"]["log_variance"]) == pytest.approx(slope, rel=1e-4)


def test_each_loss_has_the_learnable_numbers_it_needs_and_no_others():
    assert Objective(alignment=1.0, matching=1.0, distillation=1.0).init_params() == {}
    groups = Objective(alignment=1.0, distillation=1.0, ranking_loss="info_nce", distillation_mode="mse").init_params()
    assert {name: list(group) for name, group in groups.items()} == {
        "alignment_loss": ["log_scale"],
        "distillation_loss": ["affine"],
    }
    assert float(jnp.exp(groups["alignment_loss"]["log_scale"])) == pytest.approx(1 / 0.07, rel=1e-6)
    np.testing.assert_array_equal(groups["distillation_loss"]["affine"], [0.5, 0.5])


@pytest.mark.parametrize(
    ("weights", "active", "frozen", "trained"),
    [
        ({"alignment": 1.0}, ALL, (), ("backbone",)),
        ({"matching": 1.0}, ALL, ("backbone",), ("matching_head",)),
        ({"distillation": 1.0}, ALL, ("backbone",), ("matching_head",)),
        ({"matching": 1.0}, ALL, (), ("backbone", "matching_head")),
        ({"alignment": 1.0, "distillation": 1.0}, ALL, (), ("backbone", "matching_head")),
        ({"alignment": 1.0, "distillation": 1.0}, ("alignment",), (), ("backbone",)),
        ({"alignment": 1.0, "matching": 0.1}, ALL, ("matching_head",), ("backbone",)),
    ],
)
def test_only_groups_with_a_gradient_are_trained(weights, active, frozen, trained):
    assert Objective(**weights).trained_groups(active, frozen) == trained


def test_a_loss_that_waits_keeps_its_own_numbers_still():
    objective = Objective(alignment=1.0, distillation=1.0, learned_weights=True)
    assert objective.trained_groups(("alignment",), ()) == ("backbone", "alignment_loss")
    assert set(objective.trained_groups(ALL, ("backbone",))) == {"matching_head", "alignment_loss", "distillation_loss"}


def test_distillation_joins_in_with_the_epoch_that_is_named():
    objective = Objective(alignment=1.0, distillation=1.0, activate_distillation_after=2)
    assert [objective.active_in(epoch) for epoch in range(4)] == [("alignment",)] * 2 + [
        ("alignment", "distillation")
    ] * 2
