"""From a ConfigDict to the explicit arguments of everything below `train` and `evaluate`."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from jax.typing import DTypeLike

from aladin_jax.data.tokenization import CaptionTokenizer, check_vocabulary
from aladin_jax.model_folder import ModelConfig, matching_head_config
from aladin_jax.models.aladin import MODEL_GROUPS, Params, init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.training import checkpoint, optim
from aladin_jax.training.objective import Objective

# An ml_collections.ConfigDict with the fields of configs/common.py; no type checker knows them.
Config = Any

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

AT_LEAST_ONE = (
    "data.max_regions",
    "batch_size",
    "micro_batches",
    "num_epochs",
    "num_steps",
    "log_every",
    "checkpoint_every",
    "eval.fold_size",
    "eval.batch_size",
)
NOT_NEGATIVE = (
    "activate_distillation_after",
    "learning_rate",
    "lr_step_epochs",
    "warmup_steps",
    "seed",
    "eval_every",
    "profile_steps",
    "eval.num_folds",
)


def check_ranges(config: Config) -> None:
    """Checks the numbers that a computation would stumble over later, or not at all.

    Raises:
        ValueError: naming the field.
    """
    for fields, least in ((AT_LEAST_ONE, 1), (NOT_NEGATIVE, 0)):
        for field in fields:
            value = functools.reduce(getattr, field.split("."), config)
            if value is not None and value < least:
                raise ValueError(f"{field} is {value}; it must be at least {least}")


def check_training(config: Config) -> None:
    """Checks that every epoch has a loss, and that there is something for it to train.

    Raises:
        ValueError: naming the fields that do not go together.
    """
    unknown = sorted(set(config.frozen) - set(MODEL_GROUPS))
    if unknown:
        raise ValueError(f"frozen has {unknown[0]!r}; choose among {', '.join(MODEL_GROUPS)}")
    losses = objective(config).losses
    if config.activate_distillation_after > 0 and losses == ("distillation",):
        raise ValueError(
            f"activate_distillation_after is {config.activate_distillation_after}, but there is no other loss to train "
            "with until then; set it to 0"
        )
    if not objective(config).trained_groups(losses, config.frozen):
        raise ValueError(
            f"frozen is {tuple(config.frozen)}, which leaves nothing that {' or '.join(losses)} could train"
        )


class InitialModel(NamedTuple):
    """What a run starts from: parameters, the model they are of, and its vocab.txt."""

    params: Params
    config: ModelConfig
    vocabulary: Path


def initial_model(config: Config, feature_dim: int) -> InitialModel:
    """Reads `init_from` or `resume_from`, or makes random weights of the sizes under `model`.

    Args:
        config: the configuration.
        feature_dim: width of the data's region vectors; where `init_from` projects another, the projection starts anew.

    Raises:
        ValueError: there is nothing to start from, no vocabulary, or a frozen backbone with random weights.
    """
    if config.init_from and config.resume_from:
        raise ValueError("init_from and resume_from are both set; the first starts a run, the second goes on with one")
    if start := config.init_from or config.resume_from:
        params, model, vocabulary, source = checkpoint.load_initial(start)
        logging.info("Weights: %s", source)
        if vocabulary is None:
            raise ValueError(f"{start}: no vocab.txt in it; put the vocabulary of the model there")
        params, model = _fit_projection(params, with_dropout(model, config), config, feature_dim)
        return InitialModel(params, model, vocabulary)
    if not config.model.vocabulary:
        raise ValueError(
            "init_from is empty: name a converted checkpoint (python -m convert.checkpoint), or, for random weights, "
            "model.vocabulary and model.backbone"
        )
    if "backbone" in config.frozen:
        raise ValueError("frozen has 'backbone', whose weights would be random; set init_from")
    sizes = {"img_feature_dim": feature_dim, **config.model.backbone.to_dict()}
    head = {"num_layers": config.model.num_layers, "num_heads": config.model.num_heads}
    model = with_dropout(
        ModelConfig(
            BackboneConfig.from_dict(sizes, "config.model.backbone"), matching_head_config(head, "config.model")
        ),
        config,
    )
    logging.info("Weights: random, seed %d", config.seed)
    return InitialModel(init_params(*model, seed=config.seed), model, Path(config.model.vocabulary))


def _fit_projection(params: Params, model: ModelConfig, config: Config, feature_dim: int) -> tuple[Params, ModelConfig]:
    """Replaces the region projection by a random one where the data's regions have another width."""
    before = model.backbone.img_feature_dim
    if before == feature_dim:
        return params, model
    if "backbone" in config.frozen:
        raise ValueError(
            f"{config.init_from}: takes regions of {before} features, the data has {feature_dim}; with a frozen "
            "backbone its projection cannot be trained anew"
        )
    model = model._replace(backbone=dataclasses.replace(model.backbone, img_feature_dim=feature_dim))
    fresh = init_params(*model, seed=config.seed)["backbone"]["region_projection"]
    logging.warning("Regions have %d features, %s takes %d: their projection starts anew from random weights",
                    feature_dim, config.init_from, before)  # fmt: skip
    return {**params, "backbone": {**params["backbone"], "region_projection": fresh}}, model


def with_dropout(model: ModelConfig, config: Config) -> ModelConfig:
    """The model with the configuration's dropout rates."""
    head = dataclasses.replace(model.matching_head, dropout=config.model.dropout)
    rate = config.model.backbone_dropout
    if rate is None:
        return ModelConfig(model.backbone, head)
    backbone = dataclasses.replace(model.backbone, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate)
    return ModelConfig(backbone, head)


def tokenizer(config: Config, model: ModelConfig, vocabulary: Path | None, source: str | Path) -> CaptionTokenizer:
    """The tokenizer of a model's vocabulary, with the configuration's lengths.

    Raises:
        ValueError: no vocabulary, one that is not the model's, or lengths beyond the model's positions.
    """
    if vocabulary is None:
        raise ValueError(f"{source}: no vocab.txt in it; put the vocabulary of the model there")
    for field in ("max_caption_len", "max_labels_len"):
        if config.data[field] > model.backbone.max_position_embeddings:
            raise ValueError(
                f"data.{field} is {config.data[field]}; the model has "
                f"{model.backbone.max_position_embeddings} positions"
            )
    made = CaptionTokenizer(
        vocabulary, max_caption_len=config.data.max_caption_len, max_labels_len=config.data.max_labels_len
    )
    check_vocabulary(made, model.backbone.vocab_size)
    return made


def dtype(config: Config) -> DTypeLike:
    """Number format of the dense layers."""
    if config.model.dtype not in DTYPES:
        raise ValueError(f"model.dtype is {config.model.dtype!r}; choose one of {', '.join(DTYPES)}")
    return DTYPES[config.model.dtype]


def objective(config: Config) -> Objective:
    """The regime's losses."""
    return Objective(
        **config.loss_weights.to_dict(),
        learned_weights=config.learned_loss_weights,
        ranking_loss=config.ranking_loss,
        margin=config.margin,
        hardest=config.hardest,
        pooling=config.pooling,
        measure=config.measure,
        distillation_mode=config.distillation_mode,
    )


def schedule(config: Config, steps_per_epoch: int, start: int = 0) -> optim.Schedule:
    """The learning rate of each step, by a schedule that begins at step `start`."""
    return optim.step_decay(
        config.learning_rate,
        steps_per_epoch=steps_per_epoch,
        lr_step_epochs=config.lr_step_epochs,
        lr_gamma=config.lr_gamma,
        warmup_steps=config.warmup_steps,
        start=start,
    )


def enable_compilation_cache(folder: str) -> None:
    """Keeps compiled programs on disk, so that the next start is quick."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aladin_jax"
    jax.config.update("jax_compilation_cache_dir", folder or str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
