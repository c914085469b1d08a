"""Scores of both heads against the golden ones, and what the golden data does not show by hand-made cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.scores import similarity
from tests.golden_data import arrays, unit_batch

ATOL = 1e-4


@pytest.fixture(scope="module")
def golden():
    """The original's outputs of the evaluation batch, on which its scores stand."""
    expected, batch = arrays("unit/expected.npz"), unit_batch("eval")
    names = {"regions": "forward/region_embeddings", "tokens": "forward/token_embeddings"}
    sides = {side: jnp.asarray(expected[name]) for side, name in names.items()}
    return sides | {length: jnp.asarray(batch[length]) for length in ("region_len", "caption_len")}


SCORE = jax.jit(similarity.alignment_scores, static_argnames=("pooling", "floor"))


def all_pairs(golden, **choices):
    return SCORE(golden["regions"], golden["region_len"], golden["tokens"], golden["caption_len"], **choices)


@pytest.mark.parametrize("pooling", similarity.POOLINGS)
def test_alignment_scores_are_the_originals(golden, differences, pooling):
    expected = arrays("unit/expected.npz")[f"alignment/{pooling}/scores"]
    differences.check(f"unit alignment {pooling}: scores", all_pairs(golden, pooling=pooling), expected, atol=ATOL)


def test_evaluation_scores_are_the_originals(differences):
    golden = {name: jnp.asarray(array) for name, array in arrays("unit/retrieval.npz").items()}
    scores = similarity.alignment_scores(
        golden["region_embeddings"],
        golden["region_len"],
        golden["token_embeddings"],
        golden["caption_len"],
        floor="always",
    )
    differences.check("unit retrieval: alignment scores", scores, golden["alignment_scores"], atol=ATOL)


@pytest.mark.parametrize("measure", similarity.MEASURES)
def test_matching_scores_are_the_originals(differences, measure):
    expected = arrays("unit/expected.npz")
    vectors = (jnp.asarray(expected[f"forward/{side}_embedding"]) for side in ("image", "caption"))
    scores = similarity.matching_scores(*vectors, measure=measure)
    differences.check(f"unit matching {measure}: scores", scores, expected[f"matching/{measure}/scores"], atol=ATOL)


def test_lengths_and_directions_do_not_matter_to_cosine_but_do_to_dot():
    rng = np.random.default_rng(0)
    images, captions = (jnp.asarray(rng.standard_normal((n, 5), np.float32)) for n in (3, 4))
    scaled = images * jnp.asarray([[2.0], [0.5], [9.0]])
    np.testing.assert_allclose(
        similarity.matching_scores(scaled, captions, measure="cosine"),
        similarity.matching_scores(images, captions, measure="cosine"),
        rtol=1e-5,
    )
    np.testing.assert_allclose(similarity.matching_scores(images, captions), images @ captions.T, rtol=1e-5)


def test_order_scores_count_what_the_caption_exceeds_the_image_by():
    images = jnp.asarray([[1.0, 1.0], [3.0, 5.0]])
    captions = jnp.asarray([[4.0, 5.0], [0.0, 1.0]])
    scores = similarity.matching_scores(images, captions, measure="order")
    np.testing.assert_allclose(scores, [[-5.0, 0.0], [-1.0, 0.0]], rtol=1e-6)


def test_the_gradient_of_order_scores_is_finite_where_nothing_is_exceeded():
    x = jnp.ones((2, 3))
    gradient = jax.grad(lambda x: similarity.matching_scores(x, x, measure="order").sum())(x)
    np.testing.assert_array_equal(gradient, 0)


def on_circle(*degrees):
    """Unit vectors in two dimensions."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=-1).astype(np.float32)


@pytest.fixture
def far_apart():
    """Two images with 2 and 1 regions, two captions with 1 and 2 words; image 1 has no region near any word.

    Position 0 of an image, and [CLS], the last word piece and [SEP] of a caption, hold what would win if it counted.
    """
    regions = np.zeros((2, 3, 2), np.float32)
    regions[0] = np.concatenate([on_circle(0), 3 * on_circle(60, 200)])  # lengths do not count
    regions[1, :2] = np.concatenate([on_circle(0), on_circle(180)])
    tokens = np.zeros((2, 5, 2), np.float32)
    tokens[0, :4] = np.concatenate([on_circle(60), on_circle(0), on_circle(60, 60)])
    tokens[1] = np.concatenate([on_circle(60), on_circle(0, 30), on_circle(60, 60)])
    return {
        "regions": jnp.asarray(regions),
        "region_len": jnp.asarray([3, 2]),
        "tokens": jnp.asarray(tokens),
        "caption_len": jnp.asarray([4, 5]),
    }


COS_60, COS_30 = 0.5, 3**0.5 / 2


def test_only_an_image_shorter_than_the_batchs_longest_is_floored_in_training(far_apart):
    scores = all_pairs(far_apart, floor="batch")
    # Image 1 sees cos 180 = -1 and cos 150 = -0.87, and is short: 0 for every word.
    np.testing.assert_allclose(scores, [[COS_60, COS_60 + COS_30], [0, 0]], atol=1e-6)
    alone = {
        "regions": far_apart["regions"][1:],
        "region_len": far_apart["region_len"][1:],
        "tokens": far_apart["tokens"],
        "caption_len": far_apart["caption_len"],
    }
    np.testing.assert_allclose(all_pairs(alone, floor="batch"), [[-1, -1 - COS_30]], atol=1e-6)
    # In evaluation all are padded, and floored.
    np.testing.assert_allclose(all_pairs(alone, floor="always"), [[0, 0]], atol=1e-6)


def test_static_padding_does_not_make_an_image_short(far_apart):
    longer = far_apart | {
        "regions": jnp.pad(far_apart["regions"], ((0, 0), (0, 9), (0, 0)), constant_values=7),
        "tokens": jnp.pad(far_apart["tokens"], ((0, 0), (0, 9), (0, 0)), constant_values=7),
    }
    for pooling in similarity.POOLINGS:
        for floor in ("batch", "always"):
            np.testing.assert_allclose(
                all_pairs(longer, pooling=pooling, floor=floor),
                all_pairs(far_apart, pooling=pooling, floor=floor),
                atol=1e-6,
            )


def test_captions_and_regions_are_floored_by_their_own_lengths(far_apart):
    # The best word of each region: caption 0 is the shorter one. Regions at 60, 200 | 180; words at 0 | 0, 30.
    cos_200, cos_170 = np.cos(np.deg2rad([200, 170]))
    expected = [[COS_60 + 0, COS_30 + max(cos_200, cos_170)], [0, -COS_30]]
    np.testing.assert_allclose(all_pairs(far_apart, pooling="MwSr", floor="batch"), expected, atol=1e-6)
    np.testing.assert_allclose(
        all_pairs(far_apart, pooling="symm", floor="batch"),
        np.asarray(expected) + np.asarray(all_pairs(far_apart, floor="batch")),
        atol=1e-6,
    )


def test_means_divide_by_what_the_original_divides_by(far_apart):
    total = np.asarray(all_pairs(far_apart, pooling="sum", floor="batch"))
    # Training: the batch's longest, 2 regions and 2 words; evaluation: the original's padding, whatever is real.
    np.testing.assert_allclose(all_pairs(far_apart, pooling="mean", floor="batch"), total / 4, atol=1e-6)
    np.testing.assert_allclose(all_pairs(far_apart, pooling="mean", floor="always"), total / (70 * 68), atol=1e-8)
    words = np.array([1, 2])
    np.testing.assert_allclose(
        all_pairs(far_apart, pooling="MrAVGw"), np.asarray(all_pairs(far_apart)) / words, atol=1e-6
    )


@pytest.mark.parametrize("pooling", similarity.POOLINGS)
def test_captions_without_words_and_images_without_regions_score_zero(far_apart, pooling):
    # [CLS] and [SEP] alone, with one word piece, and a row that only fills up a batch; an image of one region.
    given = far_apart | {
        "tokens": jnp.concatenate([far_apart["tokens"], jnp.ones((3, 5, 2))]),
        "caption_len": jnp.asarray([4, 5, 2, 3, 0]),
        "regions": jnp.concatenate([far_apart["regions"], jnp.ones((2, 3, 2))]),
        "region_len": jnp.asarray([3, 2, 1, 0]),
    }
    for floor in ("batch", "always"):
        scores = np.array(all_pairs(given, pooling=pooling, floor=floor))
        np.testing.assert_array_equal(scores[2:], 0)
        np.testing.assert_array_equal(scores[:, 2:], 0)
        assert (scores[0, :2] != 0).all()
    gradient = jax.grad(lambda x: all_pairs(given | {"tokens": x}, pooling=pooling).sum())(given["tokens"])
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[2:], 0)


def test_unknown_choices_are_refused_with_the_known_ones(far_apart, unchecked):
    with pytest.raises(ValueError, match="pooling is 'max'; choose one of MrSw, MrAVGw, MwSr, symm, sum, mean, scan-s"):
        all_pairs(far_apart, pooling="max")
    with pytest.raises(ValueError, match=r"floor is 'never'; choose 'batch' .* or 'always'"):
        all_pairs(far_apart, floor="never")
    with pytest.raises(ValueError, match="measure is 'l2'; choose one of dot, cosine, order"):
        similarity.matching_scores(jnp.ones((1, 2)), jnp.ones((1, 2)), measure="l2")
