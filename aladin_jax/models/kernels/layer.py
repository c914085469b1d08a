"""Transformer layers on flat tokens, put together from the kernels: the fused form of `bert.TransformerLayer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float

from aladin_jax.models.kernels.add_norm import NormForm, add_norm
from aladin_jax.models.kernels.attention import Segments, packed_attention
from aladin_jax.models.kernels.bias_gelu import bias_gelu
from aladin_jax.models.kernels.counter_dropout import key_words
from aladin_jax.models.kernels.head_tiles import AttentionForm
from aladin_jax.models.packing import Packing
from aladin_jax.sharding import BATCH_AXES

Twice = tuple[Float[Array, "t d"], Float[Array, "t d"]]
"""Tokens as the residual stream has them and as the next dense layer reads them: the same values, two gradients."""


class FusedForm(NamedTuple):
    """How fused layers run.

    Attributes:
        heads: attention heads.
        slots: most tokens of a stream.
        attention_dropout: rate on attention weights.
        hidden_dropout: rate on what is added to the residual stream.
        gelu: whether the feed-forward net's activation is GELU; else it is the layer's own.
        mesh: of the devices that the flat tokens are divided over; None on one device.
    """

    heads: int
    slots: int
    attention_dropout: float
    hidden_dropout: float
    gelu: bool
    mesh: Mesh | None

    def on_each_device(self, function: Callable, *sharded: bool) -> Callable:
        """Runs a kernel on each device's own tokens; arguments that are not `sharded` are the same on all."""
        if self.mesh is None or self.mesh.size == 1:
            return function
        specs = tuple(PartitionSpec(BATCH_AXES) if is_sharded else PartitionSpec() for is_sharded in sharded)
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(BATCH_AXES), check_vma=False
        )


def segments_of(masks: Sequence[Bool[Array, "b _"]], packing: Packing) -> Segments:
    """Where each stream's tokens of each example stand in their group's flat array.

    Args:
        masks: real slots of each stream, in the order in which the streams are packed.
        packing: of all streams together.
    """
    groups, capacity = packing.is_token.shape
    lengths = jnp.stack([mask.sum(axis=1, dtype=jnp.int32) for mask in masks], axis=1).reshape(groups, -1)
    # Where tokens are lost (`packing.overflow`), nothing may be read past the end; the result is NaN all the same.
    start = jnp.minimum(jnp.cumsum(lengths, axis=1) - lengths, capacity)
    lengths = jnp.minimum(lengths, capacity - start)
    first = jnp.arange(groups, dtype=jnp.uint32)[:, None] * jnp.uint32(packing.is_real.shape[1])
    tokens = packing.slot_of_token.astype(jnp.uint32) + first
    return Segments(start.reshape(-1), lengths.reshape(-1), tokens.reshape(-1))


def run_layers(
    layers: Any, x: Float[Array, "t d"], segments: Segments, keys: Any, form: FusedForm, remat: bool
) -> Float[Array, "t d"]:
    """Applies stacked layers one after the other, each compiled by itself.

    Args:
        layers: a `bert.TransformerLayer` whose parameters have a leading layer axis.
        x: flat tokens.
        segments: from `segments_of`.
        keys: `bert.LayerKeys` with a leading layer axis; None turns dropout off.
        form: how to run.
        remat: keep only the layers' inputs for the backward pass.
    """
    graphdef, params = nnx.split(layers)
    leaves, structure = jax.tree.flatten(params)
    by_layer = zip(*(unstack(leaf) for leaf in leaves), strict=True)

    def apply(x: Twice, leaves: tuple[Array, ...], keys: Any) -> Twice:
        layer = nnx.merge(graphdef, jax.tree.unflatten(structure, leaves))
        return apply_layer(layer, x, segments, keys, form)

    if remat:
        apply = jax.checkpoint(apply, prevent_cse=False)
    twice = (x, x)
    for number, leaves in enumerate(by_layer):
        twice = apply(twice, leaves, jax.tree.map(lambda k, n=number: k[n], keys))
    return twice[0]


@jax.custom_vjp
def unstack(stacked: Float[Array, "n ..."]) -> tuple[Float[Array, ...], ...]:
    """The parts along the leading axis. Their gradients are stacked at once; XLA's own would add up padded ones."""
    return tuple(stacked[n] for n in range(len(stacked)))


unstack.defvjp(lambda stacked: (unstack(stacked), None), lambda _, grads: (jnp.stack(grads),))


def apply_layer(layer: Any, x: Twice, segments: Segments, keys: Any, form: FusedForm) -> Twice:
    """Attention, feed-forward net, and what joins them to the residual stream."""
    residual, x_in = x
    context = attend(layer, x_in, segments, keys, form)
    context_key, output_key = (None, None) if keys is None else (keys.context, keys.output)
    residual, x_in = _join(residual, layer.attention_output, context, layer.attention_norm, segments, context_key, form)
    h, bias = product(layer.intermediate, x_in), layer.intermediate.bias[...]
    if form.gelu:
        interpret = jax.default_backend() != "gpu"
        h = form.on_each_device(lambda h, bias: bias_gelu(h, bias, interpret), True, False)(h, bias)
    else:
        h = layer.activation(h + bias.astype(h.dtype))
    return _join(residual, layer.output, h, layer.output_norm, segments, output_key, form)


def attend(layer: Any, x: Float[Array, "t d"], segments: Segments, keys: Any, form: FusedForm) -> Float[Array, "t d"]:
    """A layer's attention, before its output projection."""
    kernel_form = AttentionForm(
        form.heads, form.slots, 0.0 if keys is None else form.attention_dropout, jax.default_backend() != "gpu"
    )
    run = form.on_each_device(
        lambda h, bias, segments, key: packed_attention(h, bias, segments, key, kernel_form), True, False, True, False
    )
    # One key serves all streams: each token has a number of its own.
    key = key_words(None if keys is None else keys.attention[0])
    return run(product(layer.qkv, x), layer.qkv.bias[...], segments, key)


def _join(
    x: Array,
    dense: Any,
    inputs: Array,
    norm: Any,
    segments: Segments,
    key: Array | None,
    form: FusedForm,
) -> Twice:
    """Adds a dense layer's output to the residual stream and normalises."""
    kernel_form = NormForm(0.0 if key is None else form.hidden_dropout, norm.epsilon, jax.default_backend() != "gpu")
    run = form.on_each_device(
        lambda *arguments: add_norm(*arguments, kernel_form), True, True, False, False, False, True, False
    )
    parameters = dense.bias[...], norm.scale[...], norm.bias[...]
    return run(x, product(dense, inputs), *parameters, segments.tokens, key_words(key))


def product(dense: nnx.Linear, x: Float[Array, "t i"]) -> Float[Array, "t o"]:
    """A dense layer without its bias, computed and returned in its number format."""
    return jnp.matmul(x.astype(dense.dtype), dense.kernel[...].astype(dense.dtype))
