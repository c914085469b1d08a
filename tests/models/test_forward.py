"""The model's outputs against the golden ones, and against the formulas at other sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import bind, init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig, normalize
from tests.golden_data import arrays, converted, unit_batch
from tests.models import reference

ATOL = 2e-5
# Real tokens of the golden evaluation batch, and of the fullest third of it, both with some room.
LAYOUTS = {"padded": (None, 1), "packed": (300, 1), "packed in shards": (120, 3)}


@functools.cache
def model_of(config: ModelConfig, dtype=jnp.float32):
    return bind(*config, dtype=dtype)


def encode(params, config, batch, dtype=jnp.float32, **layout):
    model = model_of(config, dtype)
    return jax.jit(lambda params, batch: model(params)(batch, **layout))(params, batch)


@pytest.fixture(scope="module")
def small():
    """A model of another shape: 6 + 3 heads, 2 + 1 layers, no LayerNorm of regions, 3 token types; and pairs for it."""
    backbone = BackboneConfig(
        vocab_size=50,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=6,
        intermediate_size=80,
        max_position_embeddings=16,
        type_vocab_size=3,
        layer_norm_eps=1e-5,
        initializer_range=0.3,
        img_feature_dim=20,
        use_img_layernorm=False,
    )
    config = ModelConfig(backbone, MatchingHeadConfig(num_layers=1, num_heads=3))
    rng = np.random.default_rng(5)
    batch = {
        "caption_ids": rng.integers(1, 50, (4, 9)),
        "caption_len": np.array([9, 3, 1, 6]),
        "label_ids": rng.integers(1, 50, (4, 7)),
        "label_len": np.array([1, 7, 2, 4]),
        "region_len": np.array([5, 1, 3, 4]),
    }
    batch = {name: array.astype(np.int32) for name, array in batch.items()}
    batch["region_features"] = rng.standard_normal((4, 5, 20), np.float32)
    # Biases start at zero and scales at one; move them, so that a mistake with one shows.
    params = jax.tree.map(lambda p: p + 0.1 * rng.standard_normal(p.shape, np.float32), init_params(*config, seed=1))
    return params, config, batch


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_streams_equal_the_originals(differences, layout):
    params, config = converted("unit")
    batch, expected = unit_batch("eval"), arrays("unit/expected.npz")
    tokens_per_shard, shards = LAYOUTS[layout]
    images, captions = encode(params, config, batch, tokens_per_shard=tokens_per_shard, shards=shards)
    check_golden(differences, images, captions, expected, "forward")
    for group in images, captions:
        assert group.vector.dtype == jnp.float32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_stream_alone_equals_the_originals(differences, layout):
    params, config = converted("unit")
    batch, expected = unit_batch("eval"), arrays("unit/expected.npz")
    tokens_per_shard, shards = LAYOUTS[layout]
    model = model_of(config)

    @jax.jit
    def alone(params, image_batch, caption_batch):
        return (
            model(params).encode_images(image_batch, tokens_per_shard=tokens_per_shard, shards=shards),
            model(params).encode_captions(caption_batch, tokens_per_shard=tokens_per_shard, shards=shards),
        )

    captions = {name: batch[name] for name in ("caption_ids", "caption_len")}
    images = {name: array for name, array in batch.items() if name not in captions}
    check_golden(differences, *alone(params, images, captions), expected, "forward")


def check_golden(differences, images, captions, expected, group):
    differences.check(f"unit {group}: matching vectors", images.vector, expected[f"{group}/image_embedding"], atol=ATOL)
    differences.check(
        f"unit {group}: matching vectors", captions.vector, expected[f"{group}/caption_embedding"], atol=ATOL
    )
    regions, tokens = normalize(images.regions), normalize(captions.tokens)
    for n, (region_len, caption_len) in enumerate(zip(images.region_len, captions.caption_len, strict=True)):
        for name, found, length in (("region", regions, region_len), ("token", tokens, caption_len)):
            differences.check(
                f"unit {group}: {name} vectors",
                found[n, :length],
                expected[f"{group}/{name}_embeddings"][n, :length],
                atol=ATOL,
            )


@pytest.mark.parametrize("tokens_per_shard", [None, 60])
def test_another_size_without_region_layernorm_follows_the_formulas(small, tokens_per_shard):
    params, config, batch = small
    assert "region_norm" not in params["backbone"]
    images, captions = encode(params, config, batch, tokens_per_shard=tokens_per_shard)
    for n in range(4):
        expected = reference.encode(params, config, batch, n)
        np.testing.assert_allclose(images.vector[n], expected.image, atol=1e-5)
        np.testing.assert_allclose(images.regions[n, : batch["region_len"][n]], expected.regions, atol=1e-5)
        np.testing.assert_allclose(captions.vector[n], expected.caption, atol=1e-5)
        np.testing.assert_allclose(captions.tokens[n, : batch["caption_len"][n]], expected.tokens, atol=1e-5)


def test_the_formulas_of_these_tests_are_the_originals(differences):
    params, config = converted("unit")
    expected = arrays("unit/expected.npz")
    found = reference.encode(params, config, unit_batch("eval"), 0)
    np.testing.assert_allclose(found.image, expected["forward/image_embedding"][0], atol=1e-6)
    np.testing.assert_allclose(found.caption, expected["forward/caption_embedding"][0], atol=1e-6)


def test_what_stands_in_padding_changes_nothing(small):
    params, config, batch = small
    noise = np.random.default_rng(6)
    spoilt = {name: array.copy() for name, array in batch.items()}
    for side, name in (("caption", "caption_ids"), ("label", "label_ids"), ("region", "region_features")):
        padding = np.arange(batch[name].shape[1]) >= batch[f"{side}_len"][:, None]
        spoilt[name][padding] = noise.integers(1, 50, spoilt[name][padding].shape)
    for tokens_per_shard in (None, 60):
        clean, other = (encode(params, config, b, tokens_per_shard=tokens_per_shard) for b in (batch, spoilt))
        for side, length, name in ((0, "region_len", "regions"), (1, "caption_len", "tokens")):
            np.testing.assert_array_equal(clean[side].vector, other[side].vector)
            for n in range(4):
                real = slice(batch[length][n])
                np.testing.assert_array_equal(getattr(clean[side], name)[n, real], getattr(other[side], name)[n, real])


def test_an_empty_row_gives_finite_numbers(small):
    params, config, batch = small
    empty = {name: np.concatenate([array, np.zeros_like(array[:1])]) for name, array in batch.items()}
    for tokens_per_shard in (None, 60):
        outputs = encode(params, config, empty, tokens_per_shard=tokens_per_shard)
        assert all(np.isfinite(array).all() for array in jax.tree.leaves(outputs))


def test_bfloat16_stays_close_to_float32_and_gives_float32_vectors_and_bfloat16_regions_and_tokens():
    params, config = converted("unit")
    batch = unit_batch("eval")
    exact, rounded = encode(params, config, batch), encode(params, config, batch, jnp.bfloat16, tokens_per_shard=300)
    for full, half in zip(exact, rounded, strict=True):
        assert half.vector.dtype == jnp.float32
        assert half[1].dtype == jnp.bfloat16
        cosine = np.sum(full.vector * half.vector, axis=1)
        assert cosine.min() > 0.999
        assert 0 < np.abs(full.vector - half.vector).max() < 0.02
