"""Multi-head attention on flat tokens: one kernel a direction, with softmax and dropout inside.

A segment is an example's tokens of one stream. A program takes one head and one tile of a segment's queries (in the
backward pass also: of its keys), and walks over the segment's other side tile by tile, as far as the segment goes. So
nothing of [heads, s, s] is written to memory, segments may have any length, and little padding is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int, UInt32

from aladin_jax.models.kernels.blocks import compiler_params, powers_of_two, store
from aladin_jax.models.kernels.head_tiles import LOWEST, TILE, AttentionForm, Head, dot, product_t

_WARPS = 4
_TAIL_ROWS = 256


class Segments(NamedTuple):
    """Where each example's tokens of one stream stand in the flat array (of one device).

    Attributes:
        start: [n] first flat position.
        length: [n] tokens; none is longer than `AttentionForm.slots`. The segments fill the array from its start.
        tokens: [t] number of each flat token in the batch, which its dropout follows.
    """

    start: Int[Array, " segments"]
    length: Int[Array, " segments"]
    tokens: UInt32[Array, " flat"]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def packed_attention(
    product: Float[Array, "t e"],
    bias: Float[Array, " e"],
    segments: Segments,
    key: UInt32[Array, " 2"],
    form: AttentionForm,
) -> Float[Array, "t d"]:
    """Attention of every token over its own segment.

    Args:
        product: queries, keys and values of the flat tokens side by side (e = 3 d), their bias not yet added.
        bias: added to them; its gradient comes out of the same pass.
        segments: who attends to whom.
        key: words of the random key of the attention weights' dropout.
        form: sizes and rates.

    Returns:
        The heads' outputs side by side; zeros past the last segment.
    """
    return _forward(product, bias, segments, key, form)[0]


def _forward(product, bias, segments, key, form):
    tokens, width = product.shape
    outs = (
        jax.ShapeDtypeStruct((tokens, width // 3), product.dtype),
        jax.ShapeDtypeStruct((form.heads, tokens), jnp.float32),
    )
    context, log_sums = _call(_forward_kernel, form.tiles, segments, key, (product, bias), outs, form)
    return context, (product, bias, segments, key, context, log_sums)


def _backward(form, residuals, grad):
    product, bias, segments, key, context, log_sums = residuals
    outs = (
        jax.ShapeDtypeStruct(product.shape, product.dtype),
        jax.ShapeDtypeStruct((len(segments.start) * form.tiles, product.shape[1]), jnp.float32),
    )
    arrays = product, bias, context, log_sums, grad
    grad_product, grad_bias = _call(_backward_kernel, 2 * form.tiles, segments, key, arrays, outs, form)
    return grad_product, grad_bias.sum(axis=0), None, None


packed_attention.defvjp(_forward, _backward)


def _call(
    kernel: Callable, tiles: int, segments: Segments, key: Array, arrays: tuple, outs: Any, form: AttentionForm
) -> Any:
    """Runs a kernel over all segments, and over what is left of the flat array, which it clears."""
    tokens, width = arrays[0].shape
    head_dim = width // 3 // form.heads
    total = segments.start[-1] + segments.length[-1]
    tail = total + _TAIL_ROWS * jnp.arange(-(-tokens // _TAIL_ROWS), dtype=jnp.int32)
    start = jnp.concatenate([segments.start, tail])
    length = jnp.concatenate([segments.length, jnp.clip(tokens - tail, 0, _TAIL_ROWS)])
    return pl.pallas_call(
        functools.partial(kernel, form=form, segments=len(segments.start), head_dim=head_dim),
        grid=(tiles, form.heads, len(start)),
        out_shape=outs,
        interpret=form.interpret,
        compiler_params=compiler_params(form.interpret, _WARPS if head_dim <= 64 else 2 * _WARPS),
    )(start, length, segments.tokens, key, *arrays)


def _forward_kernel(start, length, tokens, key, product, bias, context, log_sums, *, form, segments, head_dim):
    tile, scale = pl.program_id(0), head_dim**-0.5

    def attend(head: Head):
        queries = head.biased(product, bias, 0, tile)
        seeds = head.seeds(tokens, key, tile)

        def key_tile(k, carry):
            largest, total, mixed = carry
            keys, values = (head.biased(product, bias, part, k) for part in (1, 2))
            logits = jnp.where(head.is_row(k)[None, :], product_t(queries, keys) * scale, LOWEST)
            larger = jnp.maximum(largest, logits.max(axis=1))
            shrunk, weights = jnp.exp(largest - larger), jnp.exp(logits - larger[:, None])
            total = total * shrunk + weights.sum(axis=1)
            if form.dropout_rate:
                weights = jnp.where(head.kept(seeds, k, 1), weights, 0.0)
            weights = weights.astype(product.dtype)
            mixed = [m * shrunk[:, None] + dot(weights, v) for m, v in zip(mixed, values, strict=True)]
            return larger, total, mixed

        nothing = jnp.full(TILE, LOWEST), jnp.zeros(TILE), head.zeros()
        largest, total, mixed = jax.lax.fori_loop(0, head.blocks, key_tile, nothing)
        share = (1 / (1 - form.dropout_rate) / total)[:, None]
        head.put(context, 0, tile, [m * share for m in mixed])
        where = log_sums.at[head.head, pl.ds(head.at(tile), TILE)]
        triton.store(where, largest + jnp.log(total), mask=head.is_row(tile))

    _run(tile, attend, start, length, form, segments, head_dim, clear=(context, head_dim))


def _backward_kernel(
    start, length, tokens, key, product, bias, context, log_sums, grad, grad_product, grad_bias,
    *, form, segments, head_dim,
):  # fmt: skip
    number, tile, scale = pl.program_id(2), pl.program_id(0) // 2, head_dim**-0.5
    is_for_queries = pl.program_id(0) % 2 == 0

    def of_queries(head: Head):
        queries, of_context = head.biased(product, bias, 0, tile), head.rows(grad, 0, tile)
        inner, log_sum = head.inner(of_context, context, tile), head.log_sum(log_sums, tile)
        seeds = head.seeds(tokens, key, tile)

        def key_tile(k, grads):
            keys, values = (head.biased(product, bias, part, k) for part in (1, 2))
            weights = jnp.exp(product_t(queries, keys) * scale - log_sum[:, None])
            weights = jnp.where(head.is_row(k)[None, :], weights, 0.0)
            of_weights = product_t(of_context, values)
            if form.dropout_rate:
                of_weights = jnp.where(head.kept(seeds, k, 1), of_weights * (1 / (1 - form.dropout_rate)), 0.0)
            of_logits = (weights * (of_weights - inner[:, None]) * scale).astype(product.dtype)
            return [g + dot(of_logits, x) for g, x in zip(grads, keys, strict=True)]

        grads = jax.lax.fori_loop(0, head.blocks, key_tile, head.zeros())
        head.put(grad_product, 0, tile, grads)
        head.put_bias(grad_bias, 0, number * form.tiles + tile, grads)

    def of_keys(head: Head):
        keys, values = (head.biased(product, bias, part, tile) for part in (1, 2))

        def query_tile(q, grads):
            # Weights lie transposed, [keys, queries], as the products below want them.
            queries, of_context = head.biased(product, bias, 0, q), head.rows(grad, 0, q)
            inner, log_sum = head.inner(of_context, context, q), head.log_sum(log_sums, q)
            weights = jnp.exp(product_t(keys, queries) * scale - log_sum[None, :])
            weights = jnp.where(head.is_row(tile)[:, None], weights, 0.0)
            dropped, of_weights = weights, product_t(values, of_context)
            if form.dropout_rate:
                keep, rest = head.kept(head.seeds(tokens, key, q), tile, 0), 1 / (1 - form.dropout_rate)
                dropped = jnp.where(keep, weights * rest, 0.0)
                of_weights = jnp.where(keep, of_weights * rest, 0.0)
            of_logits = (weights * (of_weights - inner[None, :]) * scale).astype(product.dtype)
            dropped = dropped.astype(product.dtype)
            grad_keys, grad_values = grads
            return (
                [g + dot(of_logits, x) for g, x in zip(grad_keys, queries, strict=True)],
                [g + dot(dropped, x) for g, x in zip(grad_values, of_context, strict=True)],
            )

        grads = jax.lax.fori_loop(0, head.blocks, query_tile, (head.zeros(), head.zeros()))
        for part, values in enumerate(grads, start=1):
            head.put(grad_product, part, tile, values)
            head.put_bias(grad_bias, part, number * form.tiles + tile, values)

    def no_bias(head: Head):
        for part in range(3):
            head.put_bias(grad_bias, part, number * form.tiles + tile, head.zeros())

    def attend(head: Head):
        pl.when(is_for_queries)(lambda: of_queries(head))
        pl.when(~is_for_queries)(lambda: of_keys(head))

    _run(tile, attend, start, length, form, segments, head_dim, (grad_product, 3 * head_dim), past_end=no_bias)


def _run(
    tile: Array,
    attend: Callable[[Head], None],
    start: Any,
    length: Any,
    form: AttentionForm,
    segments: int,
    head_dim: int,
    clear: tuple[Any, int],
    past_end: Callable[[Head], None] = lambda _: None,
) -> None:
    """Attends in a program whose tile is within its segment; writes zeros in one of the array's tail."""
    number, head = pl.program_id(2), pl.program_id(1)
    first, count = start[number], length[number]
    part = Head(form, head_dim, head, first, count)
    is_segment, is_within = number < segments, tile * TILE < count
    pl.when(is_segment & is_within)(lambda: attend(part))
    pl.when(is_segment & ~is_within)(lambda: past_end(part))

    @pl.when(~is_segment & (count > 0) & (pl.program_id(0) == 0))
    def write_zeros():
        ref, columns = clear
        for at, width in powers_of_two(columns):
            zeros = jnp.zeros((_TAIL_ROWS, width), ref.dtype)
            store(ref, first, _TAIL_ROWS, head * columns + at, width, jnp.arange(_TAIL_ROWS) < count, zeros)
