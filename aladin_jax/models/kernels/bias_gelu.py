"""GELU of a dense layer's output in one pass each way, the bias's gradient included."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from aladin_jax.models.kernels.blocks import compiler_params, load, store

_COLUMNS, _ROWS, _PROGRAMS = 256, 8, 192

# Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: erf to 1.5e-7.
_ERF_P = 0.3275911
_ERF_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def bias_gelu(product: Float[Array, "t f"], bias: Float[Array, " f"], interpret: bool = False) -> Float[Array, "t f"]:
    """GELU(product + bias), x * Phi(x) to 2e-7 of |x|, computed in float32.

    Args:
        product: of a dense layer, its bias not yet added.
        bias: of the dense layer.
        interpret: run in Pallas's interpreter.
    """
    return _forward(product, bias, interpret)[0]


def _forward(product, bias, interpret):
    rows, columns = len(product), _columns(product)
    out = pl.pallas_call(
        functools.partial(_forward_kernel, columns=columns, total=rows),
        grid=(-(-rows // _ROWS), product.shape[1] // columns),
        out_shape=jax.ShapeDtypeStruct(product.shape, product.dtype),
        interpret=interpret,
        compiler_params=compiler_params(interpret, num_warps=4),
    )(product, bias)
    return out, (product, bias)


def _backward(interpret, residuals, grad):
    product, bias = residuals
    columns, blocks = _columns(product), -(-len(product) // _ROWS)
    per_program = -(-blocks // _PROGRAMS)
    programs = -(-blocks // per_program)
    grad_product, sums = pl.pallas_call(
        functools.partial(_backward_kernel, columns=columns, per_program=per_program, total=len(product)),
        grid=(programs, product.shape[1] // columns),
        out_shape=(
            jax.ShapeDtypeStruct(product.shape, product.dtype),
            jax.ShapeDtypeStruct((programs, product.shape[1]), jnp.float32),
        ),
        interpret=interpret,
        compiler_params=compiler_params(interpret, num_warps=4),
    )(product, bias, grad)
    return grad_product, sums.sum(axis=0)


bias_gelu.defvjp(_forward, _backward)


def _columns(product: Array) -> int:
    """Columns of a program: a power of two that divides the width."""
    return min(_COLUMNS, product.shape[1] & -product.shape[1])


def _phi(x: Array) -> tuple[Array, Array]:
    """The standard normal distribution's cumulative function and density; they share the exponential."""
    decay = jnp.exp(-0.5 * x * x)
    t = 1 / (1 + (_ERF_P * 0.5**0.5) * jnp.abs(x))
    upper = t * (_ERF_A[0] + t * (_ERF_A[1] + t * (_ERF_A[2] + t * (_ERF_A[3] + t * _ERF_A[4])))) * decay * 0.5
    return jnp.where(x < 0, upper, 1 - upper), decay * (2 * math.pi) ** -0.5


def _read(product: Any, bias: Any, row: Array, column: Array, columns: int, is_row: Array) -> Array:
    x = load(product, row, _ROWS, column, columns, is_row).astype(jnp.float32)
    return x + triton.load(bias.at[pl.ds(column, columns)])[None, :]


def _forward_kernel(product, bias, out, *, columns, total):
    row, column = pl.program_id(0) * _ROWS, pl.program_id(1) * columns
    is_row = row + jnp.arange(_ROWS) < total
    x = _read(product, bias, row, column, columns, is_row)
    store(out, row, _ROWS, column, columns, is_row, x * _phi(x)[0])


def _backward_kernel(product, bias, grad, grad_product, sums, *, columns, per_program, total):
    program, column = pl.program_id(0), pl.program_id(1) * columns

    def some_rows(i, sums):
        row = (program * per_program + i) * _ROWS
        is_row = row + jnp.arange(_ROWS) < total
        x = _read(product, bias, row, column, columns, is_row)
        cumulative, density = _phi(x)
        of_x = load(grad, row, _ROWS, column, columns, is_row).astype(jnp.float32) * (cumulative + x * density)
        store(grad_product, row, _ROWS, column, columns, is_row, of_x)
        return sums + of_x

    # Rows are summed at the end: within the loop that would move numbers between warps.
    by_row = jax.lax.fori_loop(0, per_program, some_rows, jnp.zeros((_ROWS, columns)))
    triton.store(sums.at[program, pl.ds(column, columns)], by_row.sum(axis=0))
