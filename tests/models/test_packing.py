"""Flat tokens: the same values and gradients as with padding, and no token lost unnoticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.models.aladin import bind
from aladin_jax.models.packing import pack, plan_packing, tokens_per_shard, unpack
from tests.golden_data import converted, unit_batch

LENGTHS = np.array([[3, 0], [5, 2], [1, 4], [0, 0]])  # two streams of four examples
MASK = np.concatenate([np.arange(slots) < LENGTHS[:, [k]] for k, slots in enumerate((5, 4))], axis=1)


@pytest.mark.parametrize(("length", "shards"), [(15, 1), (20, 1), (10, 2), (7, 4)])
def test_tokens_keep_their_order_and_find_their_way_back(length, shards):
    x = np.random.default_rng(0).standard_normal((4, 9, 2), np.float32)
    packing = plan_packing(jnp.asarray(MASK), length, shards)
    flat = pack(jnp.asarray(x), packing)
    assert flat.shape == (shards * length, 2)
    for found, rows, real in zip(np.split(flat, shards), np.split(x, shards), np.split(MASK, shards), strict=True):
        np.testing.assert_array_equal(found[: real.sum()], rows[real])
    np.testing.assert_array_equal(np.asarray(unpack(flat, packing, 4))[MASK], x[MASK])


def test_tokens_that_do_not_fit_make_everything_nan():
    x = jnp.ones((4, 9, 2))
    assert not jnp.isnan(pack(x, plan_packing(jnp.asarray(MASK), 15, 1))).any()
    assert jnp.isnan(pack(x, plan_packing(jnp.asarray(MASK), 14, 1))).all()
    # One shard too full is enough: 10 tokens in the first half, 5 in the second.
    assert jnp.isnan(pack(x, plan_packing(jnp.asarray(MASK), 9, 2))).all()


def test_a_model_whose_tokens_do_not_fit_gives_nan_vectors():
    params, config = converted("unit")
    batch = unit_batch("eval")
    model = bind(*config)
    images, captions = jax.jit(lambda params, batch: model(params)(batch, tokens_per_shard=40))(params, batch)
    assert np.isnan(images.vector).all()
    assert np.isnan(captions.vector).all()


def test_flat_arrays_have_room_for_the_fullest_shard_and_come_in_few_lengths():
    rng = np.random.default_rng(1)
    found = set()
    for _ in range(200):
        lengths = rng.integers(0, 135, 32)
        room = tokens_per_shard(lengths, slots=134, shards=4)
        fullest = lengths.reshape(4, 8).sum(1).max()
        assert fullest <= room <= fullest + 8 * 134 / 16
        found.add(room)
    assert len(found) <= 16
    assert tokens_per_shard(np.full(32, 134), slots=134, shards=4) == 8 * 134


def test_packing_leaves_values_and_gradients_of_all_parameters_as_they_are():
    params, config = converted("unit")
    batch = jax.tree.map(jnp.asarray, unit_batch("0"))
    model = bind(*config)
    rng = np.random.default_rng(2)
    weights = {
        "image": rng.standard_normal((6, 64), np.float32),
        "caption": rng.standard_normal((6, 64), np.float32),
        "regions": rng.standard_normal((6, 10, 64), np.float32),
        "tokens": rng.standard_normal((6, 16, 64), np.float32),
    }
    weights["regions"] *= (np.arange(10) < batch["region_len"][:, None])[..., None]
    weights["tokens"] *= (np.arange(16) < batch["caption_len"][:, None])[..., None]

    def loss(params, tokens_per_shard, shards):
        images, captions = model(params)(batch, tokens_per_shard=tokens_per_shard, shards=shards)
        outputs = {
            "image": images.vector,
            "caption": captions.vector,
            "regions": images.regions,
            "tokens": captions.tokens,
        }
        return sum(jnp.sum(outputs[name] * weights[name]) for name in weights)

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=(1, 2))
    value, padded = gradient(params, None, 1)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(padded)) > 0
    for layout in ((200, 1), (75, 3)):
        packed_value, packed = gradient(params, *layout)
        np.testing.assert_allclose(packed_value, value, rtol=1e-5)
        for path, expected in jax.tree.leaves_with_path(padded):
            found = packed
            for key in path:
                found = found[key.key]
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max(), err_msg=str(path))
