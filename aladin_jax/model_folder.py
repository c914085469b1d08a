"""A model on disk: parameters, the configuration they belong to, and the vocabulary they were trained with.

    params/          Orbax checkpoint of the parameter dict (absent in a workdir, which keeps its own checkpoints)
    params.sha256    checksums of the files in params/, as `sha256sum` writes and checks them
    model.json       {"backbone": {...}, "matching_head": {...}, "caption_ending": "."}
    vocab.txt        the tokenizer's vocabulary, where there is one
    provenance.json  where the parameters came from
    optimizer/       Adam's state of the run that they are of, optimizer.sha256, and progress.json with how far it was;
                     where the source held them

A folder comes into being under its name complete or not at all: it is written beside it and renamed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from aladin_jax.data.caption_ending import ORIGINAL_ENDING
from aladin_jax.errors import DataError, first_line
from aladin_jax.files import read_json, sha256, whole_folder, write_json, write_whole
from aladin_jax.models.aladin import Params, init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig

PARAMS = "params"
MODEL_JSON = "model.json"
VOCABULARY = "vocab.txt"
PROVENANCE = "provenance.json"
OPTIMIZER = "optimizer"
PROGRESS_JSON = "progress.json"
_ENDING = "caption_ending"


class RunState(NamedTuple):
    """What it takes to go on with the run that parameters are of.

    Attributes:
        progress: "epoch" and "iterations" done; "learning_rate", "lr_step_epochs" and "lr_gamma" as far as known.
        adam: for each parameter group that has been trained "count", "mu" and "nu", the last two shaped as it is.
        losses: the losses' own parameter groups, as far as they have been trained.
    """

    progress: dict[str, int | float]
    adam: Params
    losses: Params


class ModelConfig(NamedTuple):
    """What the model is; unpacks into the first arguments of `aladin.init_params` and `aladin.bind`."""

    backbone: BackboneConfig
    matching_head: MatchingHeadConfig


def save_model_folder(
    path: str | Path,
    params: Params,
    model_config: ModelConfig,
    vocabulary: str | Path | None,
    provenance: Mapping[str, Any],
    *,
    run_state: RunState | None = None,
    caption_ending: str | None = ORIGINAL_ENDING,
    overwrite: bool = False,
) -> None:
    """Writes a model folder, complete or not at all.

    Args:
        path: the folder; its parents are made.
        params: nested dict of arrays, on the host or on devices.
        model_config: the configuration of `params`.
        vocabulary: a vocab.txt to copy, or None.
        provenance: anything that JSON holds.
        run_state: of the run that the parameters are of, if it can go on.
        caption_ending: how the captions end that they were trained on; None if that is not known.
        overwrite: replace an earlier model folder.

    Raises:
        DataError: `path` exists and may not be replaced (see `check_output`).
    """
    check_output(path, overwrite)
    with whole_folder(path) as folder:
        _save_arrays(folder, PARAMS, params)
        if run_state is not None:
            _save_arrays(folder, OPTIMIZER, {"adam": run_state.adam, "losses": run_state.losses})
            write_json(folder / PROGRESS_JSON, run_state.progress)
        write_json(folder / PROVENANCE, dict(provenance))
        write_description(folder, model_config, vocabulary, caption_ending)


def load_model_folder(path: str | Path) -> tuple[Params, ModelConfig, Path | None]:
    """Reads a model folder.

    Returns:
        The parameters as float32 NumPy arrays, their configuration, and the path of vocab.txt where there is one.

    Raises:
        DataError: there is no such folder, it is unfinished or damaged, or its parameters do not fit model.json.
    """
    path = Path(path).absolute()
    model_config, vocabulary = read_description(path)
    params = _load_arrays(path, PARAMS)
    check_params(params, model_config, str(path))
    return params, model_config, vocabulary


def load_run_state(path: str | Path) -> RunState:
    """Reads what a model folder says of the run that its parameters are of.

    Raises:
        DataError: it says nothing, or is damaged.
    """
    path = Path(path).absolute()
    model_config, _ = read_description(path)
    if not (path / PROGRESS_JSON).is_file():
        raise DataError(
            f"{path}: holds no optimizer's state to resume from; convert a checkpoint that has one with "
            "python -m convert.checkpoint --checkpoint, or start from its weights alone with init_from"
        )
    progress = read_json(path / PROGRESS_JSON)
    if not all(type(progress.get(name)) is int and progress[name] >= 0 for name in ("epoch", "iterations")):
        raise DataError(f"{path / PROGRESS_JSON}: epoch and iterations are not both counts; convert again")
    arrays = _load_arrays(path, OPTIMIZER)
    adam, losses = arrays.get("adam", {}), arrays.get("losses") or {}
    shapes = expected_shapes(model_config)
    for group in adam.keys() - losses.keys():
        expected = {n: shape for n, shape in shapes.items() if n.startswith(f"{group}/")}
        for moment in ("mu", "nu"):
            found = {f"{group}/{name}": x.shape for name, x in flatten(adam[group][moment]).items()}
            if found != expected:
                raise DataError(f"{path / OPTIMIZER}: {moment} of the {group} does not fit {MODEL_JSON}; convert again")
    return RunState(progress, adam, losses)


def read_provenance(path: str | Path) -> dict[str, Any]:
    """Reads where a model folder's parameters came from; empty where it does not say."""
    file = Path(path) / PROVENANCE
    return read_json(file) if file.exists() else {}


def write_description(
    folder: str | Path,
    model_config: ModelConfig,
    vocabulary: str | Path | None,
    caption_ending: str | None = ORIGINAL_ENDING,
) -> None:
    """Writes model.json and vocab.txt into a model folder or a workdir; model.json last, whole or not at all."""
    folder = Path(folder)
    if vocabulary is not None:
        write_whole(folder / VOCABULARY, Path(vocabulary).read_bytes())
    parts = {name: dataclasses.asdict(part) for name, part in model_config._asdict().items()}
    write_json(folder / MODEL_JSON, {**parts, _ENDING: caption_ending})


def read_description(folder: str | Path) -> tuple[ModelConfig, Path | None]:
    """Reads model.json of a model folder or a workdir, and finds its vocab.txt.

    Raises:
        DataError: there is no such folder or model.json, or a field of it is impossible.
    """
    folder = Path(folder).absolute()
    file = folder / MODEL_JSON
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if not file.is_file():
        raise DataError(f"{folder}: there is no {MODEL_JSON}; not a converted checkpoint or workdir, or unfinished")
    values = read_json(file)
    for name in ModelConfig._fields:
        if not isinstance(values.get(name), dict):
            raise DataError(f"{file}: there is no object {name!r}")
    backbone = BackboneConfig.from_dict(values["backbone"], str(file))
    head = matching_head_config(values["matching_head"], str(file))
    vocabulary = folder / VOCABULARY
    return ModelConfig(backbone, head), vocabulary if vocabulary.is_file() else None


def read_caption_ending(folder: str | Path) -> str | None:
    """How the captions end that a model was trained on: a punctuation mark, or nothing.

    None if that is not known: of a BERT, and of a workdir that does not say. A converted checkpoint that does not say
    is taken for the original's.

    Raises:
        ValueError: model.json is not there, or says something impossible.
    """
    folder = Path(folder)
    values = read_json(folder / MODEL_JSON)
    ending = values.get(_ENDING, ORIGINAL_ENDING if (folder / PARAMS).is_dir() else None)
    if ending is not None and not (isinstance(ending, str) and len(ending) <= 1):
        raise ValueError(f"{folder / MODEL_JSON}: {_ENDING} is {ending!r:.60}; expected one character, none, or null")
    return ending


def matching_head_config(values: Mapping[str, Any], source: str) -> MatchingHeadConfig:
    """Builds the matching head's configuration from the fields given; the others keep their defaults.

    Raises:
        DataError: a field has the wrong type or an impossible value.
    """
    names = [field.name for field in dataclasses.fields(MatchingHeadConfig) if field.name in values]
    config = MatchingHeadConfig(**{name: values[name] for name in names})
    for name in ("num_layers", "num_heads"):
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise DataError(f"{source}: {name} of the matching head is {value!r}; expected an integer from 1")
    dropout = config.dropout
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise DataError(f"{source}: dropout of the matching head is {dropout!r}; expected a number in [0, 1)")
    return config


@functools.cache
def expected_shapes(model_config: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """Shapes of all parameters by path ("backbone/layers/qkv/kernel"), without making any; traced once a configuration.

    Raises:
        DataError: the backbone's width cannot be divided among the matching head's attention heads.
    """
    width, heads = model_config.backbone.hidden_size, model_config.matching_head.num_heads
    if width % heads:
        raise DataError(f"hidden_size {width} of the backbone is not a multiple of the matching head's {heads} heads")
    abstract = flatten(jax.eval_shape(lambda: init_params(*model_config, seed=0)))
    return MappingProxyType({name: x.shape for name, x in abstract.items()})


def flatten(params: Params) -> dict[str, Any]:
    """Names the leaves of a nested dict by their paths, joined by "/"; `unflatten` undoes it."""
    return flatten_dict(params, sep="/")


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """Makes a nested dict of leaves by their paths."""
    return unflatten_dict(leaves, sep="/")


def check_params(params: Params, model_config: ModelConfig, source: str) -> None:
    """Checks that parameters are those of a configuration.

    Raises:
        DataError: naming `source` and every parameter that is missing, superfluous or of another shape or type.
    """
    expected = expected_shapes(model_config)
    found = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    faults = [f"{name} is missing" for name in expected.keys() - found.keys()]
    faults += [f"{name} is not of this model" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        if found[name].shape != expected[name] or found[name].dtype != np.float32:
            faults.append(
                f"{name} is {found[name].dtype}{list(found[name].shape)}, the model has float32{list(expected[name])}"
            )
    if faults:
        raise DataError(f"{source}: parameters do not fit {MODEL_JSON}: {'; '.join(sorted(faults))}")


def check_output(path: str | Path, overwrite: bool) -> None:
    """Checks that a model folder may be written, before any work is done for it.

    Raises:
        DataError: `path` exists and `overwrite` is not set, or it is not an empty folder or a model folder.
    """
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise DataError(f"{path}: already exists; choose another folder, or pass --overwrite to replace it")
    if not path.is_dir() or path.is_symlink() or (any(path.iterdir()) and not (path / PROVENANCE).is_file()):
        raise DataError(f"{path}: is no model folder, so --overwrite does not replace it; choose another folder")


def _save_arrays(folder: Path, part: str, arrays: Params) -> None:
    """Saves a tree of arrays in a folder's part, and the checksums of its files beside it."""
    with ocp.StandardCheckpointer() as checkpointer:
        # Host arrays: what is saved from devices can be restored on those devices only.
        checkpointer.save(folder / part, jax.tree.map(np.asarray, arrays))
    (folder / f"{part}.sha256").write_text(_checksums(folder, part), encoding="utf-8")


def _load_arrays(folder: Path, part: str) -> Params:
    checksums = folder / f"{part}.sha256"
    for needed in (folder / part, checksums):
        if not needed.exists():
            raise DataError(f"{folder}: there is no {needed.name}; not a converted checkpoint")
    # Known first: a damaged file makes Orbax fail amid reads that go on in the background and then complain.
    if _checksums(folder, part) != checksums.read_text(encoding="utf-8", errors="replace"):
        raise DataError(f"{folder / part}: damaged: its files differ from {checksums.name}; convert again")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(folder / part)
    except Exception as error:  # Orbax and TensorStore raise all kinds
        raise DataError(f"{folder / part}: not arrays that Orbax can read ({first_line(error)})") from error


def _checksums(folder: Path, part: str) -> str:
    paths = sorted(path for path in (folder / part).rglob("*") if path.is_file())
    return "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
