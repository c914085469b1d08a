"""All that a training loop needs, built from a configuration and a workdir."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import logging
from jax.sharding import Mesh

from aladin_jax import sharding
from aladin_jax.config import Config
from aladin_jax.data import pipeline
from aladin_jax.data.caption_ending import ending_of_split
from aladin_jax.data.dataset import Dataset, open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.encoding import Encoder
from aladin_jax.evaluation.protocol import warn_of_few_images
from aladin_jax.evaluation.report import report_split
from aladin_jax.evaluation.table import Reports
from aladin_jax.lineage import Lineage, write_lineage
from aladin_jax.model_folder import read_description, write_description
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.pretrained import DTYPES, kernels_for, make_tokenizer
from aladin_jax.training import checkpoint, optim
from aladin_jax.training.advice import warn_of_start
from aladin_jax.training.initial import initial_weights, resumed
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import (
    StepVariant,
    TrainState,
    choose_variant,
    init_state,
    jit_train_step,
    make_train_step,
)
from aladin_jax.training.writers import log_parameters
from aladin_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class Run:
    """All that the loop needs.

    Attributes:
        state: where training starts, on the devices.
        step: state -> state, for a batch on the devices and its variant.
        batches: prefetched to the devices, from where `state` is.
        objective: says which losses act in an epoch.
        validate: parameters -> reports; None where the run validates nothing.
        steps_per_epoch: the last, smaller batch included.
        num_steps: when to stop.
        packed_shards: of each process, within which tokens are packed; 0 to compute on padding too.
        slots: padded tokens, tags and regions of a pair.
    """

    state: TrainState
    step: CompiledSteps
    batches: Iterator[pipeline.Batch]
    objective: Objective
    validate: Callable[[Params], Reports] | None
    steps_per_epoch: int
    num_steps: int
    packed_shards: int
    slots: int

    def variant_of(self, batch: pipeline.Batch, active: tuple[str, ...]) -> StepVariant:
        """What to compile for: a batch while the losses `active` act."""
        if not self.packed_shards:
            return StepVariant(active, batch.num_pairs)
        return choose_variant(active, batch.num_pairs, batch.lengths, slots=self.slots, shards=self.packed_shards)


def prepare(
    config: Config,
    objective: Objective,
    workdir: Path,
    checkpoints: checkpoint.RunCheckpoints,
    schedule_start: int,
) -> Run:
    """Builds model, data, step and state.

    The state is that of the newest checkpoint, or else made of `resume_from`, of the weights of `init_from`, or of
    random ones. `schedule_start` is from `checkpoint.check_config`.
    """
    mesh, optimizer = sharding.make_mesh(config.fsdp), optim.adam()
    dataset = open_dataset(config.data.dir)
    Split(dataset, "train").require_captions(use="trained on")
    weights = None
    if checkpoints.latest_step is None:
        weights = _first_start(config, objective, workdir, Split(dataset, "train"))
    model_config, vocabulary = read_description(workdir)
    tokenizer = make_tokenizer(model_config, vocabulary, workdir, config.settings)
    split = Split(dataset, "train", model_config.backbone.img_feature_dim)
    kernels = kernels_for(config.model.kernels, config.model.dtype)
    model = aladin.bind(*model_config, dtype=DTYPES[config.model.dtype], remat=config.remat, kernels=kernels, mesh=mesh)
    batches = _train_batches(config, split, tokenizer, mesh)
    steps_per_epoch = pipeline.steps_per_epoch(split.num_pairs, config.batch_size)
    num_steps = config.num_steps or config.num_epochs * steps_per_epoch
    validate = _validation(config, dataset, model, tokenizer, split.feature_dim, mesh) if config.eval_every else None

    def fresh(params: Params) -> TrainState:
        return init_state(params, objective, optimizer, config.frozen, config.seed)

    abstract = jax.eval_shape(lambda: fresh(aladin.init_params(*model_config, seed=0)))
    shardings = sharding.state_sharding(abstract, mesh)
    if weights is None:
        state, data_state = checkpoints.restore(
            jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        )
        batches.set_state(data_state)
        logging.info("Going on from step %d of %s", state.step, workdir)
    else:
        _keep_lineage(config, objective, workdir, weights.lineage, steps_per_epoch)
        state = fresh(weights.params)
        if config.resume_from:
            state = resumed(config, state, steps_per_epoch=steps_per_epoch, num_steps=num_steps)
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
        _schedule(config, steps_per_epoch, num_steps, schedule_start),
        frozen=config.frozen,
        grad_clip=config.grad_clip,
        shards=mesh.size,
        micro_batches=config.micro_batches,
    )
    return Run(
        state=state,
        step=CompiledSteps(jit_train_step(step, abstract, mesh)),
        batches=pipeline.prefetch_to_device(batches, sharding.batch_sharding(mesh)),
        objective=objective,
        validate=validate,
        steps_per_epoch=steps_per_epoch,
        num_steps=num_steps,
        packed_shards=mesh.size // jax.process_count() * config.micro_batches if config.pack_tokens else 0,
        slots=config.data.max_caption_len + config.data.max_labels_len + config.data.max_regions,
    )


def _schedule(config: Config, steps_per_epoch: int, num_steps: int, start: int) -> optim.Schedule:
    return optim.learning_rate_schedule(
        config.learning_rate,
        steps_per_epoch=steps_per_epoch,
        lr_step_epochs=config.lr_step_epochs,
        lr_gamma=config.lr_gamma,
        warmup_steps=config.warmup_steps,
        lr_cooldown=config.lr_cooldown,
        num_steps=num_steps,
        start=start,
    )


def _validation(
    config: Config,
    dataset: Dataset,
    model: Callable[[Params], aladin.Aladin],
    tokenizer: CaptionTokenizer,
    feature_dim: int,
    mesh: Mesh,
) -> Callable[[Params], Reports]:
    """Reports the recalls of parameters on the validation split."""
    split = Split(dataset, config.eval.validation_split, feature_dim)
    split.require_captions(use="validated on; set eval_every to 0")
    warn_of_few_images(split.name, split.num_images, "validated on")
    encoder = Encoder(
        model,
        tokenizer,
        max_regions=config.data.max_regions,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        dtype=DTYPES[config.model.dtype],
    )
    return partial(report_split, encoder, split, config.pooling, config.measure)


def _first_start(config: Config, objective: Objective, workdir: Path, split: Split) -> Weights:
    """The weights that a run starts from; the workdir is told what model they are of, and how its captions end."""
    weights = initial_weights(config, split.feature_dim)
    logging.info("Weights: %s", weights.described)
    warn_of_start(config, objective, weights.lineage)
    if jax.process_index() == 0:
        write_description(workdir, weights.config, weights.vocabulary, ending_of_split(split))
    sharding.wait_for_processes("model.json")
    return weights


def _keep_lineage(config: Config, objective: Objective, workdir: Path, ancestors: Lineage, steps: int) -> None:
    """Keeps what the run starts from, and after how many steps each of its losses trains a head."""
    if jax.process_index() > 0:
        return
    first_steps = {
        name: config.activate_distillation_after * steps if name == "distillation" else 0
        for name in objective.losses
        if not (name == "alignment" and "backbone" in config.frozen)  # a head without weights of its own
    }
    write_lineage(workdir, ancestors, first_steps)


def _train_batches(config: Config, split: Split, tokenizer: CaptionTokenizer, mesh: Mesh) -> pipeline.TrainBatches:
    return pipeline.TrainBatches(
        split,
        tokenizer,
        batch_size=config.batch_size,
        max_regions=config.data.max_regions,
        region_dtype=DTYPES[config.model.dtype],
        seed=config.seed,
        shuffle=config.data.shuffle,
        pad_to=mesh.size * config.micro_batches,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        num_threads=config.data.num_threads,
        prefetch=config.data.prefetch,
        num_workers=config.data.num_workers,
    )


def make_objective(config: Config) -> Objective:
    """The regime's losses.

    Raises:
        ValueError: what is frozen leaves nothing that they could train.
    """
    objective = Objective(
        alignment=config.loss_weights.alignment,
        matching=config.loss_weights.matching,
        distillation=config.loss_weights.distillation,
        learned_weights=config.learned_loss_weights,
        ranking_loss=config.ranking_loss,
        margin=config.margin,
        hardest=config.hardest,
        hardest_after=config.hardest_after,
        mask_same_image=config.mask_same_image,
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


class CompiledSteps:
    """The step's executables by variant, each compiled ahead of its first use."""

    def __init__(self, jitted: Any):
        self._jitted = jitted
        self._executables: dict[StepVariant, jax.stages.Compiled] = {}

    def __contains__(self, variant: StepVariant) -> bool:
        return variant in self._executables

    def compile(self, state: TrainState, arrays: pipeline.Arrays, variant: StepVariant) -> None:
        """Compiles for a variant; the log says which, and how long it took."""
        packed = "" if variant.tokens_per_shard is None else f", room for {variant.tokens_per_shard:,} tokens a device"
        words = "" if variant.words is None else f" and {variant.words:,} words of all"
        what = f"{variant.num_pairs} pairs{packed}{words}, losses {', '.join(variant.active)}"
        logging.info("Compiling step variant %d: %s", len(self._executables) + 1, what)
        started = time.perf_counter()
        self._executables[variant] = self._jitted.lower(state, arrays, variant).compile()
        logging.info("Compiled in %.1f s", time.perf_counter() - started)

    def __call__(self, state: TrainState, arrays: pipeline.Arrays, variant: StepVariant):
        """Runs the step; `state` is given up."""
        return self._executables[variant](state, arrays)
