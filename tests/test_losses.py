"""Losses of score matrices against the golden ones and against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax import losses
from aladin_jax.scores import similarity
from tests.golden_data import arrays

RTOL = 1e-4


@pytest.fixture(scope="module")
def expected():
    return arrays("unit/expected.npz")


@pytest.fixture(scope="module")
def scores():
    return jnp.asarray(np.random.default_rng(4).standard_normal((7, 7), np.float32))


def golden_scores(expected, name):
    return jnp.asarray(expected[f"{name}/scores"])


@pytest.mark.parametrize("pooling", similarity.POOLINGS)
def test_hinge_losses_of_alignment_scores_are_the_originals(expected, differences, pooling):
    scores = golden_scores(expected, f"alignment/{pooling}")
    for hardest, name in ((True, "loss"), (False, "loss_sum_of_violations")):
        loss = losses.hinge_triplet(scores, hardest=hardest)
        differences.check("unit alignment: losses", loss, expected[f"alignment/{pooling}/{name}"], rtol=RTOL)


@pytest.mark.parametrize("measure", similarity.MEASURES)
def test_hinge_losses_of_matching_scores_are_the_originals(expected, differences, measure):
    loss = losses.hinge_triplet(golden_scores(expected, f"matching/{measure}"))
    differences.check("unit matching: losses", loss, expected[f"matching/{measure}/loss"], rtol=RTOL)


def test_info_nce_is_the_originals(expected, differences):
    loss = losses.info_nce(golden_scores(expected, "matching/dot"), losses.INITIAL_LOG_SCALE)
    differences.check("unit matching: losses", loss, expected["matching/infonce/loss"], rtol=RTOL)


@pytest.mark.parametrize("mode", losses.DISTILLATION_MODES)
def test_distillation_losses_are_the_originals(expected, differences, mode):
    teacher, student = golden_scores(expected, "alignment/MrSw"), golden_scores(expected, "matching/dot")
    loss = losses.distillation(teacher, student, mode)
    differences.check("unit distillation: losses", loss, expected[f"distillation/{mode}"], rtol=RTOL)


def test_the_hinge_counts_every_violation_or_each_pairs_worst(scores):
    n = len(scores)
    violations = {
        (i, c, direction): max(0.0, 0.3 + float(scores[i, c]) - float(scores[k, k]))
        for i in range(n)
        for c in range(n)
        for direction, k in (("caption", i), ("image", c))
        if i != c
    }
    every = losses.hinge_triplet(scores, margin=0.3, hardest=False)
    assert float(every) == pytest.approx(sum(violations.values()), rel=1e-5)
    worst = sum(max(violations[k, c, "caption"] for c in range(n) if c != k) for k in range(n))
    worst += sum(max(violations[i, k, "image"] for i in range(n) if i != k) for k in range(n))
    assert float(losses.hinge_triplet(scores, margin=0.3)) == pytest.approx(worst, rel=1e-5)


def test_the_hinge_is_zero_where_pairs_beat_all_others_by_the_margin():
    scores = jnp.full((4, 4), 0.5) + 0.21 * jnp.eye(4)
    for hardest in (True, False):
        assert losses.hinge_triplet(scores, margin=0.2, hardest=hardest) == 0
        assert losses.hinge_triplet(scores, margin=0.22, hardest=hardest) > 0


def test_info_nce_is_the_mean_cross_entropy_of_both_directions(scores):
    logits = np.asarray(scores, float) * 4

    def cross_entropy(logits):
        return np.mean(np.log(np.exp(logits).sum(1)) - np.diagonal(logits))

    expected = (cross_entropy(logits) + cross_entropy(logits.T)) / 2
    assert float(losses.info_nce(scores, np.log(4))) == pytest.approx(expected, rel=1e-5)


def test_the_info_nce_scale_receives_a_gradient(scores):
    matched = scores + 9 * jnp.eye(len(scores))
    slope = jax.grad(lambda s: losses.info_nce(matched, s))
    assert slope(0.0) < 0  # well matched pairs want a lower temperature
    assert jax.grad(lambda s: losses.info_nce(-matched, s))(0.0) > 0


def test_pairs_that_score_alike_cost_the_logarithm_of_the_batch():
    assert float(losses.info_nce(jnp.ones((5, 5)), 3.0)) == pytest.approx(np.log(5))


@pytest.mark.parametrize("mode", losses.DISTILLATION_MODES)
def test_the_student_learns_and_the_teacher_gets_no_gradient(scores, mode):
    student = jnp.asarray(np.random.default_rng(5).standard_normal((7, 7), np.float32))
    of_teacher, of_student = jax.grad(losses.distillation, argnums=(0, 1))(scores, student, mode)
    np.testing.assert_array_equal(of_teacher, 0)
    assert np.abs(of_student).max() > 1e-3
    lower = losses.distillation(scores, student - 0.01 * of_student, mode)
    assert lower < losses.distillation(scores, student, mode)


@pytest.mark.parametrize("mode", losses.DISTILLATION_MODES)
def test_both_directions_count_alike(scores, mode):
    student = jnp.asarray(np.random.default_rng(6).standard_normal((7, 7), np.float32))
    there, back = losses.distillation(scores, student, mode), losses.distillation(scores.T, student.T, mode)
    np.testing.assert_allclose(there, back, rtol=1e-5)


def test_listnet_is_smallest_where_the_student_ranks_as_the_teacher(scores):
    best = losses.distillation(scores, scores / losses.LISTNET_TEMPERATURE)
    probabilities = [np.asarray(jax.nn.softmax(s, axis=1), float) for s in (scores, scores.T)]
    entropy = sum(-(p * np.log(p)).sum(1).mean() for p in probabilities)
    assert float(best) == pytest.approx(entropy, rel=1e-4)
    assert losses.distillation(scores, -scores / losses.LISTNET_TEMPERATURE) > best


def test_mse_fits_an_affine_function_of_the_student(scores):
    assert losses.distillation(scores * 3 - 1, scores, "mse", affine=(3.0, -1.0)) == pytest.approx(0, abs=1e-10)
    gradient = jax.grad(lambda affine: losses.distillation(scores, scores, "mse", affine=affine))
    np.testing.assert_allclose(gradient(jnp.asarray([1.0, 0.5])), [2 * 0.5 * scores.mean(), 1], rtol=1e-4)


def test_ordinal_compares_scores_a_stride_apart_in_the_teachers_order():
    teacher = jnp.asarray([[0.05, 0.4, 0.02, 0.3]] * 4)  # order of every row: 2, 0, 3, 1
    student = jnp.asarray([[0.0, 1.0, 0.5, 0.2]] * 4)
    found = losses.distillation(teacher, student, "ordinal", stride=2, margin=0.1, threshold=0.1)
    rows = (max(0, 0.1 + 0.5 - 0.2) + max(0, 0.1 + 0.0 - 1.0)) / 2
    # All of a column's scores are equal, in the teacher and in the student: each counted comparison costs the margin.
    columns = 0.1
    assert float(found) == pytest.approx(rows + columns, rel=1e-5)


def test_ordinal_without_any_pair_above_the_threshold_is_zero(scores):
    assert losses.distillation(scores - 100, scores, "ordinal") == 0


def test_a_single_pair_has_nothing_to_be_told_from():
    one = jnp.asarray([[0.3]])
    assert losses.hinge_triplet(one) == 0
    assert losses.info_nce(one, 1.0) == 0
    assert losses.distillation(one, one) == pytest.approx(0, abs=1e-6)
    for mode in losses.DISTILLATION_MODES:
        assert np.isfinite(losses.distillation(one, one, mode))


def test_an_unknown_distillation_mode_is_refused_with_the_known_ones(scores, unchecked):
    with pytest.raises(ValueError, match="mode is 'kl'; choose one of listnet, mse, ordinal, contrastive"):
        losses.distillation(scores, scores, "kl")


@pytest.fixture(scope="module")
def masked():
    """Pairs 1 and 4 are of one image, as are 0, 2 and 5."""
    return losses.same_image(jnp.asarray([3, 8, 3, 1, 8, 3, 2]))


def test_pairs_of_one_image_are_masked_and_no_pair_itself(masked):
    found = {(int(i), int(c)) for i, c in np.argwhere(masked)}
    assert found == {(1, 4), (4, 1), (0, 2), (2, 0), (0, 5), (5, 0), (2, 5), (5, 2)}


MASKED_LOSSES = {
    "hinge on the hardest": lambda scores, masked: losses.hinge_triplet(scores, masked=masked),
    "hinge on all": lambda scores, masked: losses.hinge_triplet(scores, hardest=False, masked=masked),
    "InfoNCE": lambda scores, masked: losses.info_nce(scores, 1.0, masked=masked),
} | {
    f"distillation, {mode}": lambda scores, masked, mode=mode: losses.distillation(
        scores[::-1] * 0.5 + scores, scores, mode, masked=masked
    )
    for mode in losses.DISTILLATION_MODES
    if mode != "contrastive"  # it chooses columns by row, so that a masked score may be another row's negative
}


@pytest.mark.parametrize("loss", MASKED_LOSSES.values(), ids=MASKED_LOSSES)
def test_masked_scores_get_no_gradient_and_the_others_a_finite_one(loss, scores, masked):
    gradient = np.asarray(jax.grad(loss)(scores, masked))
    np.testing.assert_array_equal(gradient[np.asarray(masked)], 0)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("mode", losses.DISTILLATION_MODES)
def test_masked_scores_of_teacher_and_student_change_nothing(mode, scores, masked):
    student = jnp.asarray(np.random.default_rng(5).standard_normal((7, 7), np.float32))
    loss = losses.distillation(scores, student, mode, masked=masked)
    other = losses.distillation(
        jnp.where(masked, 5.0, scores), jnp.where(masked & (mode != "contrastive"), -7.0, student), mode, masked=masked
    )
    assert loss == other
    assert loss != losses.distillation(scores, student, mode)


@pytest.mark.parametrize("mode", losses.DISTILLATION_MODES)
def test_a_mask_of_nothing_is_no_mask(mode, scores):
    nothing = losses.same_image(jnp.arange(7))
    student = scores[::-1]
    assert losses.hinge_triplet(scores, masked=nothing) == losses.hinge_triplet(scores)
    assert losses.info_nce(scores, 2.0, masked=nothing) == losses.info_nce(scores, 2.0)
    found, expected = (losses.distillation(scores, student, mode, masked=mask) for mask in (nothing, None))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_masked_hinge_is_that_of_the_remaining_negatives(scores, masked):
    n, gone = len(scores), np.asarray(masked)
    expected = 0.0
    for k in range(n):
        others = [j for j in range(n) if j != k and not gone[k, j]]
        expected += max(max(0.0, 0.2 + float(scores[k, j] - scores[k, k])) for j in others)
        expected += max(max(0.0, 0.2 + float(scores[j, k] - scores[k, k])) for j in others)
    assert float(losses.hinge_triplet(scores, masked=masked)) == pytest.approx(expected, rel=1e-5)
