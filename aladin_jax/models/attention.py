"""What a layer computes without weights, as XLA compiles it: attention, dropout, GELU; `kernels/` has the GPU's forms.

`keep` marks what is kept for the backward pass: see `bert.run_layers`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

KEPT = "kept for the backward pass"


def keep(x: Array) -> Array:
    """Marks an array that the backward pass needs and that is not to be computed again."""
    return checkpoint_name(x, KEPT)


def attention(
    qkv: Float[Array, "b s e"],
    mask: Bool[Array, "b s"],
    *,
    num_heads: int,
    dropout_rate: float,
    key: Array | None,
    num_queries: int | None = None,
) -> Float[Array, "b q d"]:
    """Multi-head attention of every position over the real ones; softmax in float32.

    Args:
        qkv: queries, keys and values side by side, so that e = 3d.
        mask: True at real positions.
        num_heads: divides d.
        dropout_rate: of the attention weights.
        key: of the dropout mask; None turns dropout off.
        num_queries: q, the first positions that ask; None for all, q = s.
    """
    examples, slots, width = qkv.shape
    q, k, v = (jnp.swapaxes(part.reshape(examples, slots, num_heads, -1), 1, 2) for part in jnp.split(qkv, 3, axis=-1))
    q = q[:, :, :num_queries]
    logits = jnp.matmul(q, jnp.swapaxes(k, 2, 3), preferred_element_type=jnp.float32) / q.shape[-1] ** 0.5
    # The original adds -10,000 to padded keys: in float32 their weight is exactly 0 either way.
    logits = jnp.where(mask[:, None, None, :], logits, -1e4)
    weights = dropout(keep(jax.nn.softmax(logits)), dropout_rate, key).astype(v.dtype)
    return jnp.swapaxes(jnp.matmul(weights, v), 1, 2).reshape(examples, -1, width // 3)


def dropout(x: Float[Array, "*s"], rate: float, key: Array | None) -> Float[Array, "*s"]:
    """Zeroes entries with probability `rate` (to 1 in 65,536) and scales up the rest; None as key leaves x alone.

    Drawing is a visible part of a step on a CPU, and of its compilation: each 32 random bits decide on two entries of
    a row, and they are drawn in one dimension, where the generator's counter is cheap (a four-dimensional draw takes
    eight times as long to compile).
    """
    if key is None or rate == 0:
        return x
    *rows, size = x.shape
    words = jax.random.bits(key, (math.prod(rows) * ((size + 1) // 2),), jnp.uint32)
    words = jax.lax.optimization_barrier(words).reshape(*rows, -1)  # else both halves would draw them
    halves = jnp.concatenate([words >> 16, words & 0xFFFF], axis=-1)[..., :size]
    kept = keep(halves >= round(rate * 2**16))
    return jnp.where(kept, x * (1 / (1 - rate)), 0).astype(x.dtype)


@jax.custom_vjp
def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Exact GELU, x * Phi(x). Its gradient is written out, so that nothing but x is kept and erf not drawn out."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


def _gelu_gradient(x, grad):
    density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
    return (grad * (0.5 * (1 + jax.lax.erf(x * 0.5**0.5)) + x * density),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)
