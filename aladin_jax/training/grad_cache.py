"""Gradients of a batch that is too large to encode at once, its negatives exact (GradCache; Gao et al., 2021).

The batch is encoded micro-batch by micro-batch, of which nothing but the embeddings is kept. The loss, and its gradient
with respect to the embeddings, are those of the whole batch. Then every micro-batch is encoded once more, this time to
carry its embeddings' gradient on to the parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped


def value_and_grad(
    encode: Callable[[Any, Any, Any], Any],
    loss: Callable[[Any, Any], tuple[Array, Any]],
    params: Any,
    batch: Any,
    key: Key[Array, ""],
    *,
    micro_batches: int,
    shards: int,
) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """Computes what `jax.value_and_grad(has_aux=True)` of the encoded batch's loss does, up to rounding.

    Args:
        encode: (params, rows of the batch, key) -> embeddings of these rows: any tree of floating-point arrays.
        loss: (embeddings of the whole batch, params) -> (value, auxiliary output).
        params: what the gradient is taken of.
        batch: tree of arrays with a leading axis of examples.
        key: each micro-batch draws its dropout masks from a key of its own, the same ones both times.
        micro_batches: how many; with `shards`, it divides the number of examples.
        shards: devices along the batch axis: each one's examples are cut alike, and stay there.

    Returns:
        ((value, auxiliary output), gradient).
    """
    parts = jax.tree.map(lambda x: _cut(x, micro_batches, shards), batch), jax.random.split(key, micro_batches)
    embeddings = jax.lax.map(lambda part: encode(params, *part), parts)
    embeddings = jax.tree.map(lambda x: _join(x, shards), embeddings)
    result, (of_embeddings, gradient) = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(embeddings, params)
    of_embeddings = jax.tree.map(lambda x: _cut(x, micro_batches, shards), of_embeddings)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        of_part, *inputs = part
        pull_back = jax.vjp(lambda params: encode(params, *inputs), params)[1]
        return jax.tree.map(jnp.add, total, *pull_back(of_part)), None

    return result, jax.lax.scan(add, gradient, (of_embeddings, *parts))[0]


def _cut(x: Shaped[Array, "b ..."], micro_batches: int, shards: int) -> Shaped[Array, "m n ..."]:
    by_shard = x.reshape(shards, micro_batches, -1, *x.shape[1:])
    return by_shard.swapaxes(0, 1).reshape(micro_batches, -1, *x.shape[1:])


def _join(x: Shaped[Array, "m n ..."], shards: int) -> Shaped[Array, "b ..."]:
    by_micro_batch = x.reshape(len(x), shards, -1, *x.shape[2:])
    return by_micro_batch.swapaxes(0, 1).reshape(-1, *x.shape[2:])
