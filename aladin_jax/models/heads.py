"""The matching head: one vector per image and per caption, from a small Transformer shared by both."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aladin_jax.models.bert import (
    LayerInitializers,
    Stream,
    TransformerLayer,
    attention,
    encode_streams,
    split_key,
    stack_layers,
)


@dataclasses.dataclass(frozen=True)
class MatchingHeadConfig:
    """Size and dropout of the matching head; its width is the backbone's."""

    num_layers: int = 2
    num_heads: int = 4
    dropout: float = 0.1


class MatchingHead(nnx.Module):
    """Transformer encoder (post-LN, feed-forward = d, ReLU) whose first position, L2-normalised, is the embedding.

    Values are pinned by `forward/{image,caption}_embedding` of tests/golden/unit/expected.npz.
    """

    def __init__(self, hidden_size: int, config: MatchingHeadConfig, *, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs):
        """Initialises as torch's nn.TransformerEncoderLayer: Xavier for qkv, uniform +-1/sqrt(fan_in) elsewhere."""
        uniform = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        bound = hidden_size**-0.5
        zeros = nnx.initializers.zeros_init()

        def uniform_bias(key, shape, dtype=jnp.float32, out_sharding=None):
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        self.layers = stack_layers(
            lambda rngs: TransformerLayer(
                hidden_size,
                hidden_size,
                activation=jax.nn.relu,
                layer_norm_eps=1e-5,
                dropout_rate=config.dropout,
                initializers=LayerInitializers(
                    qkv=(nnx.initializers.xavier_uniform(), zeros),
                    attention_output=(uniform, zeros),
                    intermediate=(uniform, uniform_bias),
                    output=(uniform, uniform_bias),
                ),
                dtype=dtype,
                rngs=rngs,
            ),
            config.num_layers,
            rngs,
        )
        self.config = config

    def __call__(self, stream: Stream, key: Array | None) -> Float[Array, "b d"]:
        """Embeds region outputs or caption outputs.

        Only position 0 of the last layer is used, so only it is computed there: queries, feed-forward and all.
        """
        body_key, attend_key, finish_key = split_key(key, 3)
        graphdef, params = nnx.split(self.layers)
        first = nnx.merge(graphdef, jax.tree.map(lambda p: p[:-1], params))
        last = nnx.merge(graphdef, jax.tree.map(lambda p: p[-1], params))
        [x] = encode_streams(
            first,
            [stream],
            num_heads=self.config.num_heads,
            attention_dropout=self.config.dropout,
            key=body_key,
        )
        qkv = last.qkv(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:2], -1)
        context = attention(
            qkv,
            stream.mask,
            num_heads=self.config.num_heads,
            dropout_rate=self.config.dropout,
            key=attend_key,
            num_queries=1,
        )
        pooled = last.finish(x[:, 0], context[:, 0], finish_key).astype(jnp.float32)
        return normalize(pooled)


def normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """L2-normalises the last axis, as torch's F.normalize (norm bounded below by 1e-12); zero stays zero."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # The inner `where` keeps the gradient of sqrt finite at zero vectors (padding).
    norm = jnp.sqrt(jnp.where(square > 1e-24, square, 1.0))
    return x / jnp.where(square > 1e-24, norm, 1e-12)
