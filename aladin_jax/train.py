"""Training: build or restore, loop, report, validate, keep checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import logging

from aladin_jax import checkpoint, configuration, optim, sharding
from aladin_jax.configuration import Config
from aladin_jax.data import pipeline
from aladin_jax.data.records import Split, open_dataset
from aladin_jax.evaluate import make_encoder, report_split
from aladin_jax.guards import FiniteWatch, Interruption
from aladin_jax.model_folder import read_description, write_description
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.models.packing import tokens_per_group
from aladin_jax.reporting.metrics import TrainMetrics
from aladin_jax.reporting.table import Reports, report_scalars
from aladin_jax.reporting.writers import create_profile, create_progress, create_writer, log_parameters
from aladin_jax.train_step import StepShape, TrainState, init_state, jit_train_step, make_train_step, metric_names

# Compilation and warm-up stay out of a profile.
STEPS_BEFORE_PROFILE = 10


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


def train(config: Config, workdir: Path) -> None:
    """Trains in a workdir, going on from its latest checkpoint if it has one.

    Args:
        config: see configs/common.py.
        workdir: for checkpoints, TensorBoard files and the model's description.

    Raises:
        ValueError: the configuration, the data and the workdir do not fit together.
        FloatingPointError: the loss is not finite; the newest checkpoint is from before.
        SystemExit: SIGTERM or SIGINT came; the state is saved.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoint.check_config(workdir, config.to_dict())
    configuration.enable_compilation_cache(config.compilation_cache)
    checkpoints = checkpoint.RunCheckpoints(workdir)
    run = prepare(config, workdir, checkpoints)
    state, step = run.state, int(run.state.step)
    writer = create_writer(workdir)
    hooks: list[Callable[[int], Any]] = [create_progress(writer, num_steps=run.num_steps, every_steps=config.log_every)]
    if config.profile_steps:
        first = step + STEPS_BEFORE_PROFILE
        hooks.append(
            create_profile(workdir, first_step=first, num_profile_steps=config.profile_steps, num_steps=run.num_steps)
        )
    watch, metrics = FiniteWatch(), TrainMetrics(())

    with Interruption().caught() as interruption:
        while step < run.num_steps:
            batch = next(run.batches)
            shape = run.shape_of(batch, step // run.steps_per_epoch)
            if metrics.names != metric_names(shape.active):  # the first step, or a loss joins in with this epoch
                writer.write_scalars(step, metrics.flush())
                metrics = TrainMetrics(metric_names(shape.active))
            with metrics.paused():
                run.step.compile(state, batch.arrays, shape)
            state, values = run.step(state, batch.arrays, shape)
            step += 1
            metrics.update(values, batch.num_pairs)
            watch.add(step, values)
            for hook in hooks:
                hook(step)

            last = step == run.num_steps or interruption.signal is not None
            if last or step % config.log_every == 0:
                watch.check(checkpoints.latest_step)
                writer.write_scalars(step, metrics.flush())
            if run.validate and (step == run.num_steps or step % config.eval_every == 0):
                watch.check(checkpoints.latest_step)
                with metrics.paused():
                    reports = run.validate(state.params)
                writer.write_scalars(step, report_scalars(reports))
                rsum = sum(head["rsum"] for report in reports.values() for head in report.values())
                if checkpoints.save_if_best(step, state.params, rsum):
                    logging.info("Step %d: best so far, rsum %.1f", step, rsum)
            if last or step % config.checkpoint_every == 0:
                watch.check(checkpoints.latest_step)
                with metrics.paused():
                    checkpoints.save(state, batch.state)
                writer.flush()
            if interruption.signal is not None:
                break

    checkpoints.close()
    writer.close()
    if interruption.signal is not None:
        logging.info("Saved step %d; the same command goes on from there", step)
        raise SystemExit(128 + interruption.signal)
    logging.info("Trained %d steps; evaluate with --mode evaluate --workdir %s", step, workdir)


def prepare(config: Config, workdir: Path, checkpoints: checkpoint.RunCheckpoints) -> Run:
    """Builds model, data, step and state; the state from the newest checkpoint, or else from `init_from` or random."""
    mesh = sharding.make_mesh(config.fsdp)
    objective, optimizer = configuration.objective(config), optim.adam()
    frozen = tuple(config.frozen)

    params = None
    if checkpoints.latest_step is None:
        params, model_config, vocabulary = configuration.initial_model(config)
        write_description(workdir, model_config, vocabulary)
    model_config, vocabulary = read_description(workdir)
    tokenizer = configuration.tokenizer(config, model_config, vocabulary, workdir)
    model = aladin.bind(*model_config, dtype=configuration.dtype(config))

    dataset = open_dataset(config.data.dir)
    feature_dim = model_config.backbone.img_feature_dim
    split = Split(dataset, "train", feature_dim)
    batches = pipeline.TrainBatches(
        split,
        tokenizer,
        batch_size=config.batch_size,
        max_regions=config.data.max_regions,
        seed=config.seed,
        shuffle=config.data.shuffle,
        pad_to=mesh.size,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        num_workers=config.data.num_workers,
    )
    steps_per_epoch = pipeline.steps_per_epoch(split.num_pairs, config.batch_size)

    validate = None
    if config.eval_every:
        validation = Split(dataset, config.eval.validation_split, feature_dim)
        encoder = make_encoder(config, model, tokenizer, mesh)
        validate = partial(report_split, encoder, validation, objective)

    abstract = jax.eval_shape(
        lambda: init_state(aladin.init_params(*model_config, seed=0), objective, optimizer, frozen, config.seed)
    )
    shardings = sharding.state_sharding(abstract, mesh)
    if params is None:
        state, data_state = checkpoints.restore(
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        )
        batches.set_state(data_state)
        logging.info("Going on from step %d of %s", state.step, workdir)
    else:
        state = jax.device_put(init_state(params, objective, optimizer, frozen, config.seed), shardings)
    log_parameters(state.params)
    step = make_train_step(
        model,
        objective,
        optimizer,
        configuration.schedule(config, steps_per_epoch),
        frozen=frozen,
        grad_clip=config.grad_clip,
        groups=mesh.size,
    )
    slots = config.data.max_caption_len + config.data.max_labels_len + config.data.max_regions

    def shape_of(batch: pipeline.Batch, epoch: int) -> StepShape:
        waiting = ("distillation",) if epoch < config.activate_distillation_after else ()
        active = tuple(name for name in objective.losses if name not in waiting)
        tokens = tokens_per_group(batch.tokens, slots=slots, groups=mesh.size) if config.pack_tokens else None
        return StepShape(active, batch.num_pairs, tokens)

    return Run(
        state,
        CompiledSteps(jit_train_step(step, abstract, mesh)),
        pipeline.prefetch_to_device(batches, sharding.batch_sharding(mesh)),
        shape_of,
        validate,
        steps_per_epoch,
        config.num_steps or config.num_epochs * steps_per_epoch,
    )


class CompiledSteps:
    """The step's executables by shape; each is compiled ahead of its first use, and the log says how long it took."""

    def __init__(self, jitted: Any):
        """Compiles nothing yet."""
        self._jitted = jitted
        self._executables: dict[StepShape, jax.stages.Compiled] = {}

    def compile(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape) -> None:
        """Compiles for a shape, or finds it done."""
        if shape in self._executables:
            return
        started = time.perf_counter()
        self._executables[shape] = self._jitted.lower(state, arrays, shape).compile()
        logging.info("Compiled %s in %.1f s", shape, time.perf_counter() - started)

    def __call__(self, state: TrainState, arrays: pipeline.Arrays, shape: StepShape):
        """Runs the step; `state` is given up."""
        return self._executables[shape](state, arrays)
