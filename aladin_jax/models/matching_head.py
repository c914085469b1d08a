"""The matching head: one vector per image and per caption, from a small Transformer shared by both."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from aladin_jax.models.attention import attention
from aladin_jax.models.bert import (
    Kernels,
    LayerInitializers,
    LayerKeys,
    Stream,
    TransformerLayer,
    encode_streams,
    fused_form,
    pack_streams,
    stack_layers,
)
from aladin_jax.models.kernels import layer as fused
from aladin_jax.models.packing import pack


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

    def __init__(
        self,
        hidden_size: int,
        config: MatchingHeadConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        kernels: Kernels = "xla",
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
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
        self.kernels: Kernels = kernels
        self.mesh = mesh

    def __call__(
        self,
        streams: Sequence[Stream],
        keys: LayerKeys | None,
        *,
        tokens_per_shard: int | None = None,
        shards: int = 1,
    ) -> list[Float[Array, "b d"]]:
        """Embeds region outputs, caption outputs, or both (of as many images as captions) at once.

        Only position 0 of the last layer is used, so only it is computed there: queries, feed-forward and all. The
        plain form computes on padding; the fused kernels pack the tokens, in arrays no longer than `tokens_per_shard`
        (see `bert.encode_streams`).
        """
        graphdef, params = nnx.split(self.layers)
        first = nnx.merge(graphdef, jax.tree.map(lambda p: p[:-1], params))
        last = nnx.merge(graphdef, jax.tree.map(lambda p: p[-1], params))
        first_keys = last_keys = None
        if keys is not None:
            first_keys, last_keys = jax.tree.map(lambda k: k[:-1], keys), jax.tree.map(lambda k: k[-1], keys)
        if self.kernels == "pallas" and tokens_per_shard is not None:
            pooled = self._fused(first, last, streams, (first_keys, last_keys), tokens_per_shard, shards)
            return jnp.split(normalize(pooled.astype(jnp.float32)), len(streams))
        outputs = encode_streams(
            first,
            streams,
            num_heads=self.config.num_heads,
            attention_dropout=self.config.dropout,
            keys=first_keys,
        )
        contexts = [
            attention(
                last.qkv(x),
                stream.mask,
                num_heads=self.config.num_heads,
                dropout_rate=self.config.dropout,
                key=None if last_keys is None else last_keys.attention[k],
                num_queries=1,
            )[:, 0]
            for k, (x, stream) in enumerate(zip(outputs, streams, strict=True))
        ]
        pooled = last.finish(jnp.concatenate([x[:, 0] for x in outputs]), jnp.concatenate(contexts), last_keys)
        return jnp.split(normalize(pooled.astype(jnp.float32)), len(streams))

    def _fused(self, first, last, streams, keys, tokens_per_shard, shards) -> Float[Array, "n d"]:
        """Position 0 of every stream's examples, stream by stream, by way of the kernels."""
        config, (first_keys, last_keys) = self.config, keys
        slots = [stream.x.shape[1] for stream in streams]
        capacity = min(tokens_per_shard, len(streams[0].x) // shards * sum(slots))
        packing = pack_streams(streams, capacity, shards)
        segments = fused.segments_of([stream.mask for stream in streams], packing)
        form = fused_form(last, config.num_heads, max(slots), config.dropout, self.mesh)
        x = pack(jnp.concatenate([stream.x for stream in streams], axis=1), packing)
        x = fused.run_layers(first, x, segments, first_keys, form, remat=False)
        context = fused.attend(last, x, segments, last_keys, form)
        shard = jnp.arange(len(segments.start)) // (len(segments.start) // shards)
        first_rows = (segments.start + shard * capacity).reshape(-1, len(streams)).T.reshape(-1)
        return last.finish(x[first_rows], context[first_rows], last_keys)


def normalize(x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """L2-normalises the last axis, as torch's F.normalize (norm bounded below by 1e-12); zero stays zero."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    # The inner `where` keeps the gradient of sqrt finite at zero vectors (padding).
    norm = jnp.sqrt(jnp.where(square > 1e-24, square, 1.0))
    return x / jnp.where(square > 1e-24, norm, 1e-12)
