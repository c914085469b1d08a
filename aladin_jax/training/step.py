"""One training step: a pure function of (state, batch), jitted with explicit shardings and a donated state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int, UInt32

from aladin_jax import sharding
from aladin_jax.models.aladin import Aladin, Batch, CaptionEmbeddings, ImageEmbeddings, Params
from aladin_jax.models.packing import tokens_per_shard
from aladin_jax.scores import similarity
from aladin_jax.training import grad_cache, optim
from aladin_jax.training.objective import Objective

Metrics = dict[str, Array]

WORDS = 1024  # room for words comes in multiples of so many: one or two serve a run


class TrainState(NamedTuple):
    """All that a run carries from step to step.

    Attributes:
        step: steps done.
        params: by group: backbone, matching_head, and the losses' own.
        opt_state: Adam's state for each group that is not frozen.
        rng: raw key that dropout masks derive from, together with `step`.
    """

    step: Int[Array, ""]
    params: Params
    opt_state: Params
    rng: UInt32[Array, " 2"]


@dataclasses.dataclass(frozen=True)
class StepVariant:
    """What a step is compiled for; another variant is another executable.

    Attributes:
        active: names of the losses that act (they change with the epoch).
        num_pairs: real pairs in the batch; rows beyond it only fill up the devices.
        tokens_per_shard: length of each device's flat token array, in a micro-batch; None to compute on padding.
        words: the alignment loss has room for so many, over all devices; None to let the devices count.
    """

    active: tuple[str, ...]
    num_pairs: int
    tokens_per_shard: int | None = None
    words: int | None = None


def choose_variant(
    active: tuple[str, ...], num_pairs: int, lengths: Mapping[str, np.ndarray], *, slots: int, shards: int
) -> StepVariant:
    """What to compile for a batch; all processes agree on it.

    Args:
        active: names of the losses that act.
        num_pairs: real pairs, over all processes.
        lengths: caption_len, label_len, region_len [b] of this process's rows.
        slots: padded tokens, tags and regions of a pair.
        shards: of this process, within which tokens are packed.
    """
    tokens = lengths["caption_len"] + lengths["label_len"] + lengths["region_len"]
    words = np.maximum(lengths["caption_len"] - similarity.LEFT_OUT, 0).sum()
    mine = np.array([tokens_per_shard(tokens, slots=slots, shards=shards), words])
    most_tokens, most_words = sharding.largest_of_processes(mine).tolist()
    # A CPU's loop ends where the words do; any other device's host would wait to be told.
    blocks = max(-(-most_words * jax.process_count() // WORDS), 1)
    room = None if jax.default_backend() == "cpu" else blocks * WORDS
    return StepVariant(active, num_pairs, most_tokens, room)


def init_state(
    params: Params, objective: Objective, optimizer: optax.GradientTransformation, frozen: tuple[str, ...], seed: int
) -> TrainState:
    """A state at step 0 from the model's parameters."""
    params = {**params, **objective.init_params()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optim.init_optimizer(optimizer, params, frozen),
        rng=jax.random.key_data(jax.random.key(seed)),
    )


def make_train_step(
    model: Callable[[Params], Aladin],
    objective: Objective,
    optimizer: optax.GradientTransformation,
    schedule: optim.Schedule,
    *,
    frozen: tuple[str, ...],
    grad_clip: float,
    shards: int,
    micro_batches: int = 1,
) -> Callable[[TrainState, Batch, StepVariant], tuple[TrainState, Metrics]]:
    """Builds the step function; jit it with `jit_train_step`.

    Args:
        model: from `models.aladin.bind`.
        objective: losses and weights.
        optimizer: from `optim.adam`.
        schedule: learning rate of a step.
        frozen: parameter groups that are not differentiated (the backbone then runs with dropout all the same, as
            in the original).
        grad_clip: largest global gradient norm, 0 for none.
        shards: devices along the batch axis.
        micro_batches: encode the batch in so many parts, one after the other (see `grad_cache`).

    Returns:
        step(state, batch, variant) -> (state, metrics): `loss`, `loss_<name>`, `grad_norm` (before clipping),
        `learning_rate`.
    """

    def step(state: TrainState, batch: Batch, variant: StepVariant) -> tuple[TrainState, Metrics]:
        trained = objective.trained_groups(variant.active, frozen)
        fixed = {group: values for group, values in state.params.items() if group not in trained}
        key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

        def encode(trained_params: Params, batch: Batch, key: Array) -> tuple[Array, ...]:
            encoder = model({**fixed, **trained_params})
            images, captions = encoder(batch, key=key, tokens_per_shard=variant.tokens_per_shard, shards=shards)
            return images.vector, images.regions, captions.vector, captions.tokens

        def loss_of(embeddings: tuple[Array, ...], trained_params: Params) -> tuple[Array, Metrics]:
            image_vector, regions, caption_vector, tokens = embeddings
            images = ImageEmbeddings(image_vector, regions, batch["region_len"])
            captions = CaptionEmbeddings(caption_vector, tokens, batch["caption_len"])
            images, captions = jax.tree.map(lambda x: x[: variant.num_pairs], (images, captions))
            numbers = batch["image"][: variant.num_pairs] if objective.mask_same_image else None
            params = {**fixed, **trained_params}
            return objective(
                images, captions, params, variant.active, step=state.step, numbers=numbers, words=variant.words
            )

        params = {group: state.params[group] for group in trained}
        if micro_batches == 1:
            at_once = lambda params: loss_of(encode(params, batch, key), params)  # noqa: E731
            (loss, parts), grads = jax.value_and_grad(at_once, has_aux=True)(params)
        else:
            (loss, parts), grads = grad_cache.value_and_grad(
                encode, loss_of, params, batch, key, micro_batches=micro_batches, shards=shards
            )
        learning_rate = schedule(state.step)
        params, opt_state, norm = optim.apply_gradients(
            optimizer, state.params, state.opt_state, grads, learning_rate=learning_rate, grad_clip=grad_clip
        )
        metrics = {
            "loss": loss,
            **{f"loss_{name}": part for name, part in parts.items()},
            "grad_norm": norm,
            "learning_rate": learning_rate,
        }
        return TrainState(state.step + 1, params, opt_state, state.rng), metrics

    return step


def jit_train_step(
    step: Callable[[TrainState, Batch, StepVariant], tuple[TrainState, Metrics]], state: Any, mesh: Mesh
) -> Callable[[TrainState, Batch, StepVariant], tuple[TrainState, Metrics]]:
    """Jits `step` with the state's shardings, an evenly divided batch, and the state donated.

    Args:
        step: from `make_train_step`.
        state: a state, or its shapes.
        mesh: from `sharding.make_mesh`.
    """
    shardings = sharding.state_sharding(state, mesh)
    return jax.jit(
        step,
        static_argnums=2,
        donate_argnums=0,
        in_shardings=(shardings, sharding.batch_sharding(mesh)),
        out_shardings=(shardings, sharding.replicated(mesh)),
    )
