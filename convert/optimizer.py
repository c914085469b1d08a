"""How far an ALADIN checkpoint's run was, and Adam's state of it, so that the run can go on here.

The original gives all parameters to one Adam, in the order of its model's tensors, so the n-th state is the n-th
tensor's. A parameter that never had a gradient has no state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from aladin_jax.errors import DataError
from aladin_jax.model_folder import ModelConfig, RunState, unflatten
from convert.matching import Matched
from convert.names import entries
from convert.weights import Weights

_SETTINGS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
_BUFFER = re.compile(r".*\.(position_ids|token_type_ids)")
# Tensors that move only under options of the original that do not exist here.
_OPTIONS = {
    r"bert\.detic_to_oscar_img\.": "detection_type other than 'fast'",
    r"bert\.embeddings\.clip_(local|global)_to_oscar_embeddings\.": "enable_clip_labels or enable_clip_captions",
}
_SCALE = re.compile(r"(?:.*\.)?(alignment|matching)_criterion\.logit_scale")  # of InfoNCE


class Moments(NamedTuple):
    """Adam's state of one tensor."""

    step: int
    first: np.ndarray
    second: np.ndarray


class Progress(NamedTuple):
    """How far the run was that a checkpoint is of.

    Attributes:
        counts: epochs and iterations done, and the learning rate's schedule as far as the checkpoint tells it.
        moments: Adam's state by the table's names, of all tensors that have had a gradient.
        scales: InfoNCE's learned log scales by the table's names, where they have had one.
        foreign_trained: an option that does not exist here, and the tensor that shows that it was on.
    """

    counts: dict[str, int | float]
    moments: dict[str, Moments]
    scales: dict[str, np.ndarray]
    foreign_trained: tuple[str, str] | None


def read_progress(weights: Weights, matched: Matched, notes: list[str]) -> Progress | None:
    """Reads Adam's state and the counts; None where there is no state to go on with, and `notes` say why."""
    optimizer = weights.rest.get("optimizer")
    if optimizer is None:
        return None
    try:
        groups, states = optimizer["param_groups"], optimizer["state"]
        moments = _read_moments(groups, states, weights, matched)
        counts = _read_counts(weights.rest, groups[0])
    except _UnusableError as error:
        notes.append(f"left out: the optimizer's state, so the run cannot be resumed: {error}")
        return None
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        notes.append(
            f"left out: the optimizer's state, so the run cannot be resumed: it is no Adam's ({type(error).__name__})"
        )
        return None
    trained = {name: state for name, state in moments.items() if state.second.any()}
    foreign = [
        (o, matched.keys[name]) for name in trained for pattern, o in _OPTIONS.items() if re.match(pattern, name)
    ]
    scales = {name: matched.tensors[name].float().numpy() for name in trained if _SCALE.fullmatch(name)}
    return Progress(counts, moments, scales, foreign[0] if foreign else None)


class _UnusableError(DataError):
    """Why an optimizer's state cannot be gone on with."""


def _read_moments(groups: Any, states: Any, weights: Weights, matched: Matched) -> dict[str, Moments]:
    name_of = {key: name for name, key in matched.keys.items()}
    parameters = [key for key in weights.tensors if not _BUFFER.fullmatch(key)]
    numbers = [number for group in groups for number in group["params"]]
    if len(numbers) != len(parameters):
        raise _UnusableError(f"it is of {len(numbers)} parameters, the model has {len(parameters)}")
    for group in groups:
        for field, only in _SETTINGS.items():
            value = group.get(field, only)
            if (tuple(value) if isinstance(value, list) else value) != only:
                raise _UnusableError(f"{field} is {value!r:.60}; only {only!r} is supported")
        if group["lr"] != groups[0]["lr"]:
            raise _UnusableError("its parameters have different learning rates")
    moments = {}
    for number, key in zip(numbers, parameters, strict=True):
        if (state := states.get(number)) is None:
            continue
        made = Moments(int(state["step"]), _array(state["exp_avg"]), _array(state["exp_avg_sq"]))
        if not made.first.shape == made.second.shape == tuple(weights.tensors[key].shape):
            raise _UnusableError(f"that of {key} has the shape {list(made.first.shape)}")
        if not (np.isfinite(made.first).all() and np.isfinite(made.second).all() and (made.second >= 0).all()):
            raise _UnusableError(f"that of {key} holds NaN, infinity or a negative square")
        if not 0 < made.step < 2**31:
            raise _UnusableError(f"that of {key} is of step {made.step}")
        moments[name_of[key]] = made
    return moments


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).numpy()


def _read_counts(rest: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, int | float]:
    counts: dict[str, int | float] = {"epoch": int(rest["epoch"]), "iterations": int(rest["Eiters"])}
    scheduler = rest.get("scheduler")
    if scheduler is None:  # the rate is constant
        counts |= {"learning_rate": float(group["lr"]), "lr_step_epochs": 0}
    else:
        counts["learning_rate"] = float(scheduler["base_lrs"][0])
        if "step_size" in scheduler:
            counts |= {"lr_step_epochs": int(scheduler["step_size"]), "lr_gamma": float(scheduler["gamma"])}
    for name, value in counts.items():
        if not 0 <= value < 2**31:
            raise _UnusableError(f"{name} is {value}")
    return counts


def convert_progress(progress: Progress, model_config: ModelConfig, notes: list[str]) -> RunState | None:
    """Puts Adam's state in the parameters' places; None where it differs within a group, and `notes` say so.

    Args:
        progress: of the checkpoint.
        model_config: what the parameters fit.
        notes: what the user should know.
    """
    adam: dict[str, dict[str, Any]] = {}
    for group in ("backbone", "matching_head"):
        table = [entry for entry in entries(model_config) if entry.parameter.startswith(f"{group}/")]
        wanted = [name for entry in table for name in entry.names]
        steps = {progress.moments[name].step if name in progress.moments else 0 for name in wanted}
        if steps == {0}:  # no gradient yet: it starts as any other run's
            continue
        if len(steps) > 1:
            notes.append(
                f"left out: the optimizer's state, so the run cannot be resumed: within the {group} Adam has done "
                f"{' and '.join(str(step) for step in sorted(steps)[:5])} steps"
            )
            return None
        adam[group] = {"count": np.int32(steps.pop())}
        for ours, part in (("mu", "first"), ("nu", "second")):
            arrays = {name: getattr(progress.moments[name], part) for name in wanted}
            made = {entry.parameter.removeprefix(f"{group}/"): entry.to_parameter(arrays) for entry in table}
            adam[group][ours] = unflatten(made)
    losses = {}
    for name, value in progress.scales.items():
        group, state = _SCALE.sub(r"\1_loss", name), progress.moments[name]
        losses[group] = {"log_scale": value}
        adam[group] = {
            "count": np.int32(state.step),
            "mu": {"log_scale": state.first},
            "nu": {"log_scale": state.second},
        }
    return RunState(dict(progress.counts), adam, losses)
