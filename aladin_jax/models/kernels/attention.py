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
    tokens, width = product.shape
    outs = (
        jax.ShapeDtypeStruct((tokens, width // 3), product.dtype),
        jax.ShapeDtypeStruct((form.heads, tokens), jnp.float32),
    )
    context, log_sums = _call(_forward_kernel, segments, key, (product, bias), outs, form)
    return context, (product, bias, segments, key, context, log_sums)


def _backward(form, residuals, grad):
    product, bias, segments, key, context, log_sums = residuals
    outs = (
        jax.ShapeDtypeStruct(product.shape, product.dtype),
        jax.ShapeDtypeStruct((len(segments.start), product.shape[1]), jnp.float32),
    )
    grad_product, grad_bias = _call(
        _backward_kernel, segments, key, (product, bias, context, log_sums, grad), outs, form
    )
    return grad_product, grad_bias.sum(axis=0), None, None


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


class _Head(NamedTuple):
    """One head of one segment: what both directions read and write.

    Attributes:
        form: sizes and rates.
        dim: of the head.
        segment: number of the segment.
        head: number of the head.
        first: flat position of the segment.
        length: of the segment.
        key_tiles: (start, width) of the tiles that its keys are taken in.
    """

    form: AttentionForm
    dim: int
    segment: Array
    head: Array
    first: Array
    length: Array
    key_tiles: list[tuple[int, int]]

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(start, width) of the pieces that the head's dimension is taken in."""
        return powers_of_two(self.dim)

    def column(self, part: int, piece: int) -> Array:
        """Where a piece of the queries (part 0), keys (1) or values (2) starts."""
        return (part * self.form.heads + self.head) * self.dim + piece

    def rows(self, ref: Any, part: int, offset: Array | int, rows: int) -> list[Array]:
        """Some rows of the segment, in pieces; zeros past its end."""
        is_row = offset + jnp.arange(rows) < self.length
        return [load(ref, self.first + offset, rows, self.column(part, at), size, is_row) for at, size in self.pieces]

    def biased(self, ref: Any, bias: Any, part: int, offset: Array | int, rows: int) -> list[Array]:
        """Some rows with their bias, in the type of the array."""
        vectors = [triton.load(bias.at[pl.ds(self.column(part, at), size)])[None, :] for at, size in self.pieces]
        values = self.rows(ref, part, offset, rows)
        return [(x.astype(jnp.float32) + b).astype(x.dtype) for x, b in zip(values, vectors, strict=True)]

    def put(self, ref: Any, part: int, offset: Array | int, values: list[Array]) -> None:
        """Writes some rows of the segment."""
        rows = len(values[0])
        is_row = offset + jnp.arange(rows) < self.length
        for (at, size), value in zip(self.pieces, values, strict=True):
            store(ref, self.first + offset, rows, self.column(part, at), size, is_row, value)

    def seeds(self, tokens: Any, key: Any, offset: Array, rows: int) -> Array:
        """Hashes of some queries, which dropout's decisions follow."""
        is_row = offset + jnp.arange(rows) < self.length
        numbers = triton.load(tokens.at[pl.ds(self.first + offset, rows)], mask=is_row, other=jnp.uint32(0))
        return mix(row_seeds(numbers, key[0], key[1]) + self.head.astype(jnp.uint32))


def _forward_kernel(start, length, tokens, key, product, bias, context, log_sums, *, form, segments, head_dim):
    def attend(part: _Head):
        keys, values = ([part.biased(product, bias, kind, *tile) for tile in part.key_tiles] for kind in (1, 2))

        def query_block(i, carry):
            offset = i * _QUERIES
            queries = part.biased(product, bias, 0, offset, _QUERIES)
            logits = []
            for (at, size), tile in zip(part.key_tiles, keys, strict=True):
                is_key = (at + jnp.arange(size) < part.length)[None, :]
                logits.append(jnp.where(is_key, _product_t(queries, tile) * head_dim**-0.5, _LOWEST))
            largest = functools.reduce(jnp.maximum, [tile.max(axis=1) for tile in logits])
            weights = [jnp.exp(tile - largest[:, None]) for tile in logits]
            total = _sum([tile.sum(axis=1) for tile in weights])
            if form.dropout_rate:
                seeds = part.seeds(tokens, key, offset, _QUERIES)[:, None]
                keep = [kept(seeds, columns_from(*tile)[None, :], form.dropout_rate) for tile in part.key_tiles]
                weights = [jnp.where(k, w, 0.0) for k, w in zip(keep, weights, strict=True)]
            scale = (1 / (1 - form.dropout_rate) / total)[:, None]
            weights = [(w * scale).astype(product.dtype) for w in weights]
            mixed = [
                _sum([_dot(w, tile[p]) for w, tile in zip(weights, values, strict=True)])
                for p in range(len(part.pieces))
            ]
            part.put(context, 0, offset, mixed)
            rows = pl.ds(part.first + offset, _QUERIES)
            is_row = offset + jnp.arange(_QUERIES) < part.length
            triton.store(log_sums.at[part.head, rows], largest + jnp.log(total), mask=is_row)
            return carry

        jax.lax.fori_loop(0, pl.cdiv(part.length, _QUERIES), query_block, 0)

    _run(attend, start, length, form, segments, head_dim, clear=(context, head_dim))


def _backward_kernel(
    start, length, tokens, key, product, bias, context, log_sums, grad, grad_product, grad_bias,
    *, form, segments, head_dim,
):  # fmt: skip
    def attend(part: _Head):
        pieces = range(len(part.pieces))
        keys, values = ([part.biased(product, bias, kind, *tile) for tile in part.key_tiles] for kind in (1, 2))
        zeros = [[jnp.zeros((size, width)) for _, width in part.pieces] for _, size in part.key_tiles]
        no_bias = [jnp.zeros((_QUERIES, width)) for _, width in part.pieces]

        def query_block(i, carry):
            grad_keys, grad_values, bias_of_queries = carry
            offset = i * _QUERIES
            queries = part.biased(product, bias, 0, offset, _QUERIES)
            of_context, out = (part.rows(ref, 0, offset, _QUERIES) for ref in (grad, context))
            inner = _sum([(a.astype(jnp.float32) * b).sum(axis=1) for a, b in zip(of_context, out, strict=True)])
            is_row = offset + jnp.arange(_QUERIES) < part.length
            rows = pl.ds(part.first + offset, _QUERIES)
            # Weights of queries past the end become 0.
            log_sum = triton.load(log_sums.at[part.head, rows], mask=is_row, other=-_LOWEST)
            seeds = part.seeds(tokens, key, offset, _QUERIES)[None, :]
            grad_queries = [jnp.zeros((_QUERIES, width)) for _, width in part.pieces]
            for t, (at, size) in enumerate(part.key_tiles):
                # Transposed, [keys, queries]: the weights are then at hand as the products below want them.
                is_key = (at + jnp.arange(size) < part.length)[:, None]
                logits = _product_t(keys[t], queries) * head_dim**-0.5 - log_sum[None, :]
                weights = jnp.where(is_key, jnp.exp(logits), 0.0)
                of_weights, dropped = _product_t(values[t], of_context), weights
                if form.dropout_rate:
                    scale = 1 / (1 - form.dropout_rate)
                    keep = kept(seeds, columns_from(at, size)[:, None], form.dropout_rate)
                    dropped = jnp.where(keep, weights * scale, 0.0)
                    of_weights = jnp.where(keep, of_weights * scale, 0.0)
                of_logits = (weights * (of_weights - inner[None, :]) * head_dim**-0.5).astype(product.dtype)
                dropped = dropped.astype(product.dtype)
                grad_values[t] = [grad_values[t][p] + _dot(dropped, of_context[p]) for p in pieces]
                grad_keys[t] = [grad_keys[t][p] + _dot(of_logits, queries[p]) for p in pieces]
                grad_queries = [grad_queries[p] + _dot(of_logits.T, keys[t][p]) for p in pieces]
            part.put(grad_product, 0, offset, grad_queries)
            return grad_keys, grad_values, [bias_of_queries[p] + grad_queries[p] for p in pieces]

        blocks = pl.cdiv(part.length, _QUERIES)
        grad_keys, grad_values, of_queries = jax.lax.fori_loop(0, blocks, query_block, (zeros, zeros, no_bias))
        for kind, tiles in ((0, [of_queries]), (1, grad_keys), (2, grad_values)):
            for (at, size), p in zip(part.pieces, pieces, strict=True):
                total = _sum([tile[p].sum(axis=0) for tile in tiles])
                triton.store(grad_bias.at[part.segment, pl.ds(part.column(kind, at), size)], total)
            if kind:
                for (offset, _), tile in zip(part.key_tiles, tiles, strict=True):
                    part.put(grad_product, kind, offset, tile)

    _run(attend, start, length, form, segments, head_dim, clear=(grad_product, 3 * head_dim))


def _run(
    attend: Callable[[_Head], None],
    start: Any,
    length: Any,
    form: AttentionForm,
    segments: int,
    head_dim: int,
    clear: tuple[Any, int],
) -> None:
    """Attends in a program of a segment, with few key tiles where it is short; writes zeros in one of the tail."""
    number, head = pl.program_id(0), pl.program_id(1)
    first, count = start[number], length[number]

    def attend_to(slots: int) -> None:
        attend(_Head(form, head_dim, number, head, first, count, powers_of_two(slots, least=16)))

    is_segment = number < segments
    is_short = (count <= _SHORT) & (form.slots > _SHORT)
    if form.slots > _SHORT:
        pl.when(is_segment & is_short)(lambda: attend_to(_SHORT))
    pl.when(is_segment & ~is_short)(lambda: attend_to(form.slots))

    @pl.when(~is_segment & (count > 0))
    def write_zeros():
        ref, columns = clear
        for at, width in powers_of_two(columns):
            zeros = jnp.zeros((_TAIL_ROWS, width), ref.dtype)
            store(ref, first, _TAIL_ROWS, head * columns + at, width, jnp.arange(_TAIL_ROWS) < count, zeros)


def _product_t(a: list[Array], b: list[Array]) -> Array:
    """The product a b^T of arrays in pieces of their columns."""
    return _sum([_dot(x, y.T) for x, y in zip(a, b, strict=True)])


def _dot(a: Array, b: Array) -> Array:
    return triton.dot(a, b, allow_tf32=False)


def _sum(arrays: list[Array]) -> Array:
    return sum(arrays[1:], start=arrays[0])
