"""Bias, dropout, residual sum and LayerNorm in one pass over the tokens each way."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, UInt32

from aladin_jax.models.kernels.blocks import columns_from, compiler_params, load, powers_of_two, store
from aladin_jax.models.kernels.counter_dropout import kept, row_seeds

_WARPS = 2
_ROWS = 2
"""A row for each warp, which then sums over it by itself: so pieces of a row are no wider than a warp reads at once."""
_WIDEST = 256
_PROGRAMS = 528
"""Of the backward pass: each sums the parameters' gradients over its rows. Four for each of an H100's processors."""


class NormForm(NamedTuple):
    """What a kernel is specialised to: dropout of what is added, the LayerNorm's epsilon, Pallas's interpreter."""

    dropout_rate: float
    eps: float
    interpret: bool


@functools.partial(jax.custom_vjp, nondiff_argnums=(7,))
def add_norm(
    x: Float[Array, "t d"],
    product: Float[Array, "t d"],
    bias: Float[Array, " d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    tokens: UInt32[Array, " t"],
    key: UInt32[Array, " 2"],
    form: NormForm,
) -> tuple[Float[Array, "t d"], Float[Array, "t d"]]:
    """LayerNorm(x + dropout(product + bias)) * scale + shift, computed in float32.

    Args:
        x: the residual stream.
        product: what a dense layer adds to it, its bias not yet added.
        bias: of the dense layer.
        scale: of the LayerNorm.
        shift: of the LayerNorm.
        tokens: number of each token, which its dropout follows.
        key: words of the random key.
        form: rates.

    Returns:
        The result in the type of `x`, twice: what two readers send back is then added within the backward pass.
    """
    return _forward(x, product, bias, scale, shift, tokens, key, form)[0]


def _forward(x, product, bias, scale, shift, tokens, key, form):
    y = pl.pallas_call(
        functools.partial(_forward_kernel, form=form, size=x.shape[1], total=len(x)),
        grid=(-(-len(x) // _ROWS),),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        interpret=form.interpret,
        compiler_params=compiler_params(form.interpret, _WARPS),
    )(x, product, bias, scale, shift, tokens, key)
    return (y, y), (x, product, bias, scale, tokens, key)


def _backward(form, residuals, grads):
    x, product, *_ = residuals
    blocks = -(-len(x) // _ROWS)
    per_program = -(-blocks // _PROGRAMS)
    programs = -(-blocks // per_program)
    sums = jax.ShapeDtypeStruct((programs, x.shape[1]), jnp.float32)
    like_x, like_product = (jax.ShapeDtypeStruct(array.shape, array.dtype) for array in (x, product))
    grad_x, grad_product, *of_parameters = pl.pallas_call(
        functools.partial(_backward_kernel, form=form, size=x.shape[1], total=len(x), per_program=per_program),
        grid=(programs,),
        out_shape=(like_x, like_product, sums, sums, sums),
        interpret=form.interpret,
        compiler_params=compiler_params(form.interpret, _WARPS),
    )(*residuals, *grads)
    return grad_x, grad_product, *(sums.sum(axis=0) for sums in of_parameters), None, None


add_norm.defvjp(_forward, _backward)


class _Rows(NamedTuple):
    """Some rows of the sum that is normalised, in pieces of their columns.

    Attributes:
        normalized: mean 0 and variance 1.
        keep: dropout's decisions; None without dropout.
        inverse: [rows] one over the standard deviation.
    """

    normalized: list[Array]
    keep: list[Array] | None
    inverse: Array


def _row_sum(pieces: list[Array]) -> Array:
    sums = [piece.sum(axis=1) for piece in pieces]
    return sum(sums[1:], start=sums[0])


def _pieces(size: int) -> list[tuple[int, int]]:
    return powers_of_two(size, most=_WIDEST)


def _read(ref: Any, row: Array, size: int, is_row: Array) -> list[Array]:
    return [load(ref, row, _ROWS, *piece, is_row).astype(jnp.float32) for piece in _pieces(size)]


def _vector(ref: Any, size: int) -> list[Array]:
    return [triton.load(ref.at[pl.ds(*piece)]).astype(jnp.float32)[None, :] for piece in _pieces(size)]


def _normalize(
    x: Any, product: Any, bias: list[Array], tokens: Any, key: Any, row: Array, is_row: Array, form: NormForm, size: int
) -> _Rows:
    added, keep = [a + b for a, b in zip(_read(product, row, size, is_row), bias, strict=True)], None
    if form.dropout_rate:
        numbers = triton.load(tokens.at[pl.ds(row, _ROWS)], mask=is_row, other=jnp.uint32(0))
        seeds = row_seeds(numbers, key[0], key[1])[:, None]
        keep = [kept(seeds, columns_from(*piece)[None, :], form.dropout_rate) for piece in _pieces(size)]
        added = _drop(added, keep, form)
    z = [a + b for a, b in zip(_read(x, row, size, is_row), added, strict=True)]
    mean = (_row_sum(z) / size)[:, None]
    centred = [piece - mean for piece in z]
    inverse = jax.lax.rsqrt(_row_sum([piece * piece for piece in centred]) / size + form.eps)
    return _Rows([piece * inverse[:, None] for piece in centred], keep, inverse)


def _drop(pieces: list[Array], keep: list[Array] | None, form: NormForm) -> list[Array]:
    if keep is None:
        return pieces
    scale = 1 / (1 - form.dropout_rate)
    return [jnp.where(k, piece * scale, 0.0) for k, piece in zip(keep, pieces, strict=True)]


def _forward_kernel(x, product, bias, scale, shift, tokens, key, y, *, form, size, total):
    row = pl.program_id(0) * _ROWS
    is_row = row + jnp.arange(_ROWS) < total
    rows = _normalize(x, product, _vector(bias, size), tokens, key, row, is_row, form, size)
    for piece, z, a, b in zip(_pieces(size), rows.normalized, _vector(scale, size), _vector(shift, size), strict=True):
        store(y, row, _ROWS, *piece, is_row, z * a + b)


def _backward_kernel(
    x, product, bias, scale, tokens, key, grad, grad_too, grad_x, grad_product, grad_bias, grad_scale, grad_shift,
    *, form, size, total, per_program,
):  # fmt: skip
    program, pieces = pl.program_id(0), _pieces(size)
    biases, scales = _vector(bias, size), _vector(scale, size)

    def some_rows(i, sums):
        row = (program * per_program + i) * _ROWS
        is_row = row + jnp.arange(_ROWS) < total
        rows = _normalize(x, product, biases, tokens, key, row, is_row, form, size)
        of_y = [a + b for a, b in zip(*(_read(ref, row, size, is_row) for ref in (grad, grad_too)), strict=True)]
        of_normalized = [g * a for g, a in zip(of_y, scales, strict=True)]
        mean = (_row_sum(of_normalized) / size)[:, None]
        along = [g * z for g, z in zip(of_normalized, rows.normalized, strict=True)]
        along = (_row_sum(along) / size)[:, None]
        of_x = [
            rows.inverse[:, None] * (g - mean - z * along) for g, z in zip(of_normalized, rows.normalized, strict=True)
        ]
        of_product = _drop(of_x, rows.keep, form)
        for piece, a, b in zip(pieces, of_x, of_product, strict=True):
            store(grad_x, row, _ROWS, *piece, is_row, a)
            store(grad_product, row, _ROWS, *piece, is_row, b)
        of_scale = [g * z for g, z in zip(of_y, rows.normalized, strict=True)]
        return [
            [total + part for total, part in zip(totals, parts, strict=True)]
            for totals, parts in zip(sums, (of_product, of_scale, of_y), strict=True)
        ]

    # Rows are summed at the end: within the loop that would move numbers between warps.
    zeros = [jnp.zeros((_ROWS, width)) for _, width in pieces]
    sums = jax.lax.fori_loop(0, per_program, some_rows, [zeros] * 3)
    for ref, parts in zip((grad_bias, grad_scale, grad_shift), sums, strict=True):
        for (start, width), part in zip(pieces, parts, strict=True):
            triton.store(ref.at[program, pl.ds(start, width)], part.sum(axis=0))
