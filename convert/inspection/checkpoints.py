"""Weights: those of VinVL, of a plain BERT, of an ALADIN checkpoint, converted ones, and those of a run."""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax import model_folder
from aladin_jax.pretrained import BEST, LATEST, newest_step, read_weights
from convert.conversion import convert
from convert.hugging_face import read_bert
from convert.inspection.tallies import Problems
from convert.sources import Source, plain, read_vinvl
from convert.torch_files import as_state_dict, load_torch_file

_SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "img_feature_dim",
)


def inspect_torch_folder(folder: Path) -> dict[str, Any]:
    """Reads a folder of VinVL's or of a plain BERT: its sizes, and whether it can be converted.

    Raises:
        ValueError: a file is missing, damaged or refused.
    """
    with tempfile.TemporaryDirectory() as scratch:
        vinvl = (folder / "pytorch_model.bin").is_file() and "img_feature_dim" in _read(folder / "config.json")
        source = read_vinvl(folder) if vinvl else read_bert(folder, Path(scratch))
        problems = Problems()
        found: dict[str, Any] = {
            "kind": "VinVL backbone" if vinvl else "BERT",
            "path": str(folder),
            **_sizes(source.model_config),
            "vocabulary": "vocab.txt" if source.vocabulary else "none",
            **describe_arrays({source.keys[name]: tensor for name, tensor in source.tensors.items()}, problems),
            "conversion": _try_conversion(source, problems),
            "notes": source.notes,
        }
    return found | {"problems": problems.listed()}


def inspect_aladin_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.pth.tar of the original, or any file of tensors by name.

    Raises:
        ValueError: it is missing, damaged or refused.
    """
    content = load_torch_file(path, allow_namespace=True)
    problems = Problems()
    model = content.get("model") if isinstance(content, Mapping) else None
    found: dict[str, Any] = {"kind": "tensors by name", "path": str(path)}
    if isinstance(model, Mapping):
        found["kind"] = "ALADIN checkpoint"
        for name in ("epoch", "Eiters"):
            found[name] = plain(content.get(name), str(path))
        found["settings"] = plain(content.get("config"), str(path))
    tensors = as_state_dict(model if isinstance(model, Mapping) else content, str(path))
    found |= _guess_sizes(tensors) | describe_arrays(tensors, problems)
    return found | {"problems": problems.listed()}


def inspect_model_folder(folder: Path) -> dict[str, Any]:
    """Reads a converted checkpoint, or the best or latest checkpoint of a workdir.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    params, config, vocabulary, source = read_weights(folder)
    problems = Problems()
    flat = model_folder.flatten(params)
    steps = {name: newest_step(folder.absolute() / name) for name in (BEST, LATEST)}
    workdir = any(step is not None for step in steps.values())
    if vocabulary is None:
        problems.add("files that are missing", "vocab.txt: training and search need it")
    found: dict[str, Any] = {
        "kind": "workdir" if workdir else "converted checkpoint",
        "path": str(folder),
        "read": source,
        **({f"{name}, step": step for name, step in steps.items()} if workdir else {}),
        **_sizes(config),
        "vocabulary": vocabulary.name if vocabulary else "none",
        **describe_arrays(flat, problems),
        "came from": [file.get("path") for file in model_folder.read_provenance(folder).get("files", [])],
    }
    return found | {"problems": problems.listed()}


def describe_arrays(arrays: Mapping[str, Any], problems: Problems) -> dict[str, Any]:
    """How many tensors or arrays there are, of what types, and whether all numbers are finite."""
    types: Counter[str] = Counter()
    for name, array in arrays.items():
        types[str(array.dtype).removeprefix("torch.")] += 1
        values = array if isinstance(array, np.ndarray) else array.detach().float().numpy()
        if not np.isfinite(values).all():
            problems.add("tensors with NaN or infinite numbers", name)
    return {
        "tensors": len(arrays),
        "numbers": sum(math.prod(array.shape) for array in arrays.values()),
        "types": dict(types),
    }


def _sizes(config: model_folder.ModelConfig) -> dict[str, Any]:
    values = dataclasses.asdict(config.backbone)
    head = dataclasses.asdict(config.matching_head)
    return {"backbone": {name: values[name] for name in _SIZES if name in values}, "matching head": head}


def _guess_sizes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that the shapes of known tensors tell."""
    sizes: dict[str, Any] = {}
    shapes = {re.sub(r"^(module\.)?(img_txt_enc\.(oscar_model\.)?)?", "", name): t.shape for name, t in tensors.items()}
    if len(word := shapes.get("bert.embeddings.word_embeddings.weight", ())) == 2:
        sizes |= {"vocab_size": word[0], "hidden_size": word[1]}
    if len(regions := shapes.get("bert.img_embedding.weight", ())) == 2:
        sizes["img_feature_dim"] = regions[1]
    for name, pattern in (
        ("num_hidden_layers", r"bert\.encoder\.layer\.(\d+)\."),
        ("matching layers", r"final_projection_net\.layers\.(\d+)\."),
    ):
        layers = {match[1] for key in shapes if (match := re.match(pattern, key))}
        sizes |= {name: len(layers)} if layers else {}
    return {"sizes by the tensors": sizes}


def _try_conversion(source: Source, problems: Problems) -> dict[str, Any] | str:
    try:
        _, report = convert(source, seed=0)
    except ValueError as error:
        problems.add("it cannot be converted", str(error))
        return "fails"
    return {
        "parameters made of tensors": len(report.converted),
        "tensors left out": len(report.ignored),
        "parameters that start afresh": sorted(report.fresh),
    }


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    return model_folder.read_json(path)
