"""Flat tokens: the real tokens of all examples in one [tokens, d] array, padding left out.

Dense layers and LayerNorms do not mix positions, so they run on the flat array; only attention needs the padded
[examples, slots] layout. Going from one to the other is a gather in either direction, and so is its gradient
(XLA's own transpose of a gather is a scatter-add, which is slow on CPUs and not deterministic on GPUs).

Examples are divided into shards, one per device along the batch axis, and a token never leaves its shard, so
that packing moves nothing between devices.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped


class Packing(NamedTuple):
    """Where each real token stands in the padded and in the flat layout, shard by shard.

    Attributes:
        overflow: whether a shard has more real tokens than its flat array holds.
        slot_of_token: padded slot (within its shard) of every flat position; past the real tokens it is arbitrary.
        token_of_slot: flat position (within its shard) of every padded slot; arbitrary for padding.
        is_token: whether a flat position holds a real token.
        is_real: whether a padded slot holds a real token.
    """

    overflow: Bool[Array, ""]
    slot_of_token: Int[Array, "g t"]
    token_of_slot: Int[Array, "g s"]
    is_token: Bool[Array, "g t"]
    is_real: Bool[Array, "g s"]


def plan_packing(mask: Bool[Array, "b s"], tokens_per_shard: int, shards: int) -> Packing:
    """Finds a flat position for every real token.

    Args:
        mask: real slots of each example, padding False.
        tokens_per_shard: length of a shard's flat array; at least the number of real tokens of the fullest shard,
            which the caller counts on the host.
        shards: how many; divides the number of examples.
    """
    is_real = mask.reshape(shards, -1)
    # A stable sort of "is padding" lists the real slots first, in order.
    slot_of_token = jnp.argsort(~is_real, axis=1, stable=True)[:, :tokens_per_shard]
    position = jnp.cumsum(is_real, axis=1) - 1
    token_of_slot = jnp.clip(position, 0, tokens_per_shard - 1)
    tokens = is_real.sum(axis=1, keepdims=True)
    is_token = jnp.arange(tokens_per_shard) < tokens
    return Packing(jnp.any(tokens > tokens_per_shard), slot_of_token, token_of_slot, is_token, is_real)


def pack(padded: Float[Array, "b s ..."], packing: Packing) -> Float[Array, "t ..."]:
    """Gathers real tokens into the flat layout [shards * tokens_per_shard, ...]; NaN throughout if they don't fit."""
    shards = packing.is_token.shape[0]
    flat = _pack(padded.reshape(shards, -1, *padded.shape[2:]), packing)
    # Losing tokens must not pass unnoticed: the loss becomes NaN, and that stops a run.
    return jnp.where(packing.overflow, jnp.nan, flat.reshape(-1, *padded.shape[2:]))


def unpack(flat: Shaped[Array, "t ..."], packing: Packing, examples: int) -> Shaped[Array, "b s ..."]:
    """Puts flat tokens back into their padded slots; what stands in padding is arbitrary but finite."""
    shards = packing.is_token.shape[0]
    padded = _unpack(flat.reshape(shards, -1, *flat.shape[1:]), packing)
    return padded.reshape(examples, -1, *flat.shape[1:])


def tokens_per_shard(lengths: np.ndarray, *, slots: int, shards: int, buckets: int = 16) -> int:
    """Chooses the length of the flat arrays on the host: few different ones, so that few steps are compiled.

    They differ by slots * sqrt(examples) / 4, or a part of the padded size where that is less. Sums of as many lengths
    spread as the square root, so that two or three flat lengths serve all batches, and little is computed for nothing.
    Large ones are multiples of 64, whose products need no padding on GPUs.

    Args:
        lengths: [b] real tokens of each example, all streams together.
        slots: padded slots of an example.
        shards: as in `plan_packing`.
        buckets: lengths differ by no more than 1/buckets of the padded size, but for that rounding.
    """
    per_shard = lengths.reshape(shards, -1)
    examples = per_shard.shape[1]
    bucket = max(math.ceil(min(slots * examples**0.5 / 4, slots * examples / buckets)), 1)
    bucket = -(-bucket // 64) * 64 if bucket >= 128 else bucket
    fullest = int(per_shard.sum(axis=1).max())
    return min(-(-fullest // bucket) * bucket, slots * examples)


@jax.vmap
def _gather(rows: Shaped[Array, "n ..."], index: Int[Array, " m"]) -> Shaped[Array, "m ..."]:
    return rows.at[index].get(mode="promise_in_bounds")


def _zero_unless(keep: Bool[Array, "g n"], rows: Float[Array, "g n ..."]) -> Float[Array, "g n ..."]:
    return jnp.where(jnp.expand_dims(keep, tuple(range(2, rows.ndim))), rows, 0)


@jax.custom_vjp
def _pack(padded: Float[Array, "g s ..."], packing: Packing) -> Float[Array, "g t ..."]:
    return _gather(padded, packing.slot_of_token)


@jax.custom_vjp
def _unpack(flat: Shaped[Array, "g t ..."], packing: Packing) -> Shaped[Array, "g s ..."]:
    return _gather(flat, packing.token_of_slot)


# Packing and unpacking are each other's inverse on real tokens, and nothing reads the rest:
# so each one's transpose is the other, with a zero wherever there is no token.
_pack.defvjp(
    lambda padded, packing: (_pack(padded, packing), packing),
    lambda packing, grad: (_zero_unless(packing.is_real, _gather(grad, packing.token_of_slot)), None),
)
_unpack.defvjp(
    lambda flat, packing: (_unpack(flat, packing), packing),
    lambda packing, grad: (_zero_unless(packing.is_token, _gather(grad, packing.slot_of_token)), None),
)
