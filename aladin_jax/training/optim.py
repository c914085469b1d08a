"""Adam, one state per parameter group, behind a global-norm clip; the schedule; what is trained when.

A group is a top-level key of the parameters: "backbone", "matching_head", "alignment_loss", ... torch keeps Adam's
step count per parameter, so a head whose loss starts in a later epoch starts its bias correction there (pinned by
`two_epochs` of tests/golden/e2e/expected.json). One optax state per group gives just that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from aladin_jax.models.aladin import Params

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam's direction, without a learning rate: that depends on the run's step, not on the group's own count."""
    return optax.scale_by_adam(b1, b2, eps)


def learning_rate_schedule(
    learning_rate: float,
    *,
    steps_per_epoch: int,
    lr_step_epochs: int,
    lr_gamma: float = 0.1,
    warmup_steps: int = 0,
    lr_cooldown: float = 0.0,
    num_steps: int = 0,
    start: int = 0,
) -> Schedule:
    """Multiplies the rate by `lr_gamma` every `lr_step_epochs` epochs (0: never), as the original.

    Before that the rate may rise in a line for `warmup_steps`, and at the end fall in a line to 0, over the share
    `lr_cooldown` of the steps from `start` to `num_steps`. All count from step `start`.
    """
    cooldown_steps = lr_cooldown * (num_steps - start)

    def schedule(step):
        remaining, step = num_steps - step, step - start
        rate = jnp.asarray(learning_rate, jnp.float32)
        if lr_step_epochs > 0:
            drops = step // (steps_per_epoch * lr_step_epochs)
            rate = rate * jnp.asarray(lr_gamma, jnp.float32) ** drops
        if warmup_steps > 0:
            rate = rate * jnp.minimum((step + 1) / warmup_steps, 1.0)
        if cooldown_steps > 0:
            rate = rate * jnp.clip(remaining / cooldown_steps, 0.0, 1.0)
        return rate

    return schedule


def init_optimizer(optimizer: optax.GradientTransformation, params: Params, frozen: Iterable[str]) -> Params:
    """One optimizer state per group; frozen groups have none."""
    return {group: optimizer.init(values) for group, values in params.items() if group not in set(frozen)}


def apply_gradients(
    optimizer: optax.GradientTransformation,
    params: Params,
    opt_state: Params,
    grads: Params,
    *,
    learning_rate: Float[Array, ""],
    grad_clip: float,
) -> tuple[Params, Params, Float[Array, ""]]:
    """Moves the groups that have gradients; the others, and their Adam states, stay as they are.

    Args:
        optimizer: from `adam`.
        params: all groups.
        opt_state: from `init_optimizer`.
        grads: gradients of the groups that are trained in this step.
        learning_rate: of this step.
        grad_clip: largest global norm over all gradients; 0 or less turns clipping off, as in the original.

    Returns:
        Parameters, optimizer state, and the gradients' global norm before clipping.
    """
    norm = optax.tree.norm(grads)
    if grad_clip > 0:
        factor = jnp.minimum(1.0, grad_clip / (norm + 1e-6))  # the small term is torch's
        grads = jax.tree.map(lambda grad: grad * factor, grads)
    params, opt_state = dict(params), dict(opt_state)
    for group, grad in grads.items():
        direction, opt_state[group] = optimizer.update(grad, opt_state[group])
        params[group] = jax.tree.map(lambda p, u: p - learning_rate * u, params[group], direction)
    return params, opt_state, norm
