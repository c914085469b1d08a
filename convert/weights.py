"""Reads weights out of what people keep them in: .bin, .pth.tar and .safetensors files, whole or in shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aladin_jax.errors import DataError, first_line
from aladin_jax.files import read_json
from convert.torch_files import as_state_dict, load_torch

WHOLE = ("model.safetensors", "pytorch_model.bin")
_SHARD_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+\.(safetensors|bin)")
_WORDS = re.compile(r"(.*\.)?embeddings\.word_embeddings\.weight")
# Where a checkpoint has several entries with a model in them, the first of these is meant.
_ENTRIES = ("model", "state_dict", "model_state_dict")
# Weights of other programs, by the names of their files.
_FOREIGN = {
    "*.ckpt.index": "a TensorFlow checkpoint",
    "*.ckpt-*.index": "a TensorFlow checkpoint",
    "*.ckpt.meta": "a TensorFlow checkpoint",
    "saved_model.pb": "a TensorFlow model",
    "tf_model.h5": "a TensorFlow model",
    "flax_model.msgpack": "a Flax model",
    "*.onnx": "an ONNX model",
    "*.gguf": "a GGUF model",
}


class Weights(NamedTuple):
    """Tensors by the names of their file, and what else the file holds.

    Attributes:
        tensors: by name.
        rest: the other entries of a checkpoint.
        notes: what the user should know.
    """

    tensors: dict[str, torch.Tensor]
    rest: dict[str, Any]
    notes: list[str]


def read_weights(path: str | Path) -> Weights:
    """Reads a file of tensors by name, or a checkpoint with such an entry.

    Raises:
        DataError: it is missing, damaged or refused, or holds something else.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return Weights(_read_safetensors(path), {}, [])
    return find_state(load_torch(path), str(path))


def read_folder_weights(folder: Path) -> tuple[list[Path], Weights]:
    """Reads a folder's weights, of one file or several; returns the files, that to name in errors last.

    Raises:
        DataError: there are none, or they are another program's; as `read_weights`.
    """
    for name in WHOLE:
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return [whole], read_weights(whole)
        if index.is_file():
            shards, tensors = _read_shards(index)
            return [*shards, index], Weights(tensors, {}, [])
    check_not_foreign(folder)
    raise DataError(f"{folder}: there is no {' or '.join(WHOLE)}, and no index of one in shards")


def check_not_foreign(folder: Path) -> None:
    """Refuses a folder whose only weights are those of another program.

    Raises:
        DataError: naming the file and the program.
    """
    if any((folder / f"{name}{index}").is_file() for name in WHOLE for index in ("", ".index.json")):
        return
    for pattern, what in _FOREIGN.items():
        for found in sorted(folder.glob(pattern)):
            raise DataError(
                f"{found}: {what}; only PyTorch's weights are read, so save it with transformers as pytorch_model.bin "
                "or model.safetensors first"
            )


def find_state(content: Any, source: str) -> Weights:
    """Finds a model's tensors in what a file of PyTorch held: the whole of it, or one of its entries.

    Raises:
        DataError: there is none, or one cannot tell which is meant.
    """
    if _is_state(content):
        tensors, rest = _split(content)
        return Weights(tensors, rest, [])
    entries = content if isinstance(content, Mapping) else {}
    found = [str(name) for name, value in entries.items() if _is_state(value)]
    if not found:
        if isinstance(entries.get("model"), Mapping):  # ALADIN's entry: say what is wrong with it
            content, source = entries["model"], f"{source}: model"
        return Weights(as_state_dict(content, source), {}, [])
    preferred = [name for name in _ENTRIES if name in found]
    if not preferred and len(found) > 1:
        raise DataError(f"{source}: the entries {', '.join(found)} all hold a model; save the one that is meant alone")
    entry = (preferred or found)[0]
    notes = [] if entry == "model" else [f"the weights are those of the entry {entry!r}"]
    if others := [name for name in found if name != entry]:
        notes.append(f"left out: the entries {', '.join(others)}, which hold a model too")
    tensors, no_tensors = _split(content[entry])
    if no_tensors:
        notes.append(f"left out: {', '.join(no_tensors)} of the entry {entry!r}, which are no tensors")
    return Weights(tensors, {str(name): value for name, value in content.items() if name not in found}, notes)


def _split(state: Mapping[Any, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors with a text for a name, and everything else."""
    tensors = {n: value for n, value in state.items() if isinstance(n, str) and isinstance(value, torch.Tensor)}
    return tensors, {str(name): value for name, value in state.items() if name not in tensors}


def _is_state(value: Any) -> bool:
    """Whether a value holds a tensor that only a BERT has."""
    return isinstance(value, Mapping) and any(
        isinstance(key, str) and _WORDS.fullmatch(key) and isinstance(item, torch.Tensor) for key, item in value.items()
    )


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged or no safetensors file ({first_line(error)})") from error


def _read_shards(index: Path) -> tuple[list[Path], dict[str, torch.Tensor]]:
    """Reads the files that an index names; each has to hold the tensors that it says, and no others."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise DataError(f"{index}: there is no weight_map from tensors to files")
    names_of: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise DataError(f"{index}: {name[:80]!r} is said to be in {str(shard)[:80]!r}, which is no file beside it")
        names_of.setdefault(shard, set()).add(name)
    tensors: dict[str, torch.Tensor] = {}
    for shard, names in names_of.items():
        if not (index.parent / shard).is_file():
            raise DataError(f"{index.parent / shard}: no such file, but {index.name} names it; copy all of its shards")
        found = read_weights(index.parent / shard).tensors
        if different := sorted(found.keys() ^ names):
            raise DataError(f"{index}: says otherwise than {shard} whether {different[0][:80]!r} is in it")
        tensors |= found
    return [index.parent / shard for shard in names_of], tensors
