"""What users have: a VinVL folder, alone or with an ALADIN checkpoint that was trained from it, or our own export.

Plain BERT folders are read in `hugging_face.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from aladin_jax.data.caption_ending import ORIGINAL_ENDING
from aladin_jax.data.tokenization import check_vocabulary_size, read_vocabulary
from aladin_jax.errors import DataError
from aladin_jax.files import read_json
from aladin_jax.model_folder import (
    MODEL_JSON,
    ModelConfig,
    matching_head_config,
    read_caption_ending,
    read_description,
)
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from convert.matching import HEAD, Matched, match
from convert.optimizer import Progress, read_progress
from convert.torch_files import load_namespace
from convert.weights import check_not_foreign, read_folder_weights, read_weights

EXPORTED = "model.safetensors"

# Settings of the original under which it computes something else than this project does: of its YAML, and of its flags,
# which it keeps in `opt` and copies into the YAML.
_ONLY_FLAGS = {"detection_type": "fast", "enable_clip_captions": False, "enable_clip_labels": False}
_ONLY_SETTINGS = {
    **_ONLY_FLAGS,
    "model.teran-layers": 0,
    "model.post-layers": 0,
    "model.shared-transformer": True,
    "model.text-aggregation": "first",
    "model.image-aggregation": "first",
    "model.depth-aggregation": False,
    "model.depth-aggregation-alignment": False,
    "model.depth-aggregation-matching": False,
    "model.exclude-stopwords": False,
}
# Fields of a config.json under which the model computes something else than this project's backbone does.
_ONLY_FIELDS = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 0,
}
_CONFIG_NAMES = ("config.json", "bert_config.json")
_MAX_PLAIN_VALUES = 100_000


class Checkpoint(NamedTuple):
    """Tensors to convert, and what is known of their model.

    Attributes:
        tensors: by the names of the table in `names.py`; those outside of the model under their own.
        keys: the name of each tensor in its file.
        model_config: what the parameters have to fit.
        vocabulary: vocab.txt, where there is one.
        files: all that was read.
        details: what else the files say, for the record: plain data.
        notes: what the user should know.
        fresh: prefixes of parameters that such a file does not hold, and that start afresh.
        progress: of the run that the weights come from, where it can go on.
        caption_ending: of the captions that they were trained on; None if that is not known.
    """

    tensors: dict[str, torch.Tensor]
    keys: dict[str, str]
    model_config: ModelConfig
    vocabulary: Path | None
    files: list[Path]
    details: dict[str, Any]
    notes: list[str]
    fresh: tuple[str, ...] = ()
    progress: Progress | None = None
    caption_ending: str | None = ORIGINAL_ENDING


def read_vinvl(folder: str | Path, checkpoint: str | Path | None = None) -> Checkpoint:
    """Reads a VinVL folder, or its configuration and vocabulary with the weights of an ALADIN checkpoint.

    Args:
        folder: holds config.json, weights (not read if there is a checkpoint), and where it has them vocab.txt and
            training_args.bin.
        checkpoint: a checkpoint.pth.tar of the original, or its model's tensors alone.

    Raises:
        DataError: a file is missing, damaged or refused, or says that the model is of a kind that does not exist here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected VinVL's config.json and pytorch_model.bin in it")
    config_file, values = read_config(folder)
    files, notes, details = [config_file], list[str](), dict[str, Any]()
    arguments = _read_arguments(folder / "training_args.bin", files, notes, details)
    # VinVL's code takes an absent field as "no LayerNorm".
    values.setdefault("use_img_layernorm", arguments.get("use_img_layernorm") or 0)
    backbone = BackboneConfig.from_dict(values, str(config_file))
    vocabulary = find_vocabulary(folder, backbone, notes)
    files += [vocabulary] if vocabulary else []
    if checkpoint is None:
        weight_files, weights = read_folder_weights(folder)
    else:
        weight_files, weights = [Path(checkpoint)], read_weights(checkpoint)
    source = str(weight_files[-1])
    matched = match(weights.tensors, source)
    notes += [*weights.notes, *matched.notes]
    progress, head = None, MatchingHeadConfig()
    if checkpoint is None:
        notes.append("the matching head is not part of a VinVL folder: it starts from fresh weights")
    else:
        progress = read_progress(weights, matched, notes)
        check_options(weights.rest, progress, source)
        head = _read_head(weights.rest.get("config"), matched, source, notes)
        rest = {name: value for name, value in weights.rest.items() if name not in ("optimizer", "scheduler")}
        details["checkpoint"] = plain(rest, source)
    return Checkpoint(
        tensors=matched.tensors,
        keys=matched.keys,
        model_config=ModelConfig(backbone, head),
        vocabulary=vocabulary,
        fresh=("matching_head/",) if checkpoint is None else (),
        files=[*files, *weight_files],
        details=details,
        notes=notes,
        progress=progress,
    )


def _read_arguments(path: Path, files: list[Path], notes: list[str], details: dict[str, Any]) -> dict[str, Any]:
    """The settings in a training_args.bin, where there is one."""
    if not path.is_file():
        notes.append(f"{path.name} is absent: the vocabulary is taken to be uncased, as VinVL's is")
        return {}
    files.append(path)
    arguments = load_namespace(path)
    details["training_args"] = plain(arguments, str(path))
    if not arguments.get("do_lower_case", True):
        raise DataError(f"{path}: do_lower_case is off; only uncased vocabularies are supported")
    return arguments


def read_export(folder: str | Path) -> Checkpoint:
    """Reads a folder that `convert.export --format safetensors` wrote; it says itself what model it is.

    Raises:
        DataError: a file is damaged.
    """
    folder = Path(folder)
    model_config, vocabulary = read_description(folder)
    weights = folder / EXPORTED
    matched = match(read_weights(weights).tensors, str(weights))
    return Checkpoint(
        tensors=matched.tensors,
        keys=matched.keys,
        model_config=model_config,
        vocabulary=vocabulary,
        files=[folder / MODEL_JSON, *([vocabulary] if vocabulary else []), weights],
        details={},
        notes=matched.notes,
        caption_ending=read_caption_ending(folder),
    )


def find_vocabulary(folder: Path, backbone: BackboneConfig, notes: list[str]) -> Path | None:
    """Finds a folder's vocab.txt and holds it against the configuration; says in `notes` if they differ or it lacks.

    Raises:
        DataError: it is no BERT vocabulary, or not of the model's size.
    """
    vocabulary = folder / "vocab.txt"
    if not vocabulary.exists():
        notes.append("vocab.txt is absent: training and search will need the one the model was trained with")
        return None
    size = len(read_vocabulary(vocabulary))
    check_vocabulary_size(size, backbone.vocab_size, vocabulary)
    if size < backbone.vocab_size:
        notes.append(
            f"vocab.txt has {size} tokens, the model room for {backbone.vocab_size}: the last "
            f"{backbone.vocab_size - size} rows of its word embedding are taken to be padding, which no text reaches"
        )
    return vocabulary


def plain(value: Any, source: str) -> Any:
    """Plain data as JSON can hold it; anything else by its text.

    Raises:
        DataError: it is too large, or refers to itself.
    """
    values = 0

    def visit(value: Any) -> Any:
        nonlocal values
        values += 1
        if values > _MAX_PLAIN_VALUES:
            raise DataError(f"{source}: holds too many settings to be a record of a training run")
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Mapping):
            return {str(key)[:200]: visit(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [visit(item) for item in value]
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and value - value == 0):
            return value
        if isinstance(value, (torch.Tensor, np.ndarray)):
            return f"{'tensor' if isinstance(value, torch.Tensor) else 'array'} {list(value.shape)}"
        return visit(vars(value)) if isinstance(value, argparse.Namespace) else str(value)[:200]

    try:
        return visit(value)
    except RecursionError as error:
        raise DataError(f"{source}: its settings are nested too deep") from error


def read_config(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Reads a config.json of BERT or VinVL, which older folders call bert_config.json; returns its path too.

    Raises:
        DataError: it is missing, no JSON object, lacks a size, or is of another kind of model.
    """
    check_not_foreign(folder)
    path = next((folder / name for name in _CONFIG_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise DataError(f"{folder / _CONFIG_NAMES[0]}: no such file, nor a {_CONFIG_NAMES[1]}")
    values = read_json(path)
    for name, only in _ONLY_FIELDS.items():
        if (value := values.get(name, only)) != only:
            raise DataError(f"{path}: {name} is {value!r:.60}; only {only!r} is supported")
    # Shapes tell every size but the number of heads; a default for that would go unnoticed.
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if name not in values:
            other = "; it looks like a DistilBERT or XLM, only BERT is supported" if "n_layers" in values else ""
            raise DataError(f"{path}: {name} is missing{other}")
    return path, values


def check_options(rest: Mapping[str, Any], progress: Progress | None, source: str) -> None:
    """Refuses a checkpoint that was trained with options of the original which do not exist here."""
    config, flags = rest.get("config"), rest.get("opt")
    settings = dict(config) if isinstance(config, Mapping) else {}
    if isinstance(settings.get("model"), Mapping):
        settings |= {f"model.{name}": value for name, value in settings["model"].items()}
    flags = vars(flags) if isinstance(flags, argparse.Namespace) else flags
    flags = {name: flags[name] for name in _ONLY_FLAGS if name in flags} if isinstance(flags, Mapping) else {}
    for name, only in _ONLY_SETTINGS.items():
        for value in (settings.get(name, only), flags.get(name, only)):
            if value != only:
                raise DataError(f"{source}: trained with {name} = {value!r:.60}; only {only!r} is supported")
    if progress and progress.foreign_trained:
        option, tensor = progress.foreign_trained
        raise DataError(f"{source}: trained with {option}, which is not supported: Adam has moved {tensor}")


def _read_head(config: Any, matched: Matched, source: str, notes: list[str]) -> MatchingHeadConfig:
    """The matching head's configuration, from the YAML that the original keeps in its checkpoints."""
    layers = {name.split(".")[2] for name in matched.tensors if name.startswith(f"{HEAD}layers.")}
    if isinstance(config, Mapping) and isinstance(config.get("model"), Mapping):
        settings = config["model"]
        given = {"num_layers": "tern-layers", "dropout": "dropout"}
        return matching_head_config(
            {ours: settings[n] for ours, n in given.items() if n in settings}, f"{source}: config"
        )
    if not layers:
        raise DataError(
            f"{source}: no tensor is called ...{HEAD}layers..., so there is no matching head and it is no ALADIN "
            "checkpoint; a backbone alone is converted as pytorch_model.bin of the folder at --vinvl"
        )
    notes.append(f"the checkpoint has no config: {len(layers)} matching layers as it holds, dropout the default")
    notes.append("whether it was trained with options that are not supported (CLIP, Detic) cannot be told")
    return matching_head_config({"num_layers": len(layers)}, source)
