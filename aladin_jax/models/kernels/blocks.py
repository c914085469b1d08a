"""What the kernels share: sizes as sums of powers of two (Triton's arrays have no others), and masked access."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array


def powers_of_two(size: int, *, most: int = 2**30) -> list[tuple[int, int]]:
    """(start, width) of pieces that make up `size` columns: powers of two up to `most`.

    With `most` 256, 768 is three times 256, so that no lane is idle.
    """
    rest, start, pieces = size, 0, []
    while rest:
        width = min(1 << (rest.bit_length() - 1), most)
        pieces.append((start, width))
        start, rest = start + width, rest - width
    return pieces


def load(ref: Any, row: Array, rows: int, column: Array | int, columns: int, is_row: Array) -> Array:
    """A block of a two-dimensional array; rows that `is_row` denies are zero and not read."""
    return triton.load(ref.at[pl.ds(row, rows), pl.ds(column, columns)], mask=is_row[:, None], other=0.0)


def store(ref: Any, row: Array, rows: int, column: Array | int, columns: int, is_row: Array, values: Array) -> None:
    """Writes a block, but for the rows that `is_row` denies."""
    where = ref.at[pl.ds(row, rows), pl.ds(column, columns)]
    triton.store(where, values.astype(ref.dtype), mask=jnp.broadcast_to(is_row[:, None], values.shape))


def columns_from(start: int, width: int) -> Array:
    """Column numbers, as `counter_dropout` counts them."""
    return jnp.uint32(start) + jax.lax.iota(jnp.uint32, width)


def compiler_params(interpret: bool, num_warps: int) -> Any:
    """Triton's parameters; the interpreter takes none."""
    return None if interpret else triton.CompilerParams(num_warps=num_warps, num_stages=1)
