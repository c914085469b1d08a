"""All that a training loop needs, built from a configuration and a workdir."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jax.sharding import Mesh

from aladin_jax import configuration, sharding
from aladin_jax.configuration import Config
from aladin_jax.data import pipeline
from aladin_jax.data.records import Split, open_dataset
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.evaluation.report import make_encoder, report_split
from aladin_jax.evaluation.table import Reports
from aladin_jax.model_folder import ModelConfig, load_run_state, read_description, write_description
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.models.packing import tokens_per_group
from aladin_jax.training import checkpoint, optim
from aladin_jax.training.resume import check_schedule, resume
from aladin_jax.training.step import StepShape, TrainState, init_state, jit_train_step, make_train_step
from aladin_jax.training.writers import log_parameters


class Run(NamedTuple):
    """All that the loop needs, built from a configuration and a workdir.

    Attributes:
        state: where training starts, on the devices.
        step: state -> state, for a batch on the devices and its shape.
        batches: prefetched to the devices, from where `state` is.
        shape_of: what to compile for: the shape of a batch in an epoch.
        validate: parameters -> reports; None where the run validates nothing.
        steps_per_epoch: the last, smaller batch included.
        num_steps: when to stop.
    """

    state: TrainState
    step: CompiledSteps
    batches: Iterator[pipeline.Batch]
    shape_of: Callable[[pipeline.Batch, int], StepShape]
    validate: Callable[[Params], Reports] | None
    steps_per_epoch: int
    num_steps: int


def prepare(config: Config, workdir: Path, checkpoints: checkpoint.RunCheckpoints, schedule_start: int) -> Run:
    """Builds model, data, step and state.

    The state is that of the newest checkpoint, or else made of `resume_from`, of the weights of `init_from`, or of
    random ones. `schedule_start` is from `checkpoint.check_config`.
    """
    mesh = sharding.make_mesh(config.fsdp)
    objective, optimizer = configuration.objective(config), optim.adam()
    frozen = tuple(config.frozen)

    dataset = open_dataset(config.data.dir)
    split = Split(dataset, "train")
    split.require_captions(use="trained on")
    params, model_config, tokenizer = _load_model(config, workdir, checkpoints, split.feature_dim)
    split = Split(dataset, "train", model_config.backbone.img_feature_dim)
    model = aladin.bind(*model_config, dtype=configuration.dtype(config), remat=config.remat)
    batches = _train_batches(config, split, tokenizer, mesh)
    steps_per_epoch = pipeline.steps_per_epoch(split.num_pairs, config.batch_size)
    num_steps = config.num_steps or config.num_epochs * steps_per_epoch

    validate = None
    if config.eval_every:
        validation = Split(dataset, config.eval.validation_split, split.feature_dim)
        validation.require_captions(use="validated on; set eval_every to 0")
        validate = partial(report_split, make_encoder(config, model, tokenizer, mesh), validation, objective)

    def fresh(params: Params) -> TrainState:
        return init_state(params, objective, optimizer, frozen, config.seed)

    abstract = jax.eval_shape(lambda: fresh(aladin.init_params(*model_config, seed=0)))
    shardings = sharding.state_sharding(abstract, mesh)
    if params is None:
        state, data_state = checkpoints.restore(
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        )
        batches.set_state(data_state)
        logging.info("Going on from step %d of %s", state.step, workdir)
    else:
        state = fresh(params)
        if config.resume_from:
            run = load_run_state(config.resume_from)
            if not config.reinitialize_scheduler:
                check_schedule(config.to_dict(), run.progress, config.resume_from)
            state = resume(state, run, steps_per_epoch=steps_per_epoch, num_steps=num_steps, source=config.resume_from)
            batches.set_state({**batches.get_state(), "next_batch": int(state.step)})
            if config.reinitialize_scheduler:
                schedule_start = int(state.step)
                checkpoint.keep_schedule_start(workdir, schedule_start)
        state = jax.device_put(state, shardings)
    log_parameters(state.params)

    step = make_train_step(
        model,
        objective,
        optimizer,
        configuration.schedule(config, steps_per_epoch, schedule_start),
        frozen=frozen,
        grad_clip=config.grad_clip,
        groups=mesh.size,
        micro_batches=config.micro_batches,
    )
    slots = config.data.max_caption_len + config.data.max_labels_len + config.data.max_regions

    def shape_of(batch: pipeline.Batch, epoch: int) -> StepShape:
        waiting = ("distillation",) if epoch < config.activate_distillation_after else ()
        active = tuple(name for name in objective.losses if name not in waiting)
        if not config.pack_tokens:
            return StepShape(active, batch.num_pairs)
        own_groups = mesh.size // jax.process_count() * config.micro_batches
        tokens = np.asarray(tokens_per_group(batch.tokens, slots=slots, groups=own_groups))
        return StepShape(active, batch.num_pairs, int(sharding.largest_of_processes(tokens)))

    return Run(
        state,
        CompiledSteps(jit_train_step(step, abstract, mesh)),
        pipeline.prefetch_to_device(batches, sharding.batch_sharding(mesh)),
        shape_of,
        validate,
        steps_per_epoch,
        num_steps,
    )


def _load_model(
    config: Config, workdir: Path, checkpoints: checkpoint.RunCheckpoints, feature_dim: int
) -> tuple[Params | None, ModelConfig, CaptionTokenizer]:
    """The model a workdir trains; at its first start also the parameters, and the model's description is put there."""
    params = None
    if checkpoints.latest_step is None:
        params, model_config, vocabulary = configuration.initial_model(config, feature_dim)
        if jax.process_index() == 0:
            write_description(workdir, model_config, vocabulary)
        sharding.wait_for_processes("model.json")
    model_config, vocabulary = read_description(workdir)
    return params, model_config, configuration.tokenizer(config, model_config, vocabulary, workdir)


def _train_batches(config: Config, split: Split, tokenizer: CaptionTokenizer, mesh: Mesh) -> pipeline.TrainBatches:
    return pipeline.TrainBatches(
        split,
        tokenizer,
        batch_size=config.batch_size,
        max_regions=config.data.max_regions,
        region_dtype=configuration.dtype(config),
        seed=config.seed,
        shuffle=config.data.shuffle,
        pad_to=mesh.size * config.micro_batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        num_workers=config.data.num_workers,
    )


class CompiledSteps:
    """The step's executables by shape; each is compiled ahead of its first use, and the log says how long it took."""

    def __init__(self, jitted: Any):
        """Compiles nothing yet."""
        self._jitted = jitted
        self._executables: dict[StepShape, jax.stages.Compiled] = {}

    def __contains__(self, shape: StepShape) -> bool:
        """Whether a shape is compiled."""
        return shape in self._executables

    def compile(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape) -> None:
        """Compiles for a shape."""
        started = time.perf_counter()
        self._executables[shape] = self._jitted.lower(state, arrays, shape).compile()
        logging.info("Compiled %s in %.1f s", shape, time.perf_counter() - started)

    def __call__(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape):
        """Runs the step; `state` is given up."""
        return self._executables[shape](state, arrays)
