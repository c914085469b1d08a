"""The post-LayerNorm Transformer that the backbone (BERT) and the matching head share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from aladin_jax.models.attention import KEPT, attention, dropout, gelu, keep
from aladin_jax.models.kernels import layer as fused
from aladin_jax.models.packing import Packing, pack, plan_packing, unpack

Kernels = Literal["xla", "pallas"]


class LayerKeys(NamedTuple):
    """Random keys of a layer's dropout masks (of stacked layers: with a leading layer axis).

    Attributes:
        context: for what attention adds to the residual stream.
        output: for what the feed-forward net adds.
        attention: for the attention weights, one key per stream.
    """

    context: Array
    output: Array
    attention: Array


# Attention over flat tokens: queries, keys and values side by side [t, 3d] -> contexts [t, d], in the same order. The
# function knows which token attends to which. At padding the result is arbitrary but finite. Keys turn dropout on.
Attend = Callable[[Array, LayerKeys | None], Array]

Initializers = tuple[nnx.Initializer, nnx.Initializer]


class LayerInitializers(NamedTuple):
    """(kernel, bias) initialisers of a layer's four dense layers."""

    qkv: Initializers
    attention_output: Initializers
    intermediate: Initializers
    output: Initializers


class TransformerLayer(nnx.Module):
    """Self-attention, then a feed-forward net, each followed by the residual sum and a LayerNorm.

    It sees flat tokens [t, d]; which token attends to which is up to the `attend` function it is called with.
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        *,
        activation: Callable[[Array], Array],
        layer_norm_eps: float,
        dropout_rate: float,
        initializers: LayerInitializers,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """Builds the layer: float32 parameters, dense layers computed in `dtype`, LayerNorms in float32."""

        def dense(name: str, fan_in: int, fan_out: int) -> nnx.Linear:
            return dense_layer(fan_in, fan_out, getattr(initializers, name), dtype, rngs)

        self.qkv = dense("qkv", hidden_size, 3 * hidden_size)
        self.attention_output = dense("attention_output", hidden_size, hidden_size)
        self.attention_norm = layer_norm(hidden_size, layer_norm_eps, rngs)
        self.intermediate = dense("intermediate", hidden_size, intermediate_size)
        self.output = dense("output", intermediate_size, hidden_size)
        self.output_norm = layer_norm(hidden_size, layer_norm_eps, rngs)
        self.activation = activation
        self.dropout_rate = dropout_rate
        self.dtype = dtype

    def __call__(self, x: Float[Array, "t d"], attend: Attend, keys: LayerKeys | None) -> Float[Array, "t d"]:
        """Applies the layer, with dropout if there are keys."""
        qkv = keep(self.qkv(x))
        return self.finish(x, keep(attend(qkv, keys)), keys)

    def finish(
        self, x: Float[Array, "t d"], context: Float[Array, "t d"], keys: LayerKeys | None
    ) -> Float[Array, "t d"]:
        """Applies all that follows attention, position by position."""
        context = dropout(keep(self.attention_output(context)), self.dropout_rate, keys and keys.context)
        x = self.attention_norm(x + context).astype(self.dtype)
        h = self.output(self.activation(keep(self.intermediate(x))))
        h = dropout(keep(h), self.dropout_rate, keys and keys.output)
        return self.output_norm(x + h).astype(self.dtype)


class Stream(NamedTuple):
    """Padded inputs of one kind, e.g. captions, whose positions attend to each other only.

    Attributes:
        x: [b, s, d] embeddings.
        mask: [b, s] True at real positions.
    """

    x: Float[Array, "b s d"]
    mask: Bool[Array, "b s"]


def stack_layers(create: Callable[[nnx.Rngs], TransformerLayer], num_layers: int, rngs: nnx.Rngs) -> TransformerLayer:
    """One module whose parameters have a leading layer axis: compiled once however many layers there are."""
    create_all = nnx.split_rngs(splits=num_layers)(nnx.vmap(create, in_axes=(0,), out_axes=0))
    return create_all(rngs)


def run_layers(
    layers: TransformerLayer, x: Float[Array, "t d"], attend: Attend, keys: LayerKeys | None, remat: bool
) -> Float[Array, "t d"]:
    """Applies stacked layers one after the other.

    For the backward pass what `attention.keep` marks is kept (products, softmax, dropout's masks), and the rest, which
    is cheap, computed again: less is written and read. With `remat` only the layers' inputs are kept.
    """
    graphdef, params = nnx.split(layers)

    def apply(x, layer):
        params, keys = layer
        return nnx.merge(graphdef, params)(x, attend, keys), None

    policy = None if remat else jax.checkpoint_policies.save_only_these_names(KEPT)
    return jax.lax.scan(jax.checkpoint(apply, policy=policy, prevent_cse=False), x, (params, keys))[0]


def encode_streams(
    layers: TransformerLayer,
    streams: Sequence[Stream],
    *,
    num_heads: int,
    attention_dropout: float,
    keys: LayerKeys | None,
    tokens_per_shard: int | None = None,
    shards: int = 1,
    remat: bool = False,
    kernels: Kernels = "xla",
    mesh: Mesh | None = None,
) -> list[Float[Array, "b s d"]]:
    """Runs stacked layers over several streams of the same examples, all their tokens together in one flat array.

    Args:
        layers: from `stack_layers`.
        streams: each [b, s_k, d]; attention stays within a stream.
        num_heads: attention heads; divides d.
        attention_dropout: rate on attention weights.
        keys: of the dropout masks; None turns dropout off.
        tokens_per_shard: length of a shard's flat array (see `packing.plan_packing`); None keeps padding in it.
        shards: parts of the examples that are packed apart, one per device on the batch axis.
        remat: keep only the layers' inputs for the backward pass.
        kernels: `pallas` runs packed tokens through the fused layers of `models/kernels`.
        mesh: of the devices that `shards` stand for; only the fused layers need it.

    Returns:
        The streams' outputs, padded as they came; values at padding are arbitrary.
    """
    lengths = [stream.x.shape[1] for stream in streams]
    starts = [sum(lengths[:k]) for k in range(len(lengths))]
    x = jnp.concatenate([stream.x for stream in streams], axis=1)
    examples = x.shape[0]

    if tokens_per_shard is None:
        to_flat = lambda padded: padded.reshape(-1, padded.shape[-1])  # noqa: E731
        to_padded = lambda flat: flat.reshape(examples, -1, flat.shape[-1])  # noqa: E731
    else:
        packing = pack_streams(streams, tokens_per_shard, shards)
        to_flat = lambda padded: pack(padded, packing)  # noqa: E731
        to_padded = lambda flat: unpack(flat, packing, examples)  # noqa: E731

    def split(padded: Float[Array, "b s d"]) -> list[Float[Array, "b _ d"]]:
        return [padded[:, start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def attend(qkv: Float[Array, "t e"], keys: LayerKeys | None) -> Float[Array, "t d"]:
        contexts = [
            attention(
                part,
                stream.mask,
                num_heads=num_heads,
                dropout_rate=attention_dropout,
                key=None if keys is None else keys.attention[k],
            )
            for k, (part, stream) in enumerate(zip(split(to_padded(qkv)), streams, strict=True))
        ]
        return to_flat(jnp.concatenate(contexts, axis=1))

    if kernels == "pallas" and tokens_per_shard is not None:
        form = fused_form(layers, num_heads, max(lengths), attention_dropout, mesh)
        segments = fused.segments_of([stream.mask for stream in streams], packing)
        return split(to_padded(fused.run_layers(layers, to_flat(x), segments, keys, form, remat)))
    return split(to_padded(run_layers(layers, to_flat(x), attend, keys, remat)))


def pack_streams(streams: Sequence[Stream], tokens_per_shard: int, shards: int) -> Packing:
    """Plans the flat array of several streams of the same examples."""
    return plan_packing(jnp.concatenate([stream.mask for stream in streams], axis=1), tokens_per_shard, shards)


def fused_form(
    layers: TransformerLayer, num_heads: int, slots: int, attention_dropout: float, mesh: Mesh | None
) -> fused.FusedForm:
    """How the fused kernels run these layers."""
    return fused.FusedForm(
        num_heads, slots, attention_dropout, layers.dropout_rate, gelu=layers.activation is gelu, mesh=mesh
    )


def split_layer_keys(keys: Array | None, num_layers: int) -> LayerKeys | None:
    """Deals out [num_layers * (2 + streams)] keys to stacked layers."""
    if keys is None:
        return None
    keys = keys.reshape(num_layers, -1)
    return LayerKeys(keys[:, 0], keys[:, 1], keys[:, 2:])


def dense_layer(fan_in: int, fan_out: int, initializers: Initializers, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A dense layer with float32 parameters that multiplies in `dtype`.

    On a CPU its output is float32: XLA multiplies bfloat16 into float32 there at twice its float32 rate, but into
    bfloat16 more slowly than float32.
    """
    kernel_init, bias_init = initializers
    return nnx.Linear(
        fan_in,
        fan_out,
        kernel_init=kernel_init,
        bias_init=bias_init,
        dtype=dtype,
        preferred_element_type=jnp.float32 if jax.default_backend() == "cpu" else None,
        rngs=rngs,
    )


def layer_norm(size: int, eps: float, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """A float32 LayerNorm with the two-pass variance of the original (E[x^2] - E[x]^2 loses digits)."""
    return nnx.LayerNorm(size, epsilon=eps, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)
