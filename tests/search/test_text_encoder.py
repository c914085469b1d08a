import jax
import numpy as np
import pytest

from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import bind, init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.processors import on_all
from aladin_jax.search.text_encoder import TextEncoder


@pytest.mark.parametrize(("heads", "hidden"), [(6, 50), (1, 3)])
def test_one_text_on_the_host_is_encoded_as_the_model_encodes_it_in_a_batch(heads, hidden):
    backbone = BackboneConfig(
        vocab_size=90,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=heads,
        intermediate_size=hidden,
        max_position_embeddings=60,
        layer_norm_eps=1e-3,
        img_feature_dim=10,
    )
    config = ModelConfig(backbone, MatchingHeadConfig(num_layers=2, num_heads=4))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + rng.normal(0, 0.1, x.shape).astype(np.float32), init_params(*config, seed=0))
    lengths = np.array([2, 3, 17, 47, 60])
    ids = rng.integers(1, 90, (5, 60)) * (np.arange(60) < lengths[:, None])
    batch = {"caption_ids": jax.numpy.asarray(ids), "caption_len": jax.numpy.asarray(lengths)}
    expected = jax.jit(lambda p: bind(*config)(p).encode_captions(batch))(params)
    encode = TextEncoder(jax.tree.map(np.asarray, params), config)
    for row, length in enumerate(lengths):
        vector, tokens = encode(ids[row, :length])
        assert vector.dtype == tokens.dtype == np.float32
        np.testing.assert_allclose(vector, expected.vector[row], atol=2e-6)
        np.testing.assert_allclose(tokens, expected.tokens[row, :length], atol=1e-5)


def test_pieces_of_work_come_back_in_their_order_and_an_error_of_any_is_raised():
    assert on_all(lambda k: k * k, range(100)) == [k * k for k in range(100)]
    assert on_all(abs, []) == []
    with pytest.raises(ZeroDivisionError):
        on_all(lambda k: 1 / (50 - k), range(100))
