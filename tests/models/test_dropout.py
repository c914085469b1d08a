"""Dropout: its rate and scale, where it acts, and that it is off without a key."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.models.aladin import bind
from aladin_jax.models.attention import attention, dropout
from tests.golden_data import converted, unit_batch


@pytest.mark.parametrize("rate", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(100_001,), (7, 5, 4, 1001)])
def test_entries_are_dropped_at_the_rate_and_the_rest_scaled_up(rate, shape):
    x = jnp.full(shape, 3.0)
    out = np.asarray(dropout(x, rate, jax.random.key(1)))
    dropped = out == 0
    assert dropped.mean() == pytest.approx(rate, abs=5 * (rate * (1 - rate) / out.size) ** 0.5)
    np.testing.assert_allclose(out[~dropped], 3 / (1 - rate), rtol=1e-6)
    # Neighbours, of which two share a random word, are independent.
    flat = dropped.ravel()
    both = (flat[:-1] & flat[1:]).mean()
    assert both == pytest.approx(rate**2, abs=5 / out.size**0.5 * rate)


def test_dropout_depends_on_the_key_alone_and_is_off_without_one():
    x = jnp.arange(1.0, 2000.0)
    one, again, other = (dropout(x, 0.3, jax.random.key(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    np.testing.assert_array_equal(dropout(x, 0.3, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(1)), x)


def test_gradients_pass_where_values_do():
    x = jnp.ones(5000)
    gradient = jax.grad(lambda x: dropout(x, 0.4, jax.random.key(3)).sum())(x)
    np.testing.assert_array_equal(gradient, dropout(x, 0.4, jax.random.key(3)))


def test_attention_weights_are_dropped_but_not_their_sum_on_average():
    qkv = jnp.concatenate([jnp.zeros((4, 50, 16)), jnp.ones((4, 50, 8))], axis=2)  # even attention, all values 1
    mask = jnp.ones((4, 50), bool)
    out = attention(qkv, mask, num_heads=2, dropout_rate=0.2, key=jax.random.key(0))
    kept = np.asarray(out) * 0.8 * 50
    np.testing.assert_allclose(kept, np.round(kept), atol=1e-3)  # a number of whole weights of 1/50
    assert kept.mean() == pytest.approx(40, abs=0.5)
    assert kept.std() > 1


def encode(key, hidden=0.0, of_attention=0.0, head=0.0):
    """Encodes a golden batch, with dropout in some places only."""
    params, config = converted("unit")
    model = bind(
        dataclasses.replace(config.backbone, hidden_dropout_prob=hidden, attention_probs_dropout_prob=of_attention),
        dataclasses.replace(config.matching_head, dropout=head),
    )
    encode = jax.jit(lambda params, batch, key: model(params)(batch, key=key, tokens_per_shard=200))
    return encode(params, unit_batch("0"), key)


@pytest.fixture(scope="module")
def plain():
    return encode(None)


@pytest.mark.parametrize("place", ["hidden", "of_attention", "head"])
def test_each_rate_acts_in_its_own_place(plain, place):
    real = np.arange(10) < unit_batch("0")["region_len"][:, None]
    images, captions = encode(jax.random.key(1), **{place: 0.1})
    in_backbone = place != "head"
    assert np.allclose(images.regions[real], plain[0].regions[real], atol=1e-5) == (not in_backbone)
    assert np.allclose(captions.tokens[:, 0], plain[1].tokens[:, 0], atol=1e-5) == (not in_backbone)
    for found, without in ((images, plain[0]), (captions, plain[1])):
        difference = np.abs(found.vector - without.vector).max(axis=1)
        assert (difference > 1e-4).all()
        assert (np.sum(found.vector * without.vector, axis=1) > 0.5).all()


def test_without_a_key_the_rates_do_not_matter(plain):
    jax.tree.map(np.testing.assert_array_equal, plain, encode(None, 0.1, 0.1, 0.1))
