"""Our training step as the benchmarks run it: both heads, alignment hinge and distillation, dropout, clip and Adam."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from aladin_jax import sharding
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import (
    StepVariant,
    TrainState,
    choose_variant,
    init_state,
    jit_train_step,
    make_train_step,
)
from benchmarks import workload
from benchmarks.interleaved import significant

LEARNING_RATE, GRAD_CLIP = 1e-5, 2.0
OBJECTIVE = Objective(alignment=1.0, distillation=1.0)
SLOTS = workload.MAX_CAPTION_LEN + workload.MAX_LABELS_LEN + workload.MAX_REGIONS

Arrays = dict[str, np.ndarray]


class OurStep(NamedTuple):
    """A step and the state it starts from.

    Attributes:
        jitted: (state, batch, variant) -> (state, metrics); gives the state up.
        state: on the device.
        mesh: of one device.
    """

    jitted: Any
    state: TrainState
    mesh: Mesh


def init_params(backbone: BackboneConfig, head: MatchingHeadConfig) -> Params:
    """Random parameters on the host, from which each variant of the step takes a copy of its own."""
    return jax.device_get(aladin.init_params(backbone, head, seed=0))


def build(
    backbone: BackboneConfig, head: MatchingHeadConfig, params: Params, dtype: str, kernels: str | None = None
) -> OurStep:
    """Builds the step for the first device.

    Args:
        backbone: its sizes.
        head: its sizes.
        params: from `init_params`.
        dtype: of dense layers.
        kernels: passed to `aladin.bind`; None leaves its default.
    """
    choice: dict[str, Any] = {} if kernels is None else {"kernels": kernels}
    optimizer, mesh = optim.adam(), sharding.make_mesh(devices=jax.devices()[:1])
    step = make_train_step(
        # "bfloat16" is a NumPy type once JAX is imported
        aladin.bind(backbone, head, dtype=np.dtype(dtype), mesh=mesh, **choice),
        OBJECTIVE,
        optimizer,
        optim.learning_rate_schedule(LEARNING_RATE, steps_per_epoch=10_000, lr_step_epochs=15),
        frozen=(),
        grad_clip=GRAD_CLIP,
        shards=1,
    )
    state = init_state(params, OBJECTIVE, optimizer, (), seed=0)
    state = jax.device_put(state, sharding.state_sharding(state, mesh))
    return OurStep(jit_train_step(step, state, mesh), state, mesh)


def variant_of(lengths: Arrays) -> StepVariant:
    """What a batch needs compiled; its caption_len, label_len and region_len [b] say so."""
    return choose_variant(OBJECTIVE.losses, len(lengths["caption_len"]), lengths, slots=SLOTS, shards=1)


def real_tokens(batch: Arrays) -> np.ndarray:
    """Tokens, tags and regions of each example."""
    return np.asarray(batch["caption_len"] + batch["label_len"] + batch["region_len"])


def model_flops(backbone: BackboneConfig, head: MatchingHeadConfig, batch: Arrays) -> float:
    """Operations of the matrix products that a step needs, forward and backward, on real tokens only."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    captions, images = batch["caption_len"].astype(float), (batch["label_len"] + batch["region_len"]).astype(float)
    regions, words = batch["region_len"].astype(float), batch["caption_len"].astype(float)
    dense = 2 * (4 * d * d + 2 * d * f) * (captions.sum() + images.sum())
    attention = 4 * d * (np.square(captions).sum() + np.square(images).sum())
    projection = 2 * backbone.img_feature_dim * d * regions.sum()
    head_dense = 2 * 6 * d * d * (regions.sum() + words.sum())
    head_attention = 4 * d * (np.square(regions).sum() + np.square(words).sum())
    alignment = 2 * d * (regions - 1).sum() * (words - 3).sum()
    layers, head_layers = backbone.num_hidden_layers, head.num_layers
    forward = layers * (dense + attention) + projection + head_layers * (head_dense + head_attention) + alignment
    return 3 * forward


def rates(
    seconds: list[float],
    backbone: BackboneConfig,
    head: MatchingHeadConfig,
    batch: Arrays,
    peak_tflops: float | None,
) -> dict[str, float]:
    """Milliseconds of a step, their median and extremes, GFLOP/s on real tokens and `mfu` if the peak is known."""
    median = float(np.median(seconds))
    flops = model_flops(backbone, head, batch)
    found = {
        "ms": significant(1e3 * median),
        "ms_min": significant(1e3 * min(seconds)),
        "ms_max": significant(1e3 * max(seconds)),
        "gflops": significant(flops / median / 1e9),
    }
    if peak_tflops:
        found["mfu"] = significant(flops / median / (peak_tflops * 1e12))
    return found
