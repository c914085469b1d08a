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
from aladin_jax import weights as trained_weights
from aladin_jax.lineage import Lineage, untrained_heads
from aladin_jax.weights import BEST, LATEST, newest_step
from convert.conversion import convert
from convert.hugging_face import read_bert
from convert.inspection.tallies import Problems
from convert.matching import HEAD, Matched, match
from convert.optimizer import read_progress
from convert.sources import Checkpoint, check_options, plain, read_config, read_export, read_vinvl
from convert.weights import read_weights

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
        ValueError: a file is missing, damaged or refused, or the model is of another kind.
    """
    with tempfile.TemporaryDirectory() as scratch:
        vinvl = "img_feature_dim" in read_config(folder)[1]
        source = read_vinvl(folder) if vinvl else read_bert(folder, Path(scratch))
        option = "--vinvl" if vinvl else "--bert"
        return _inspect_source("VinVL backbone" if vinvl else "BERT", option, folder, source)


def inspect_export(folder: Path) -> dict[str, Any]:
    """Reads a folder that `convert.export --format safetensors` wrote.

    Raises:
        ValueError: it is damaged.
    """
    return _inspect_source("exported model", "--checkpoint", folder, read_export(folder))


def _inspect_source(kind: str, option: str, folder: Path, source: Checkpoint) -> dict[str, Any]:
    problems = Problems()
    return {
        "kind": kind,
        "taken by": f"python -m convert.checkpoint {option} {folder} --output DIR",
        "path": str(folder),
        **_sizes(source.model_config),
        "vocabulary": "vocab.txt" if source.vocabulary else "none",
        **describe_arrays({source.keys[name]: tensor for name, tensor in source.tensors.items()}, problems),
        "conversion": _try_conversion(source, problems),
        "notes": source.notes,
        "problems": problems.listed(),
    }


def inspect_torch_file(path: Path) -> dict[str, Any]:
    """Reads a checkpoint.pth.tar of the original, or any file of tensors by name.

    Raises:
        ValueError: it is missing, damaged or refused, or holds no tensors by name.
    """
    weights, problems, notes = read_weights(path), Problems(), list[str]()
    found: dict[str, Any] = {"kind": "tensors by name", "taken by": "no command: these are not a BERT's weights"}
    found["path"] = str(path)
    try:
        matched = match(weights.tensors, str(path))
        found |= _kind_of_file(path, matched, is_checkpoint=bool(weights.rest))
        progress = read_progress(weights, matched, notes)
        check_options(weights.rest, progress, str(path))
        found |= {"sizes by the tensors": _guess_sizes(matched), "can be resumed": progress is not None}
    except ValueError as error:
        problems.add("it cannot be converted", str(error))
    for name in ("epoch", "Eiters"):
        if name in weights.rest:
            found[name] = plain(weights.rest[name], str(path))
    if "config" in weights.rest:
        found["settings"] = plain(weights.rest["config"], str(path))
    found |= describe_arrays(weights.tensors, problems)
    return found | {"notes": [*weights.notes, *notes], "problems": problems.listed()}


def _kind_of_file(path: Path, matched: Matched, *, is_checkpoint: bool) -> dict[str, Any]:
    """What a file of a BERT's tensors is, and the command that takes it."""
    if any(name.startswith(HEAD) for name in matched.tensors):
        kind = "ALADIN checkpoint" if is_checkpoint else "ALADIN's tensors alone"
        return {"kind": kind, "taken by": f"python -m convert.checkpoint --vinvl DIR --checkpoint {path} --output DIR"}
    vinvl = "bert.img_embedding.weight" in matched.tensors
    kind, option = ("VinVL's tensors", "--vinvl") if vinvl else ("a BERT's tensors", "--bert")
    command = f"python -m convert.checkpoint {option} DIR --output DIR"
    return {"kind": kind, "taken by": f"{command}, as pytorch_model.bin in DIR, with its config.json and vocab.txt"}


def inspect_model_folder(folder: Path) -> dict[str, Any]:
    """Reads a converted checkpoint, or the best or latest checkpoint of a workdir.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    params, config, vocabulary, source, _, lineage = trained_weights.read_weights(folder)
    problems = Problems()
    flat = model_folder.flatten(params)
    steps = {name: newest_step(folder.absolute() / name) for name in (BEST, LATEST)}
    workdir = any(step is not None for step in steps.values())
    if vocabulary is None:
        problems.add("files that are missing", "vocab.txt: training and search need it")
    resume = f" (or resume_from={folder})" if (folder / model_folder.PROGRESS_JSON).is_file() else ""
    command = f"python -m aladin_jax.main{f' --workdir {folder} [--mode evaluate], or' if workdir else ''}"
    found: dict[str, Any] = {
        "kind": "workdir" if workdir else "converted checkpoint",
        "taken by": f"{command} --config.init_from={folder}{resume}; python -m convert.export --workdir {folder}",
        "path": str(folder),
        "read": source,
        **({f"{name}, step": step for name, step in steps.items()} if workdir else {}),
        **_sizes(config),
        "vocabulary": vocabulary.name if vocabulary else "none",
        **describe_arrays(flat, problems),
        "lineage": describe_lineage(lineage),
        "came from": [file.get("path") for file in model_folder.read_provenance(folder).get("files", [])],
    }
    return found | {"problems": problems.listed()}


def describe_lineage(lineage: Lineage) -> list[str]:
    """A line for each conversion and run that weights come from, and for each head that none of them trained."""
    if not lineage:
        return ["not kept"]
    stages = [f"{stage.told}; trained heads: {', '.join(stage.heads) or 'none'}" for stage in lineage]
    return [*stages, *(f"the {head} head was never trained" for head in untrained_heads(lineage))]


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


def _guess_sizes(matched: Matched) -> dict[str, Any]:
    """Sizes that the shapes of known tensors tell."""
    sizes: dict[str, Any] = {}
    shapes = {name: tensor.shape for name, tensor in matched.tensors.items()}
    if len(word := shapes.get("bert.embeddings.word_embeddings.weight", ())) == 2:
        sizes |= {"vocab_size": word[0], "hidden_size": word[1]}
    if len(regions := shapes.get("bert.img_embedding.weight", ())) == 2:
        sizes["img_feature_dim"] = regions[1]
    for name, pattern in (
        ("num_hidden_layers", r"bert\.encoder\.layer\.(\d+)\."),
        ("matching layers", r"final_projection_net\.layers\.(\d+)\."),
    ):
        layers = {found[1] for key in shapes if (found := re.match(pattern, key))}
        sizes |= {name: len(layers)} if layers else {}
    return sizes


def _try_conversion(source: Checkpoint, problems: Problems) -> dict[str, Any] | str:
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
