"""A trained model as the original keeps it: tensor names, YAML configuration, epoch and iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orbax.checkpoint as ocp
import torch

from aladin_jax.config import CONFIG_JSON
from aladin_jax.errors import DataError, first_line
from aladin_jax.model_folder import ModelConfig, flatten, read_json, read_provenance
from aladin_jax.models.aladin import Params
from aladin_jax.training.objective import LOSS_NAMES
from aladin_jax.weights import BEST, LATEST, newest_step
from configs import alignment_and_matching_distill
from convert.names import entries

_HEADS = 4  # the original's matching head cannot have another number


class Run(NamedTuple):
    """Where parameters came from.

    Attributes:
        epoch: epochs begun.
        iterations: training steps done.
        config: the original's configuration of such a run.
        settings: this project's configuration of it; None if the parameters were not trained here.
        num_pairs: (image, caption) pairs in an epoch of it.
        parameters: the checkpoint that `read_weights` reads; None if they were not trained here.
    """

    epoch: int
    iterations: int
    config: dict[str, Any]
    settings: dict[str, Any] | None = None
    num_pairs: int = 0
    parameters: Path | None = None


def read_run(workdir: Path, model_config: ModelConfig) -> Run:
    """Finds how the parameters that `read_weights` reads from a folder were trained.

    Raises:
        DataError: the workdir lacks a part that training writes.
    """
    if not (workdir / CONFIG_JSON).is_file():
        before = read_provenance(workdir).get("checkpoint", {})
        default = original_config(alignment_and_matching_distill.get_config().to_dict(), model_config)
        return Run(before.get("epoch", 0), before.get("Eiters", 0), before.get("config") or default)
    settings = read_json(workdir / CONFIG_JSON)
    latest = newest_step(workdir / LATEST)
    if latest is None:
        raise DataError(f"{workdir}: there is no {LATEST}/, which says how long the epochs were")
    best = newest_step(workdir / BEST)
    step = latest if best is None else best
    kept = f"{LATEST}/{step}/state" if best is None else f"{BEST}/{step}/default"
    try:
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            data = reader.restore(workdir.absolute() / LATEST / str(latest) / "data")
        steps_per_epoch = math.ceil(data["num_pairs"] / data["batch_size"])
        config = original_config(settings, model_config)
        return Run(
            math.ceil(step / steps_per_epoch), step, config, settings, data["num_pairs"], workdir.absolute() / kept
        )
    except (KeyError, TypeError, OSError, ZeroDivisionError) as error:
        raise DataError(f"{workdir}: not a workdir of this version ({type(error).__name__}: {error})") from error


def original_config(settings: Mapping[str, Any], model_config: ModelConfig) -> dict[str, Any]:
    """The original's YAML for a run with these settings (fields of configs/common.py)."""
    weights = {name: settings["loss_weights"][name] for name in LOSS_NAMES if settings["loss_weights"][name]}
    return {
        "dataset": {"name": "coco"},
        "model": {
            "name": "teran",
            "embed-size": model_config.backbone.hidden_size,
            "text-aggregation": "first",
            "image-aggregation": "first",
            "freeze-teran": "backbone" in settings["frozen"],
            "teran-layers": 0,
            "tern-layers": model_config.matching_head.num_layers,
            "post-layers": 0,
            "exclude-stopwords": False,
            "shared-transformer": True,
            "depth-aggregation-alignment": False,
            "depth-aggregation-matching": False,
            "dropout": model_config.matching_head.dropout,
        },
        "training": {
            "lr": settings["learning_rate"],
            "grad-clip": settings["grad_clip"],
            "max-violation": settings["hardest"],
            "loss-type": "-".join(weights),
            "loss-weights": "auto" if settings["learned_loss_weights"] else list(weights.values()),
            "alignment-mode": settings["pooling"],
            "distillation-mode": settings["distillation_mode"],
            "activate_distillation_after": settings["activate_distillation_after"],
            "measure": settings["measure"],
            "margin": settings["margin"],
            "bs": settings["batch_size"],
            "scheduler": "steplr" if settings["lr_step_epochs"] else None,
            "gamma": settings["lr_gamma"],
            "step-size": settings["lr_step_epochs"],
            "warmup": "linear" if settings["warmup_steps"] else None,
            "warmup-period": settings["warmup_steps"],
        },
        "detection_type": "fast",
        "enable_clip_captions": False,
        "enable_clip_labels": False,
        "max_caption_seq_len": settings["data"]["max_caption_len"],
        "max_labels_seq_len": settings["data"]["max_labels_len"],
    }


def original_tensors(params: Params, model_config: ModelConfig) -> dict[str, torch.Tensor]:
    """All parameters as the original names and shapes them, bit for bit.

    Raises:
        DataError: the original has no such model.
    """
    if model_config.matching_head.num_heads != _HEADS:
        raise DataError(
            f"the matching head has {model_config.matching_head.num_heads} attention heads, the original's has {_HEADS}"
        )
    flat, tensors = flatten(params), {}
    for entry in entries(model_config):
        arrays = entry.to_tensors(np.asarray(flat[entry.parameter]))
        prefix = "img_txt_enc.oscar_model." if entry.parameter.startswith("backbone/") else "img_txt_enc."
        tensors |= {f"{prefix}{name}": torch.from_numpy(array) for name, array in arrays.items()}
    return tensors


def learned_scales(run: Run) -> dict[str, torch.Tensor]:
    """InfoNCE's scales as the original names them, of a run that learned them.

    For other learnable scalars of losses (weights, the affine of "mse") its checkpoints have no place.

    Raises:
        DataError: the run's checkpoint is damaged.
    """
    if run.parameters is None or run.settings is None or run.settings.get("ranking_loss") != "info_nce":
        return {}
    names = [name for name in ("alignment", "matching") if run.settings["loss_weights"][name]]
    wanted: Any = {f"{name}_loss": {"log_scale": ocp.RestoreArgs(restore_type=np.ndarray)} for name in names}
    is_state = run.parameters.name == "state"
    wanted = {"params": wanted} if is_state else wanted
    try:
        with ocp.PyTreeCheckpointer() as reader:
            arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=wanted, partial_restore=True)
            found = reader.restore(run.parameters, args=arguments)
        found = found["params"] if is_state else found
        scales = {name: found[f"{name}_loss"]["log_scale"] for name in names}
    except Exception as error:  # Orbax and TensorStore raise all kinds for damaged files
        raise DataError(f"{run.parameters}: its InfoNCE scales cannot be read ({first_line(error)})") from error
    return {f"{name}_criterion.logit_scale": torch.tensor(float(scale)) for name, scale in scales.items()}


def original_checkpoint(tensors: dict[str, torch.Tensor], run: Run) -> dict[str, Any]:
    """The content of a checkpoint.pth.tar, without an optimizer to go on with."""
    return {
        "epoch": run.epoch,
        "model": tensors,
        "optimizer": None,
        "scheduler": None,
        "opt": None,
        "config": run.config,
        "Eiters": run.iterations,
    }
