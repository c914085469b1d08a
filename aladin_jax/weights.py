"""A trained model's weights, out of a converted checkpoint or a workdir.

WORKDIR/checkpoints/STEP/      the latest states of a run
WORKDIR/best/STEP/             the parameters of the validation with the largest rsum
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from aladin_jax import model_folder
from aladin_jax.errors import first_line
from aladin_jax.lineage import Lineage, lineage_of_model_folder, lineage_of_workdir
from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import MODEL_GROUPS, Params

LATEST, BEST = "checkpoints", "best"


class Weights(NamedTuple):
    """Parameters and what belongs to them.

    Attributes:
        params: the groups "backbone" and "matching_head", float32 NumPy arrays.
        config: the model they are of.
        vocabulary: its vocab.txt, if there is one.
        described: a few words on where they are from.
        step: of the run that they are of; None where they were not trained here.
        lineage: what they come from.
    """

    params: Params
    config: ModelConfig
    vocabulary: Path | None
    described: str
    step: int | None = None
    lineage: Lineage = ()


def read_weights(path: str | Path) -> Weights:
    """Reads a converted checkpoint, or the best (or else the latest) checkpoint of a workdir.

    Raises:
        ValueError: there is neither, or it is damaged.
    """
    given, path = Path(path), Path(path).absolute()
    if path.is_file():
        raise ValueError(
            f"{given}: a file, where a folder of weights is expected; convert it first: python -m convert.checkpoint "
            f"--vinvl DIR --checkpoint {given} --output WEIGHTS"
        )
    if (path / model_folder.PARAMS).is_dir():
        loaded = model_folder.load_model_folder(path)
        return Weights(*loaded, f"converted checkpoint {path}", None, lineage_of_model_folder(given))
    if (path / "pytorch_model.bin").is_file():
        raise ValueError(
            f"{given}: PyTorch's weights; convert them first: python -m convert.checkpoint --vinvl {given} (or --bert) "
            "--output WEIGHTS"
        )
    model_config, vocabulary = model_folder.read_description(path)
    for folder, item, word in ((BEST, "default", "best"), (LATEST, "state", "latest")):
        step = newest_step(path / folder)
        if step is not None:
            restored = restore_host(path / folder / str(step) / item)
            params = restored["params"] if folder == LATEST else restored
            params = {group: params[group] for group in MODEL_GROUPS}
            model_folder.check_params(params, model_config, str(path / folder / str(step)))
            described = f"{word} checkpoint of {path}, step {step}"
            return Weights(params, model_config, vocabulary, described, step, lineage_of_workdir(given, step))
    if (path / "model.safetensors").is_file():
        raise ValueError(f"{path}: an export; convert it first: python -m convert.checkpoint --checkpoint {path}")
    raise ValueError(f"{path}: no checkpoint in it; train there first, or name another folder")


def newest_step(folder: Path) -> int | None:
    """The largest step that a folder has a whole checkpoint of."""
    return max(ocp.utils.checkpoint_steps(folder), default=None) if folder.is_dir() else None


def is_trained(workdir: Path) -> bool:
    """Whether a workdir has a checkpoint."""
    return any(newest_step(workdir / kind) is not None for kind in (BEST, LATEST))


def restore_host(item: Path) -> Any:
    """Restores a checkpoint's arrays as NumPy, whatever devices they were saved from.

    Raises:
        ValueError: it is damaged.
    """
    try:
        # The handler alone: a Checkpointer would look for metadata that lie with the step, and warn.
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            tree = handler.metadata(epath.Path(item)).tree
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return handler.restore(epath.Path(item), args=ocp.args.PyTreeRestore(restore_args=restore_args))
    except Exception as error:  # Orbax and TensorStore raise all kinds for damaged files
        raise ValueError(f"{item}: damaged, or not a checkpoint ({first_line(error)})") from error
