"""Fresh weights: BERT's in the backbone, torch's nn.TransformerEncoderLayer's in the matching head."""

import jax
import numpy as np
import pytest

from aladin_jax.model_folder import flatten
from aladin_jax.models.aladin import init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig

SIZE = 96
CONFIG = BackboneConfig(
    vocab_size=500,
    hidden_size=SIZE,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=160,
    max_position_embeddings=64,
    initializer_range=0.05,
    img_feature_dim=100,
)


@pytest.fixture(scope="module")
def params():
    return flatten(init_params(CONFIG, MatchingHeadConfig(), seed=3))


def test_all_are_float32_and_the_layers_are_stacked(params):
    assert {leaf.dtype for leaf in params.values()} == {np.dtype("float32")}
    assert params["backbone/layers/qkv/kernel"].shape == (2, SIZE, 3 * SIZE)
    assert params["matching_head/layers/intermediate/kernel"].shape == (2, SIZE, SIZE)


def test_norms_begin_as_the_identity(params):
    norms = [name for name in params if "norm/" in name]
    assert len(norms) == 12
    for name in norms:
        assert (params[name] == (1 if name.endswith("scale") else 0)).all(), name


def test_the_backbones_weights_are_normal_and_its_biases_zero(params):
    backbone = {name: np.asarray(leaf) for name, leaf in params.items() if name.startswith("backbone/")}
    for name, leaf in backbone.items():
        if name.endswith("bias"):
            assert (leaf == 0).all(), name
        elif not name.endswith("scale"):
            spread = 0.05 / leaf.size**0.5
            assert abs(leaf.mean()) < 5 * spread, name
            assert leaf.std() == pytest.approx(0.05, abs=4 * spread), name
            if leaf.size > 1000:  # the kurtosis of a normal distribution is 3, of a uniform one 1.8
                assert np.mean(leaf**4) / leaf.var() ** 2 == pytest.approx(3, abs=25 / leaf.size**0.5), name


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("qkv/kernel", (6 / (SIZE + 3 * SIZE)) ** 0.5),  # Xavier's
        ("attention_output/kernel", SIZE**-0.5),
        ("intermediate/kernel", SIZE**-0.5),
        ("intermediate/bias", SIZE**-0.5),
        ("output/kernel", SIZE**-0.5),
        ("output/bias", SIZE**-0.5),
    ],
)
def test_the_matching_heads_weights_are_uniform(params, name, bound):
    leaf = np.asarray(params[f"matching_head/layers/{name}"])
    assert np.abs(leaf).max() <= bound
    # Quarters of the range are hit equally often.
    counts = np.histogram(leaf, bins=4, range=(-bound, bound))[0]
    np.testing.assert_allclose(counts / leaf.size, 0.25, atol=3 / leaf.size**0.5)


def test_the_matching_heads_attention_has_no_bias_at_first(params):
    assert (params["matching_head/layers/qkv/bias"] == 0).all()
    assert (params["matching_head/layers/attention_output/bias"] == 0).all()


def test_every_array_and_every_layer_is_drawn_apart(params):
    drawn = []
    for name, leaf in params.items():
        rows = leaf if "/layers/" in name else leaf[None]
        drawn += [np.asarray(row).ravel()[:90] for row in rows if np.ptp(row) > 0]
    normalised = np.stack([(row - row.mean()) / row.std() for row in drawn])
    correlations = normalised @ normalised.T / 90 - np.eye(len(drawn))
    assert np.abs(correlations).max() < 0.6


def test_weights_follow_the_seed(params):
    again, other = (flatten(init_params(CONFIG, MatchingHeadConfig(), seed=seed)) for seed in (3, 4))
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, again[name])
        if np.ptp(leaf) > 0:
            assert np.mean(np.asarray(leaf) == np.asarray(other[name])) < 0.01
    assert jax.tree.structure(params) == jax.tree.structure(other)
