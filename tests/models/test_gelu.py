"""The exact GELU and its written-out gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.models.attention import gelu

X = jnp.linspace(-12, 12, 20_001)


def test_values_and_gradients_are_those_of_jax():
    def exact(x):
        return jax.nn.gelu(x, approximate=False)

    np.testing.assert_allclose(gelu(X), exact(X), atol=2e-6)
    found, expected = (jax.vmap(jax.grad(function))(X) for function in (gelu, exact))
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_the_number_format_stays(dtype):
    value, gradient = jax.value_and_grad(lambda x: gelu(x).sum())(X.astype(dtype))
    assert value.dtype == gradient.dtype == dtype
    assert np.isfinite(gradient).all()
