"""One head of one segment, read and written tile by tile: what both directions of the attention kernel share."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from aladin_jax.models.kernels.blocks import load, powers_of_two, store
from aladin_jax.models.kernels.counter_dropout import kept, mix, row_seeds

TILE = 32  # rows; on an H200 faster than 16 and 64
LOWEST = -1e30


class AttentionForm(NamedTuple):
    """What an attention kernel is specialised to: heads, most tokens of a segment, dropout, Pallas's interpreter."""

    heads: int
    slots: int
    dropout_rate: float
    interpret: bool

    @property
    def tiles(self) -> int:
        """Most tiles of a segment."""
        return -(-self.slots // TILE)


class Head(NamedTuple):
    """One head of one segment.

    Attributes:
        form: sizes and rates.
        dim: of the head.
        head: number of the head.
        first: flat position of the segment.
        length: of the segment.
    """

    form: AttentionForm
    dim: int
    head: Array
    first: Array
    length: Array

    @property
    def pieces(self) -> list[tuple[int, int]]:
        """(start, width) of the pieces that the head's dimension is taken in."""
        return powers_of_two(self.dim)

    @property
    def blocks(self) -> Array:
        """Tiles of the segment."""
        return pl.cdiv(self.length, TILE)

    def is_row(self, tile: Array) -> Array:
        """Which rows of a tile are the segment's."""
        return tile * TILE + jnp.arange(TILE) < self.length

    def at(self, tile: Array) -> Array:
        """Flat position of a tile."""
        return self.first + tile * TILE

    def column(self, part: int, piece: int) -> Array:
        """Where a piece of the queries (part 0), keys (1) or values (2) starts."""
        return (part * self.form.heads + self.head) * self.dim + piece

    def rows(self, ref: Any, part: int, tile: Array) -> list[Array]:
        """A tile of rows, in pieces; zeros past the segment's end."""
        where, is_row = self.at(tile), self.is_row(tile)
        return [load(ref, where, TILE, self.column(part, start), size, is_row) for start, size in self.pieces]

    def biased(self, ref: Any, bias: Any, part: int, tile: Array) -> list[Array]:
        """A tile of rows with their bias, in the type of the array."""
        vectors = [triton.load(bias.at[pl.ds(self.column(part, start), size)])[None, :] for start, size in self.pieces]
        values = self.rows(ref, part, tile)
        return [(x.astype(jnp.float32) + b).astype(x.dtype) for x, b in zip(values, vectors, strict=True)]

    def put(self, ref: Any, part: int, tile: Array, values: list[Array]) -> None:
        """Writes a tile of rows."""
        for (start, size), value in zip(self.pieces, values, strict=True):
            store(ref, self.at(tile), TILE, self.column(part, start), size, self.is_row(tile), value)

    def zeros(self) -> list[Array]:
        """Sums over a tile of rows, before anything is added."""
        return [jnp.zeros((TILE, size)) for _, size in self.pieces]

    def seeds(self, tokens: Any, key: Any, tile: Array) -> Array:
        """Hashes of a tile of queries, which dropout's decisions follow."""
        numbers = triton.load(tokens.at[pl.ds(self.at(tile), TILE)], mask=self.is_row(tile), other=jnp.uint32(0))
        return mix(row_seeds(numbers, key[0], key[1]) + self.head.astype(jnp.uint32))

    def kept(self, seeds: Array, key_tile: Array, axis: int) -> Array:
        """Dropout's decisions on weights whose keys lie along `axis`, and whose queries have these seeds."""
        columns = (key_tile * TILE).astype(jnp.uint32) + jax.lax.iota(jnp.uint32, TILE)
        return kept(jnp.expand_dims(seeds, axis), jnp.expand_dims(columns, 1 - axis), self.form.dropout_rate)

    def put_bias(self, ref: Any, part: int, row: Array, values: list[Array]) -> None:
        """Writes a bias's gradient over one tile."""
        for (start, size), value in zip(self.pieces, values, strict=True):
            triton.store(ref.at[row, pl.ds(self.column(part, start), size)], value.sum(axis=0))

    def inner(self, of_context: list[Array], context: Any, tile: Array) -> Array:
        """What softmax's gradient subtracts: the inner product of each query's output and its gradient."""
        out = self.rows(context, 0, tile)
        return total([(a.astype(jnp.float32) * b).sum(axis=1) for a, b in zip(of_context, out, strict=True)])

    def log_sum(self, log_sums: Any, tile: Array) -> Array:
        """Logarithm of softmax's divisor; past the segment's end so large that all weights are 0."""
        where = log_sums.at[self.head, pl.ds(self.at(tile), TILE)]
        return triton.load(where, mask=self.is_row(tile), other=-LOWEST)


def product_t(a: list[Array], b: list[Array]) -> Array:
    """The product a b^T of arrays in pieces of their columns."""
    return total([dot(x, y.T) for x, y in zip(a, b, strict=True)])


def dot(a: Array, b: Array) -> Array:
    """A product with float32 sums; float32 factors are not rounded."""
    return triton.dot(a, b, allow_tf32=False)


def total(arrays: list[Array]) -> Array:
    """The sum of some arrays."""
    return sum(arrays[1:], start=arrays[0])
