"""float32 means float32: JAX's default on GPUs multiplies float32 matrices as TF32, with ten bits of each number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def of(dtype: DTypeLike) -> str | None:
    """The `precision` of a product of matrices in this format; narrower formats lose nothing by the default."""
    return "highest" if dtype == jnp.float32 else None


def keep_float32(dtype: DTypeLike) -> None:
    """Makes this process multiply float32 as float32 if a model computes in it; `models.aladin.bind` calls it.

    What is compiled later obeys. It is never taken back: another model of the process may compute in float32.

    Args:
        dtype: the number format that the model's dense layers compute in.
    """
    if of(dtype) is not None:
        jax.config.update("jax_default_matmul_precision", of(dtype))
