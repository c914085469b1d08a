"""The best region of every word and the sum over words, and its gradient, against the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.scores import maxsim as module
from aladin_jax.scores import similarity
from aladin_jax.scores.maxsim import best_region, maxsim


def plain(regions, is_region, floored, words, is_word):
    images = similarity.Padded(regions, is_region, floored, jnp.asarray(0))
    captions = similarity.Padded(words, is_word, jnp.zeros(len(words), bool), jnp.asarray(0))
    return similarity.sum_of_best(images, captions)


def example(images, regions, captions, words, d=8, seed=0):
    rng = np.random.default_rng(seed)
    region_len, caption_len = rng.integers(0, regions + 1, images), rng.integers(0, words + 1, captions)
    region_len[0], caption_len[0] = regions, 0
    return (
        jnp.asarray(rng.standard_normal((images, regions, d), np.float32)),
        jnp.arange(regions) < region_len[:, None],
        jnp.asarray((region_len == 0) | (rng.random(images) < 0.5)),
        jnp.asarray(rng.standard_normal((captions, words, d), np.float32)),
        jnp.arange(words) < caption_len[:, None],
    )


def gradients_and_scores(function, regions, is_region, floored, words, is_word):
    weights = jnp.asarray(np.random.default_rng(1).standard_normal((len(regions), len(words)), np.float32))

    def of(regions, words):
        scores = function(regions, is_region, floored, words, is_word)
        return (weights * scores).sum(), scores

    return jax.jit(jax.grad(of, argnums=(0, 1), has_aux=True))(regions, words)


# Less than one chunk of words; several; and as many words as make the chunks large. On accelerators, one chunk and two;
# and where the caller knows how many words there are at most: fewer than padded slots, more of them, several chunks.
@pytest.mark.parametrize(
    ("sizes", "backend", "room"),
    [((3, 5, 4, 6), "cpu", None), ((5, 7, 60, 9), "cpu", None), ((2, 3, 700, 24), "cpu", None),
     ((5, 7, 60, 9), "gpu", None), ((2, 3, 700, 24), "gpu", None),
     ((5, 7, 60, 9), "gpu", 400), ((5, 7, 60, 9), "gpu", 1000), ((2, 3, 700, 24), "gpu", 9216)],
)  # fmt: skip
def test_scores_and_gradients_equal_the_plain_formula(sizes, backend, room, monkeypatch):
    monkeypatch.setattr(module.jax, "default_backend", lambda: backend)
    given = example(*sizes)
    gradients, scores = gradients_and_scores(functools.partial(maxsim, room=room), *given)
    expected_gradients, expected = gradients_and_scores(plain, *given)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=2e-4)


def test_words_without_room_make_all_scores_nan():
    given = example(5, 7, 60, 9)
    words = int(given[-1].sum())
    assert np.isfinite(maxsim(*given, words)).all()
    assert np.isnan(maxsim(*given, words - 1)).all()


def test_with_room_for_few_words_an_accelerator_need_not_tell_its_host_when_to_stop(monkeypatch):
    monkeypatch.setattr(module.jax, "default_backend", lambda: "gpu")
    given = example(2, 3, 700, 24)

    def loops(room):
        lowered = jax.jit(functools.partial(gradients_and_scores, functools.partial(maxsim, room=room))).lower(*given)
        return lowered.as_text().count("stablehlo.while")

    assert (loops(None), loops(4096)) == (2, 0)


def test_bfloat16_vectors_are_multiplied_as_such_and_summed_in_float32():
    regions, is_region, floored, words, is_word = example(5, 7, 60, 9, d=64)
    rough = (regions.astype(jnp.bfloat16), is_region, floored, words.astype(jnp.bfloat16), is_word)
    rounded = (rough[0].astype(jnp.float32), is_region, floored, rough[3].astype(jnp.float32), is_word)
    (of_regions, of_words), scores = gradients_and_scores(maxsim, *rough)
    expected_gradients, expected = gradients_and_scores(plain, *rounded)
    assert scores.dtype == jnp.float32
    assert of_regions.dtype == of_words.dtype == jnp.bfloat16
    # The products of two bfloat16 numbers are exact in float32.
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-4)
    for gradient, exact in zip((of_regions, of_words), expected_gradients, strict=True):
        np.testing.assert_allclose(gradient.astype(jnp.float32), exact, rtol=0.02, atol=0.02 * np.abs(exact).max())


def test_the_best_region_is_the_first_of_the_largest_on_either_axis():
    regions = jnp.asarray([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 2.0], [-1.0, 0.0]]])  # [r, i, d]
    words = jnp.asarray([[0.0, 1.0], [1.0, 0.0]])
    for given, axis in ((regions, 0), (regions.swapaxes(0, 1), 1)):
        value, region = best_region(words, given, region_axis=axis)
        np.testing.assert_array_equal(value, [[2, 1], [1, 0]])
        np.testing.assert_array_equal(region, [[1, 0], [0, 0]])


def test_padding_gets_no_gradient_and_has_no_effect_whatever_it_holds():
    regions, is_region, floored, words, is_word = example(3, 5, 4, 6)
    huge = jnp.where(is_region[..., None], regions, 1e30), jnp.where(is_word[..., None], words, -1e30)

    def total(regions, words):
        return maxsim(regions, is_region, floored, words, is_word).sum()

    np.testing.assert_array_equal(total(regions, words), total(*huge))
    for gradient, real in zip(jax.grad(total, argnums=(0, 1))(*huge), (is_region, is_word), strict=True):
        assert np.all(np.asarray(gradient)[~np.asarray(real)] == 0)


def test_of_equally_good_regions_the_first_gets_the_gradient():
    regions = jnp.asarray([[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]])
    words = jnp.asarray([[[0.0, 2.0]]])
    everything = jnp.ones((1, 3), bool), jnp.zeros(1, bool), words, jnp.ones((1, 1), bool)
    gradient = jax.grad(lambda x: maxsim(x, *everything).sum())(regions)
    np.testing.assert_array_equal(gradient, [[[0, 0], [0, 2], [0, 0]]])


def test_no_word_anywhere_scores_zero_and_moves_nothing():
    regions, is_region, floored, words, is_word = example(3, 5, 4, 6)
    none = jnp.zeros_like(is_word)
    scores, (gradient, _) = jax.value_and_grad(
        lambda regions, words: maxsim(regions, is_region, floored, words, none).sum(), argnums=(0, 1)
    )(regions, words)
    assert scores == 0
    assert np.all(np.asarray(gradient) == 0)


def test_nothing_as_large_as_all_similarities_is_allocated():
    images = captions = 64
    regions, words, d = 33, 47, 16
    shapes = (
        jax.ShapeDtypeStruct((images, regions, d), jnp.float32),
        jax.ShapeDtypeStruct((images, regions), bool),
        jax.ShapeDtypeStruct((images,), bool),
        jax.ShapeDtypeStruct((captions, words, d), jnp.float32),
        jax.ShapeDtypeStruct((captions, words), bool),
    )
    gradient = jax.grad(lambda *args: maxsim(*args).sum(), argnums=(0, 3))
    memory = jax.jit(gradient).lower(*shapes).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * images * regions * captions * words / 4
