"""Multi-head attention on flat tokens: one kernel a direction, with softmax and dropout inside.

A program takes one head of one segment (an example's tokens of one stream). It holds all the segment's keys, and walks
over blocks of queries, as many as the segment has. So nothing of [heads, s, s] is written to memory, and padding is not
computed.
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

from aladin_jax.models.kernels.blocks import columns_from, compiler_params, load, powers_of_two, store
from aladin_jax.models.kernels.counter_dropout import kept, mix, row_seeds

MAX_SLOTS = 256
"""Keys of a segment that fit a program's registers; longer streams take the plain form."""

_QUERIES = 32
_SHORT = 32
_TAIL_ROWS = 256
_LOWEST = -1e30


class Segments(NamedTuple):
    """Where each example's tokens of one stream stand in the flat array (of one device).

    Attributes:
        start: [n] first flat position.
        length: [n] tokens; none is longer than `AttentionForm.slots`. All segments together lie at the array's start.
        tokens: [t] number of each flat token in the batch, which its dropout follows.
    """

    start: Int[Array, " n"]
    length: Int[Array, " n"]
    tokens: UInt32[Array, " t"]


class AttentionForm(NamedTuple):
    """What an attention kernel is specialised to: heads, most tokens of a segment, dropout, Pallas's interpreter."""

    heads: int
    slots: int
    dropout_rate: float
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def packed_attention(
    product: Float[Array, "t 3d"],
    bias: Float[Array, " 3d"],
    segments: Segments,
    key: UInt32[Array, " 2"],
    form: AttentionForm,
) -> Float[Array, "t d"]:
    """Attention of every token over its own segment.

    Args:
        product: queries, keys and values of the flat tokens, their bias not yet added.
        bias: added to them; its gradient comes out of the same pass.
        segments: who attends to whom.
        key: words of the random key of the attention weights' dropout.
        form: sizes and rates.

    Returns:
        The heads' outputs side by side; zeros past the last segment.
    """
    return _forward(product, bias, segments, key, form)[0]


def _forward(product, bias, segments, key, form):
    qkv = product + bias.astype(product.dtype)
    tokens, width = qkv.shape
    out = jax.ShapeDtypeStruct((tokens, width // 3), qkv.dtype)
    context = _call(_forward_kernel, segments, key, (qkv,), out, form)
    return context, (qkv, segments, key)


def _backward(form, residuals, grad):
    qkv, segments, key = residuals
    outs = (
        jax.ShapeDtypeStruct(qkv.shape, qkv.dtype),
        jax.ShapeDtypeStruct((len(segments.start), qkv.shape[1]), jnp.float32),
    )
    grad_qkv, grad_bias = _call(_backward_kernel, segments, key, (qkv, grad), outs, form)
    return grad_qkv, grad_bias.sum(axis=0), None, None


packed_attention.defvjp(_forward, _backward)


def _call(kernel: Callable, segments: Segments, key: Array, arrays: tuple, outs: Any, form: AttentionForm) -> Any:
    """Runs a kernel over all segments, and over what is left of the flat array, which it clears."""
    tokens, width = arrays[0].shape
    total = segments.start[-1] + segments.length[-1]
    tail = total + _TAIL_ROWS * jnp.arange(-(-tokens // _TAIL_ROWS), dtype=jnp.int32)
    start = jnp.concatenate([segments.start, tail])
    length = jnp.concatenate([segments.length, jnp.clip(tokens - tail, 0, _TAIL_ROWS)])
    body = functools.partial(kernel, form=form, segments=len(segments.start), head_dim=width // 3 // form.heads)
    return pl.pallas_call(
        body,
        grid=(len(start), form.heads),
        out_shape=outs,
        interpret=form.interpret,
        compiler_params=compiler_params(form.interpret, num_warps=4 if form.slots <= 128 else 8),
    )(start, length, segments.tokens, key, *arrays)


def _for_each_length(length: Array, form: AttentionForm, run: Callable[[list[tuple[int, int]]], None]) -> None:
    """Runs with few key columns where the segment is short, and with all where it is not."""
    if form.slots <= _SHORT:
        run(powers_of_two(form.slots, least=16))
        return
    pl.when(length <= _SHORT)(lambda: run(powers_of_two(_SHORT, least=16)))
    pl.when(length > _SHORT)(lambda: run(powers_of_two(form.slots, least=16)))


class _Head(NamedTuple):
    """One head of one segment: what both directions read and compute."""

    form: AttentionForm
    head_dim: int
    head: Array
    first: Array
    length: Array
    key_tiles: list[tuple[int, int]]

    def column(self, part: int, piece: int) -> Array:
        return (part * self.form.heads + self.head) * self.head_dim + piece

    def pieces(self) -> list[tuple[int, int]]:
        return powers_of_two(self.head_dim)

    def rows(self, ref: Any, part: int, offset: Array | int, rows: int) -> list[Array]:
        """A block of queries (part 0), keys (1) or values (2), in pieces of the head's dimension."""
        is_row = offset + jnp.arange(rows) < self.length
        return [
            load(ref, self.first + offset, rows, self.column(part, start), width, is_row)
            for start, width in self.pieces()
        ]

    def put(self, ref: Any, part: int, offset: Array | int, values: list[Array]) -> None:
        rows = len(values[0])
        is_row = offset + jnp.arange(rows) < self.length
        for (start, width), value in zip(self.pieces(), values, strict=True):
            store(ref, self.first + offset, rows, self.column(part, start), width, is_row, value)

    def weights(self, queries: list[Array], keys: list[list[Array]]) -> list[Array]:
        """Softmax over the segment's keys, a tile each."""
        scale = self.head_dim**-0.5
        logits = [
            jnp.where((start + jnp.arange(width) < self.length)[None, :], _product_t(queries, tile) * scale, _LOWEST)
            for (start, width), tile in zip(self.key_tiles, keys, strict=True)
        ]
        largest = functools.reduce(jnp.maximum, [tile.max(axis=1) for tile in logits])
        weights = [jnp.exp(tile - largest[:, None]) for tile in logits]
        total = sum((tile.sum(axis=1) for tile in weights[1:]), start=weights[0].sum(axis=1))
        return [tile / total[:, None] for tile in weights]

    def kept(self, tokens: Any, key: Any, offset: Array, rows: int) -> list[Array]:
        """Dropout's decisions on a block of queries, a tile of keys each."""
        is_row = offset + jnp.arange(rows) < self.length
        numbers = triton.load(tokens.at[pl.ds(self.first + offset, rows)], mask=is_row, other=jnp.uint32(0))
        seeds = mix(row_seeds(numbers, key[0], key[1]) + self.head.astype(jnp.uint32))
        return [kept(seeds, columns_from(*tile), self.form.dropout_rate) for tile in self.key_tiles]


def _product_t(a: list[Array], b: list[Array]) -> Array:
    """The product a b^T of arrays in pieces of their columns."""
    products = [_dot(x, y.T) for x, y in zip(a, b, strict=True)]
    return sum(products[1:], start=products[0])


def _dot(a: Array, b: Array) -> Array:
    return triton.dot(a, b, allow_tf32=False)


def _clear_or(
    run: Callable[[Array, Array, Array, Array], None], start: Any, length: Any, outs: list, segments: int
) -> None:
    """Attends in a program of a segment; in one of the tail, writes zeros."""
    number, head = pl.program_id(0), pl.program_id(1)
    first, count = start[number], length[number]
    pl.when(number < segments)(lambda: run(number, head, first, count))

    @pl.when((number >= segments) & (count > 0))
    def clear():
        is_row = jnp.arange(_TAIL_ROWS) < count
        for ref, columns in outs:
            for piece, width in powers_of_two(columns):
                zeros = jnp.zeros((_TAIL_ROWS, width), ref.dtype)
                store(ref, first, _TAIL_ROWS, head * columns + piece, width, is_row, zeros)


def _forward_kernel(start, length, tokens, key, qkv, out, *, form, segments, head_dim):
    def run(_, head, first, count):
        def attend(key_tiles):
            part = _Head(form, head_dim, head, first, count, key_tiles)
            keys, values = ([part.rows(qkv, kind, *tile) for tile in key_tiles] for kind in (1, 2))

            def query_block(i, carry):
                offset = i * _QUERIES
                weights = part.weights(part.rows(qkv, 0, offset, _QUERIES), keys)
                if form.dropout_rate:
                    scale = 1 / (1 - form.dropout_rate)
                    keep = part.kept(tokens, key, offset, _QUERIES)
                    weights = [jnp.where(k, w * scale, 0.0) for k, w in zip(keep, weights, strict=True)]
                mixed = [_mix_values(weights, [tile[p] for tile in values]) for p in range(len(part.pieces()))]
                part.put(out, 0, offset, mixed)
                return carry

            jax.lax.fori_loop(0, pl.cdiv(count, _QUERIES), query_block, 0)

        _for_each_length(count, form, attend)

    _clear_or(run, start, length, [(out, head_dim)], segments)


def _mix_values(weights: list[Array], values: list[Array]) -> Array:
    products = [_dot(w.astype(v.dtype), v) for w, v in zip(weights, values, strict=True)]
    return sum(products[1:], start=products[0])


def _backward_kernel(start, length, tokens, key, qkv, grad, grad_qkv, grad_bias, *, form, segments, head_dim):
    def run(number, head, first, count):
        def attend(key_tiles):
            part = _Head(form, head_dim, head, first, count, key_tiles)
            pieces = range(len(part.pieces()))
            keys, values = ([part.rows(qkv, kind, *tile) for tile in key_tiles] for kind in (1, 2))
            zeros = [[jnp.zeros((size, width)) for _, width in part.pieces()] for _, size in key_tiles]
            no_bias = [jnp.zeros(width) for _, width in part.pieces()]

            def query_block(i, carry):
                grad_keys, grad_values, bias = carry
                offset = i * _QUERIES
                queries = part.rows(qkv, 0, offset, _QUERIES)
                of_out = part.rows(grad, 0, offset, _QUERIES)
                weights = part.weights(queries, keys)
                of_weights, dropped = [_product_t(of_out, tile) for tile in values], weights
                if form.dropout_rate:
                    scale = 1 / (1 - form.dropout_rate)
                    keep = part.kept(tokens, key, offset, _QUERIES)
                    dropped = [jnp.where(k, w * scale, 0.0) for k, w in zip(keep, weights, strict=True)]
                    of_weights = [jnp.where(k, w * scale, 0.0) for k, w in zip(keep, of_weights, strict=True)]
                inner = [(g * w).sum(axis=1) for g, w in zip(of_weights, weights, strict=True)]
                inner = sum(inner[1:], start=inner[0])[:, None]
                of_logits = [
                    (w * (g - inner) * head_dim**-0.5).astype(qkv.dtype)
                    for g, w in zip(of_weights, weights, strict=True)
                ]
                of_queries = [_mix_values(of_logits, [tile[p] for tile in keys]) for p in pieces]
                part.put(grad_qkv, 0, offset, of_queries)
                dropped = [w.astype(qkv.dtype) for w in dropped]
                grad_keys = [
                    [total + _dot(g.T, queries[p]) for p, total in zip(pieces, tile, strict=True)]
                    for tile, g in zip(grad_keys, of_logits, strict=True)
                ]
                grad_values = [
                    [total + _dot(w.T, of_out[p]) for p, total in zip(pieces, tile, strict=True)]
                    for tile, w in zip(grad_values, dropped, strict=True)
                ]
                return grad_keys, grad_values, [b + q.sum(axis=0) for b, q in zip(bias, of_queries, strict=True)]

            blocks = pl.cdiv(count, _QUERIES)
            grad_keys, grad_values, bias = jax.lax.fori_loop(0, blocks, query_block, (zeros, zeros, no_bias))
            sums = [bias]
            for kind, tiles in ((1, grad_keys), (2, grad_values)):
                for (offset, _), tile in zip(key_tiles, tiles, strict=True):
                    part.put(grad_qkv, kind, offset, tile)
                sums.append([sum((tile[p].sum(axis=0) for tile in tiles[1:]), tiles[0][p].sum(axis=0)) for p in pieces])
            for kind, of_part in enumerate(sums):
                for (piece, width), value in zip(part.pieces(), of_part, strict=True):
                    triton.store(grad_bias.at[number, pl.ds(part.column(kind, piece), width)], value)

        _for_each_length(count, form, attend)

    _clear_or(run, start, length, [(grad_qkv, 3 * head_dim)], segments)
