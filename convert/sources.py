"""What users have: a VinVL folder, alone or with an ALADIN checkpoint that was trained from it.

Plain BERT folders are read in `hugging_face.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from aladin_jax.data.tokenization import read_vocabulary
from aladin_jax.model_folder import ModelConfig, matching_head_config, read_json
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from convert.torch_files import as_state_dict, load_namespace, load_state_dict, load_torch

# Settings of the original's YAML under which it computes something else than this project does.
_ONLY_SETTINGS = {
    "detection_type": "fast",
    "enable_clip_captions": False,
    "enable_clip_labels": False,
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
_ALADIN_PREFIX = re.compile(r"img_txt_enc\.(oscar_model\.)?")
_MAX_PLAIN_VALUES = 100_000


class Source(NamedTuple):
    """Tensors to convert, and what is known of their model.

    Attributes:
        tensors: by the names of the table in `names.py`.
        keys: the name of each tensor in its file.
        model_config: what the parameters have to fit.
        vocabulary: vocab.txt, where there is one.
        fresh: prefixes of parameters that such a file does not hold, and that start afresh.
        files: all that was read.
        details: what else the files say, for the record: plain data.
        notes: what the user should know.
    """

    tensors: dict[str, torch.Tensor]
    keys: dict[str, str]
    model_config: ModelConfig
    vocabulary: Path | None
    fresh: tuple[str, ...]
    files: list[Path]
    details: dict[str, Any]
    notes: list[str]


def read_vinvl(folder: str | Path, checkpoint: str | Path | None = None) -> Source:
    """Reads a VinVL folder, or its configuration and vocabulary with the weights of an ALADIN checkpoint.

    Args:
        folder: holds config.json, pytorch_model.bin (not read if there is a checkpoint), and where it has them
            vocab.txt and training_args.bin.
        checkpoint: a checkpoint.pth.tar of the original.

    Raises:
        ValueError: a file is missing, damaged or refused, or says that the model is of a kind that does not exist here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected VinVL's config.json and pytorch_model.bin in it")
    config_file, arguments_file = folder / "config.json", folder / "training_args.bin"
    files, notes, details = [config_file], [], {}
    values = read_config(config_file)
    arguments: dict[str, Any] = {}
    if arguments_file.is_file():
        files.append(arguments_file)
        arguments = load_namespace(arguments_file)
        details["training_args"] = plain(arguments, str(arguments_file))
        if not arguments.get("do_lower_case", True):
            raise ValueError(f"{arguments_file}: do_lower_case is off; only uncased vocabularies are supported")
    else:
        notes.append(f"{arguments_file.name} is absent: the vocabulary is taken to be uncased, as VinVL's is")
    # VinVL's code takes an absent field as "no LayerNorm".
    values.setdefault("use_img_layernorm", arguments.get("use_img_layernorm") or 0)
    backbone = BackboneConfig.from_dict(values, str(config_file))
    vocabulary = find_vocabulary(folder, backbone, notes)
    files += [vocabulary] if vocabulary else []
    if checkpoint is None:
        weights = folder / "pytorch_model.bin"
        tensors, keys = rename_tensors(load_state_dict(weights), lambda key: key, str(weights))
        notes.append("the matching head is not part of a VinVL folder: it starts from fresh weights")
        head, fresh = MatchingHeadConfig(), ("matching_head/",)
    else:
        weights, fresh = Path(checkpoint), ()
        content = load_torch(weights)
        if not isinstance(content, dict) or "model" not in content:
            raise ValueError(f"{weights}: not an ALADIN checkpoint: it has no entry 'model'")
        state = as_state_dict(content["model"], f"{weights}: model")
        tensors, keys = rename_tensors(state, lambda key: _ALADIN_PREFIX.sub("", key, count=1), str(weights))
        head = _read_head(content.get("config"), tensors, str(weights), notes)
        rest = {name: value for name, value in content.items() if name not in ("model", "optimizer", "scheduler")}
        details["checkpoint"] = plain(rest, str(weights))
    return Source(
        tensors=tensors,
        keys=keys,
        model_config=ModelConfig(backbone, head),
        vocabulary=vocabulary,
        fresh=fresh,
        files=[*files, weights],
        details=details,
        notes=notes,
    )


def find_vocabulary(folder: Path, backbone: BackboneConfig, notes: list[str]) -> Path | None:
    """Finds a folder's vocab.txt and holds it against the configuration; says in `notes` if there is none.

    Raises:
        ValueError: it is no BERT vocabulary, or of another size than the model's.
    """
    vocabulary = folder / "vocab.txt"
    if not vocabulary.exists():
        notes.append("vocab.txt is absent: training and search will need the one the model was trained with")
        return None
    size = len(read_vocabulary(vocabulary))
    if size != backbone.vocab_size:
        raise ValueError(f"{vocabulary}: {size} tokens, but vocab_size in config.json is {backbone.vocab_size}")
    return vocabulary


def plain(value: Any, source: str) -> Any:
    """Plain data as JSON can hold it; anything else by its text.

    Raises:
        ValueError: it is too large, or refers to itself.
    """
    values = 0

    def visit(value: Any) -> Any:
        nonlocal values
        values += 1
        if values > _MAX_PLAIN_VALUES:
            raise ValueError(f"{source}: holds too many settings to be a record of a training run")
        if isinstance(value, Mapping):
            return {str(key)[:200]: visit(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [visit(item) for item in value]
        if value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and value - value == 0):
            return value
        if isinstance(value, torch.Tensor):
            return f"tensor {list(value.shape)}"
        return visit(vars(value)) if hasattr(value, "__dict__") else str(value)[:200]

    try:
        return visit(value)
    except RecursionError as error:
        raise ValueError(f"{source}: its settings are nested too deep") from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json of BERT or VinVL.

    Raises:
        ValueError: it is missing, no JSON object, or lacks a size.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    values = read_json(path)
    # Shapes tell every size but the number of heads; a default for that would go unnoticed.
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if name not in values:
            raise ValueError(f"{path}: {name} is missing")
    return values


def rename_tensors(
    state: Mapping[str, torch.Tensor], rename: Callable[[str], str], source: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Gives tensors the table's names, and the file's own name for each of them.

    Raises:
        ValueError: two tensors of the file get the same name.
    """
    keys: dict[str, str] = {}
    for key in state:
        if (other := keys.setdefault(rename(key), key)) != key:
            raise ValueError(f"{source}: {other} and {key} are the same tensor")
    return {name: state[key] for name, key in keys.items()}, keys


def _read_head(config: Any, tensors: Mapping[str, Any], source: str, notes: list[str]) -> MatchingHeadConfig:
    """The matching head's configuration, from the YAML that the original keeps in its checkpoints."""
    if not isinstance(config, Mapping) or not isinstance(config.get("model"), Mapping):
        found = {m[1] for name in tensors if (m := re.match(r"final_projection_net\.layers\.(\d+)\.", name))}
        notes.append(f"the checkpoint has no config: {len(found)} matching layers as it holds, dropout the default")
        return matching_head_config({"num_layers": len(found)}, source)
    settings = {**config, **{f"model.{name}": value for name, value in config["model"].items()}}
    for name, only in _ONLY_SETTINGS.items():
        if (value := settings.get(name, only)) != only:
            raise ValueError(f"{source}: trained with {name} = {value!r}; only {only!r} is supported")
    given = {"num_layers": "model.tern-layers", "dropout": "model.dropout"}
    return matching_head_config({ours: settings[n] for ours, n in given.items() if n in settings}, f"{source}: config")
