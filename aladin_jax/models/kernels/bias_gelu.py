"""GELU of a dense layer's output in one pass each way, the bias's gradient included."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float

from aladin_jax.models.kernels.blocks import compiler_params, load, store

_COLUMNS, _ROWS, _PROGRAMS = 256, 16, 96

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
    u = product + bias.astype(product.dtype)
    grid, columns, per_program = _grid(u)
    out = pl.pallas_call(
        functools.partial(_forward_kernel, columns=columns, per_program=per_program, total=len(u)),
        grid=grid,
        out_shape=jax.ShapeDtypeStruct(u.shape, u.dtype),
        interpret=interpret,
        compiler_params=compiler_params(interpret, num_warps=4),
    )(u)
    return out, u


def _backward(interpret, u, grad):
    grid, columns, per_program = _grid(u)
    grad_u, sums = pl.pallas_call(
        functools.partial(_backward_kernel, columns=columns, per_program=per_program, total=len(u)),
        grid=grid,
        out_shape=(
            jax.ShapeDtypeStruct(u.shape, u.dtype),
            jax.ShapeDtypeStruct((grid[0], u.shape[1]), jnp.float32),
        ),
        interpret=interpret,
        compiler_params=compiler_params(interpret, num_warps=4),
    )(u, grad)
    return grad_u, sums.sum(axis=0)


bias_gelu.defvjp(_forward, _backward)


def _grid(u: Array) -> tuple[tuple[int, int], int, int]:
    """Programs along rows and columns, columns of each, and blocks of rows of each."""
    columns = min(_COLUMNS, u.shape[1] & -u.shape[1])  # a power of two that divides the width
    blocks = -(-len(u) // _ROWS)
    per_program = -(-blocks // _PROGRAMS)
    return (-(-blocks // per_program), u.shape[1] // columns), columns, per_program


def _phi(x: Array) -> tuple[Array, Array]:
    """The standard normal distribution's cumulative function and density; they share the exponential."""
    decay = jnp.exp(-0.5 * x * x)
    t = 1 / (1 + (_ERF_P * 0.5**0.5) * jnp.abs(x))
    upper = t * (_ERF_A[0] + t * (_ERF_A[1] + t * (_ERF_A[2] + t * (_ERF_A[3] + t * _ERF_A[4])))) * decay * 0.5
    return jnp.where(x < 0, upper, 1 - upper), decay * (2 * math.pi) ** -0.5


def _forward_kernel(u, out, *, columns, per_program, total):
    first, column = pl.program_id(0) * per_program, pl.program_id(1) * columns

    def some_rows(i, carry):
        row = (first + i) * _ROWS
        is_row = row + jnp.arange(_ROWS) < total
        x = load(u, row, _ROWS, column, columns, is_row).astype(jnp.float32)
        store(out, row, _ROWS, column, columns, is_row, x * _phi(x)[0])
        return carry

    jax.lax.fori_loop(0, per_program, some_rows, 0)


def _backward_kernel(u, grad, grad_u, sums, *, columns, per_program, total):
    program = pl.program_id(0)
    column = pl.program_id(1) * columns

    def some_rows(i, total_of_columns):
        row = (program * per_program + i) * _ROWS
        is_row = row + jnp.arange(_ROWS) < total
        x = load(u, row, _ROWS, column, columns, is_row).astype(jnp.float32)
        cumulative, density = _phi(x)
        of_x = load(grad, row, _ROWS, column, columns, is_row).astype(jnp.float32) * (cumulative + x * density)
        store(grad_u, row, _ROWS, column, columns, is_row, of_x)
        return total_of_columns + of_x.sum(axis=0)

    total_of_columns = jax.lax.fori_loop(0, per_program, some_rows, jnp.zeros(columns))
    triton.store(sums.at[program, pl.ds(column, columns)], total_of_columns)
