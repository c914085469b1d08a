"""What a run starts from: `init_from`, a run of the original to go on with, or random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from absl import logging

from aladin_jax.config import Config
from aladin_jax.lineage import random_weights
from aladin_jax.model_folder import ModelConfig, load_run_state, matching_head_config
from aladin_jax.models import aladin
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.pretrained import require_vocabulary
from aladin_jax.training.resume import check_schedule, resume
from aladin_jax.training.step import TrainState
from aladin_jax.weights import Weights, read_weights


def initial_weights(config: Config, feature_dim: int) -> Weights:
    """Reads `init_from` or `resume_from`, or makes random weights of the sizes under `model`.

    Args:
        config: the configuration.
        feature_dim: width of the data's region vectors; where the weights project another, the projection starts anew.

    Raises:
        ValueError: there is nothing to start from, no vocabulary, or a frozen backbone with random weights.
    """
    if start := config.init_from or config.resume_from:
        weights = read_weights(start)
        require_vocabulary(weights.vocabulary, start)
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
    described = f"random, seed {config.seed}"
    return Weights(params, model, Path(config.model.vocabulary), described, None, random_weights(config.seed))


def resumed(config: Config, state: TrainState, *, steps_per_epoch: int, num_steps: int) -> TrainState:
    """Puts the progress of `resume_from`, a run of the original, into a state with its weights.

    Raises:
        ValueError: it was trained with another schedule, is of another model, or there is nothing left to train.
    """
    run = load_run_state(config.resume_from)
    if not config.reinitialize_scheduler:
        check_schedule(config.to_dict(), run.progress, config.resume_from)
    return resume(state, run, steps_per_epoch=steps_per_epoch, num_steps=num_steps, source=config.resume_from)


def _fit_projection(weights: Weights, config: Config, feature_dim: int) -> Weights:
    """Replaces the region projection by a random one where the data's regions have another width."""
    params, model, source = weights.params, weights.config, config.init_from or config.resume_from
    before = model.backbone.img_feature_dim
    if before == feature_dim:
        return weights
    if "backbone" in config.frozen:
        raise ValueError(
            f"{source}: takes regions of {before} features, the data has {feature_dim}; with a frozen backbone its "
            "projection cannot be trained anew"
        )
    model = model._replace(backbone=dataclasses.replace(model.backbone, img_feature_dim=feature_dim))
    fresh = aladin.init_params(*model, seed=config.seed)["backbone"]["region_projection"]
    logging.warning("Regions have %d features, %s takes %d: their projection starts anew from random weights",
                    feature_dim, source, before)  # fmt: skip
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
