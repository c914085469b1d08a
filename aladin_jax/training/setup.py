"""All that a training loop needs, built from a configuration and a workdir."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from aladin_jax import sharding
from aladin_jax.config import Config
from aladin_jax.data import pipeline
from aladin_jax.data.records import Split, open_dataset
from aladin_jax.encoding import Encoder
from aladin_jax.evaluation.report import report_split
from aladin_jax.evaluation.table import Reports
from aladin_jax.model_folder import ModelConfig, matching_head_config, read_description, write_description
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.packing import tokens_per_group
from aladin_jax.pretrained import DTYPES, Weights, kernels_for, make_tokenizer, read_weights, require_vocabulary
from aladin_jax.training import checkpoint, optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import StepShape, TrainState, init_state, jit_train_step, make_train_step
from aladin_jax.training.writers import log_parameters


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the loop needs.

    Attributes:
        state: where training starts, on the devices.
        step: state -> state, for a batch on the devices and its shape.
        batches: prefetched to the devices, from where `state` is.
        objective: says which losses act in an epoch.
        validate: parameters -> reports; None where the run validates nothing.
        steps_per_epoch: the last, smaller batch included.
        num_steps: when to stop.
        packed_groups: groups of each process within which tokens are packed; 0 to compute on padding too.
        slots: padded tokens, tags and regions of a pair.
    """

    state: TrainState
    step: CompiledSteps
    batches: Iterator[pipeline.Batch]
    objective: Objective
    validate: Callable[[Params], Reports] | None
    steps_per_epoch: int
    num_steps: int
    packed_groups: int
    slots: int

    def shape_of(self, batch: pipeline.Batch, active: tuple[str, ...]) -> StepShape:
        """What to compile for: a batch while the losses `active` act."""
        if not self.packed_groups:
            return StepShape(active, batch.num_pairs)
        tokens = np.asarray(tokens_per_group(batch.tokens, slots=self.slots, groups=self.packed_groups))
        return StepShape(active, batch.num_pairs, int(sharding.largest_of_processes(tokens)))


def prepare(config: Config, objective: Objective, workdir: Path, checkpoints: checkpoint.RunCheckpoints) -> Run:
    """Builds model, data, step and state; the state from the newest checkpoint, or else from `init_from` or random."""
    mesh, optimizer = sharding.make_mesh(config.fsdp), optim.adam()
    dataset = open_dataset(config.data.dir)
    split = Split(dataset, "train")
    params = None
    if checkpoints.latest_step is None:
        params, model_config, vocabulary, described = initial_weights(config, split.feature_dim)
        logging.info("Weights: %s", described)
        if jax.process_index() == 0:
            write_description(workdir, model_config, vocabulary)
        sharding.wait_for_processes("model.json")
    model_config, vocabulary = read_description(workdir)
    tokenizer = make_tokenizer(model_config, vocabulary, workdir, config.settings)
    split = Split(dataset, "train", model_config.backbone.img_feature_dim)
    dtype = DTYPES[config.model.dtype]
    kernels = kernels_for(config.model.kernels, config.model.dtype)
    model = aladin.bind(*model_config, dtype=dtype, remat=config.remat, kernels=kernels, mesh=mesh)
    batches = pipeline.TrainBatches(
        split,
        tokenizer,
        batch_size=config.batch_size,
        max_regions=config.data.max_regions,
        seed=config.seed,
        shuffle=config.data.shuffle,
        pad_to=mesh.size * config.micro_batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        num_workers=config.data.num_workers,
    )
    steps_per_epoch = pipeline.steps_per_epoch(split.num_pairs, config.batch_size)
    schedule = optim.step_decay(
        config.learning_rate,
        steps_per_epoch=steps_per_epoch,
        lr_step_epochs=config.lr_step_epochs,
        lr_gamma=config.lr_gamma,
        warmup_steps=config.warmup_steps,
    )
    validate = None
    if config.eval_every:
        validation = Split(dataset, config.eval.validation_split, split.feature_dim)
        encoder = Encoder(
            model,
            tokenizer,
            max_regions=config.data.max_regions,
            batch_size=config.eval.batch_size,
            mesh=mesh,
            dtype=dtype,
        )
        validate = partial(report_split, encoder, validation, config.pooling, config.measure)

    def fresh(params: Params) -> TrainState:
        return init_state(params, objective, optimizer, config.frozen, config.seed)

    abstract = jax.eval_shape(lambda: fresh(aladin.init_params(*model_config, seed=0)))
    shardings = sharding.state_sharding(abstract, mesh)
    if params is None:
        state, data_state = checkpoints.restore(
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        )
        batches.set_state(data_state)
        logging.info("Going on from step %d of %s", state.step, workdir)
    else:
        state = jax.device_put(fresh(params), shardings)
        log_parameters(state.params)

    step = make_train_step(
        model,
        objective,
        optimizer,
        schedule,
        frozen=config.frozen,
        grad_clip=config.grad_clip,
        groups=mesh.size,
        micro_batches=config.micro_batches,
    )
    return Run(
        state=state,
        step=CompiledSteps(jit_train_step(step, abstract, mesh)),
        batches=pipeline.prefetch_to_device(batches, sharding.batch_sharding(mesh)),
        objective=objective,
        validate=validate,
        steps_per_epoch=steps_per_epoch,
        num_steps=config.num_steps or config.num_epochs * steps_per_epoch,
        packed_groups=mesh.size // jax.process_count() * config.micro_batches if config.pack_tokens else 0,
        slots=config.data.max_caption_len + config.data.max_labels_len + config.data.max_regions,
    )


def make_objective(config: Config) -> Objective:
    """The regime's losses.

    Raises:
        ValueError: what is frozen leaves nothing that they could train.
    """
    objective = Objective(
        **dataclasses.asdict(config.loss_weights),
        learned_weights=config.learned_loss_weights,
        ranking_loss=config.ranking_loss,
        margin=config.margin,
        hardest=config.hardest,
        pooling=config.pooling,
        measure=config.measure,
        distillation_mode=config.distillation_mode,
        activate_distillation_after=config.activate_distillation_after,
    )
    if not objective.trained_groups(objective.losses, config.frozen):
        raise ValueError(
            f"frozen is {config.frozen}, which leaves nothing that {' or '.join(objective.losses)} could train"
        )
    return objective


def initial_weights(config: Config, feature_dim: int) -> Weights:
    """Reads `init_from`, or makes random weights of the sizes under `model`.

    Args:
        config: the configuration.
        feature_dim: width of the data's region vectors; where `init_from` projects another, the projection starts anew.

    Raises:
        ValueError: there is nothing to start from, no vocabulary, or a frozen backbone with random weights.
    """
    if config.init_from:
        weights = read_weights(config.init_from)
        require_vocabulary(weights.vocabulary, config.init_from)
        return _fit_projection(weights._replace(config=_with_dropout(weights.config, config)), config, feature_dim)
    if not config.model.vocabulary:
        raise ValueError(
            "init_from is empty: name a converted checkpoint (python -m convert.checkpoint), or, for random weights, "
            "model.vocabulary and model.backbone"
        )
    if "backbone" in config.frozen:
        raise ValueError("frozen has 'backbone', whose weights would be random; set init_from")
    backbone = BackboneConfig.from_dict(
        {"img_feature_dim": feature_dim, **config.model.backbone}, "config.model.backbone"
    )
    sizes = {"num_layers": config.model.num_layers, "num_heads": config.model.num_heads}
    model = _with_dropout(ModelConfig(backbone, matching_head_config(sizes, "config.model")), config)
    params = aladin.init_params(*model, seed=config.seed)
    return Weights(params, model, Path(config.model.vocabulary), f"random, seed {config.seed}")


def _fit_projection(weights: Weights, config: Config, feature_dim: int) -> Weights:
    """Replaces the region projection by a random one where the data's regions have another width."""
    params, model = weights.params, weights.config
    before = model.backbone.img_feature_dim
    if before == feature_dim:
        return weights
    if "backbone" in config.frozen:
        raise ValueError(
            f"{config.init_from}: takes regions of {before} features, the data has {feature_dim}; with a frozen "
            "backbone its projection cannot be trained anew"
        )
    model = model._replace(backbone=dataclasses.replace(model.backbone, img_feature_dim=feature_dim))
    fresh = aladin.init_params(*model, seed=config.seed)["backbone"]["region_projection"]
    logging.warning("Regions have %d features, %s takes %d: their projection starts anew from random weights",
                    feature_dim, config.init_from, before)  # fmt: skip
    params = {**params, "backbone": {**params["backbone"], "region_projection": fresh}}
    return weights._replace(params=params, config=model)


def _with_dropout(model: ModelConfig, config: Config) -> ModelConfig:
    """The model with the configuration's dropout rates."""
    head = dataclasses.replace(model.matching_head, dropout=config.model.dropout)
    rate = config.model.backbone_dropout
    if rate is None:
        return ModelConfig(model.backbone, head)
    backbone = dataclasses.replace(model.backbone, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return ModelConfig(backbone, head)


class CompiledSteps:
    """The step's executables by shape, each compiled ahead of its first use."""

    def __init__(self, jitted: Any):
        self._jitted = jitted
        self._executables: dict[StepShape, jax.stages.Compiled] = {}

    def __contains__(self, shape: StepShape) -> bool:
        return shape in self._executables

    def compile(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape) -> None:
        """Compiles for a shape; the log says which, and how long it took."""
        packed = "" if shape.tokens_per_group is None else f", room for {shape.tokens_per_group:,} tokens a device"
        what = f"{shape.num_pairs} pairs{packed}, losses {', '.join(shape.active)}"
        logging.info("Compiling step shape %d: %s", len(self._executables) + 1, what)
        started = time.perf_counter()
        self._executables[shape] = self._jitted.lower(state, arrays, shape).compile()
        logging.info("Compiled in %.1f s", time.perf_counter() - started)

    def __call__(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape):
        """Runs the step; `state` is given up."""
        return self._executables[shape](state, arrays)
