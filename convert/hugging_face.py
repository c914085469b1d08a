"""Reads a Hugging Face BERT folder: the text half of a backbone, of any size."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from aladin_jax.model_folder import ModelConfig, read_json
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from convert.pickles import first_line
from convert.sources import Source, find_vocabulary, read_config, rename_tensors
from convert.torch_files import load_state_dict

# Fields under which the model computes something else than this project's backbone does.
_ONLY_FIELDS = {
    "model_type": "bert",
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "pad_token_id": 0,
}

# What the tokenizer's files may say, the value of an absent field first.
_UNCASED = {
    "do_lower_case": (True,),
    "lowercase": (True,),
    "strip_accents": (None, True),
    "tokenize_chinese_chars": (True,),
    "handle_chinese_chars": (True,),
}
_SHARD_NAME = re.compile(r"(?!\.)[A-Za-z0-9_.-]+\.(safetensors|bin)")


def read_bert(folder: str | Path, scratch: Path) -> Source:
    """Reads config.json, model.safetensors or pytorch_model.bin (or their shards), and vocab.txt or tokenizer.json.

    Args:
        folder: as `save_pretrained` writes it, with or without heads.
        scratch: where a vocab.txt is written if the folder has it within tokenizer.json only.

    Raises:
        ValueError: a file is missing, damaged or refused, or the model is no BERT with an uncased WordPiece vocabulary.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; expected a BERT's config.json and weights in it")
    config_file, notes = folder / "config.json", []
    values = read_config(config_file)
    for name, only in _ONLY_FIELDS.items():
        if (value := values.get(name, only)) != only:
            raise ValueError(f"{config_file}: {name} is {value!r}; only {only!r} is supported")
    backbone = BackboneConfig.from_dict(values, str(config_file))
    tokenizer_files = _check_uncased(folder, notes)
    vocabulary = _find_vocabulary(folder, backbone, scratch, notes)
    weights, state = _read_weights(folder)
    tensors, keys = rename_tensors(state, _table_name, str(weights[-1]))
    if "bert.img_embedding.weight" in tensors:
        raise ValueError(
            f"{weights[-1]}: has a projection of regions, so it is no plain BERT; pass its folder as --vinvl"
        )
    notes.append(
        f"a plain BERT has seen no images: the projection of regions ({backbone.img_feature_dim} numbers each) "
        "and the matching head start from fresh weights"
    )
    return Source(
        tensors=tensors,
        keys=keys,
        model_config=ModelConfig(backbone, MatchingHeadConfig()),
        vocabulary=vocabulary,
        fresh=("backbone/region_projection/", "backbone/region_norm/", "matching_head/"),
        files=[config_file, *tokenizer_files, *weights],
        details={},
        notes=notes,
    )


def _table_name(key: str) -> str:
    """The table's name for a tensor: with the prefix that a BertModel alone lacks, and LayerNorm's later names."""
    name = re.sub(r"^(?=(embeddings|encoder|pooler)\.)", "bert.", key)
    name = re.sub(r"(?<=LayerNorm\.)gamma$", "weight", name)
    return re.sub(r"(?<=LayerNorm\.)beta$", "bias", name)


def _read_weights(folder: Path) -> tuple[list[Path], dict[str, torch.Tensor]]:
    """Reads a folder's weights, of one file or several; returns the files, that to name in errors last."""
    for name, read in (("model.safetensors", _read_safetensors), ("pytorch_model.bin", load_state_dict)):
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return [whole], read(whole)
        if index.is_file():
            shards, tensors = _read_shards(index, read)
            return [*shards, index], tensors
    raise ValueError(f"{folder}: there is no model.safetensors or pytorch_model.bin, and no index of one in shards")


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: damaged or no safetensors file ({first_line(error)})") from error


def _read_shards(
    index: Path, read: Callable[[Path], dict[str, torch.Tensor]]
) -> tuple[list[Path], dict[str, torch.Tensor]]:
    """Reads the files that an index names; each has to hold the tensors that it says, and no others."""
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{index}: there is no weight_map from tensors to files")
    names_of: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise ValueError(f"{index}: {name[:80]!r} is said to be in {str(shard)[:80]!r}, which is no file beside it")
        names_of.setdefault(shard, set()).add(name)
    tensors: dict[str, torch.Tensor] = {}
    for shard, names in names_of.items():
        if not (index.parent / shard).is_file():
            raise ValueError(f"{index.parent / shard}: no such file, but {index.name} names it; copy all of its shards")
        found = read(index.parent / shard)
        if different := sorted(found.keys() ^ names):
            raise ValueError(f"{index}: says otherwise than {shard} whether {different[0][:80]!r} is in it")
        tensors |= found
    return [index.parent / shard for shard in names_of], tensors


def _check_uncased(folder: Path, notes: list[str]) -> list[Path]:
    """Refuses tokenizers that treat text otherwise than BERT's uncased one; returns the files that tell."""
    files = []
    for name in ("tokenizer_config.json", "tokenizer.json"):
        if not (folder / name).is_file():
            continue
        files.append(folder / name)
        values = read_json(folder / name)
        if name == "tokenizer.json":
            normalizer = values.get("normalizer")
            values = {"lowercase": None, **(normalizer if isinstance(normalizer, dict) else {})}
        for field, allowed in _UNCASED.items():
            if values.get(field, allowed[0]) not in allowed:
                raise ValueError(
                    f"{folder / name}: {field} is {values[field]!r}; only BERT's uncased tokenizer is supported"
                )
    if not files:
        notes.append("no tokenizer_config.json or tokenizer.json: the vocabulary is taken to be uncased")
    return files


def _find_vocabulary(folder: Path, backbone: BackboneConfig, scratch: Path, notes: list[str]) -> Path | None:
    tokenizer = folder / "tokenizer.json"
    if (folder / "vocab.txt").exists() or not tokenizer.is_file():
        return find_vocabulary(folder, backbone, notes)
    model = read_json(tokenizer).get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) and model.get("type") == "WordPiece" else None
    if not isinstance(vocabulary, dict):
        raise ValueError(f"{tokenizer}: not a WordPiece tokenizer, which a BERT has")
    words = {number: word for word, number in vocabulary.items() if type(number) is int}
    if sorted(words) != list(range(len(vocabulary))):
        raise ValueError(f"{tokenizer}: its tokens are not numbered from 0 without gaps")
    if any("\n" in word or "\r" in word for word in vocabulary):
        raise ValueError(f"{tokenizer}: a token has a line end in it")
    text = "".join(f"{words[number]}\n" for number in range(len(words)))
    (scratch / "vocab.txt").write_text(text, encoding="utf-8", errors="surrogatepass", newline="\n")
    notes.append("vocab.txt is taken from tokenizer.json")
    try:
        return find_vocabulary(scratch, backbone, notes)
    except ValueError as error:
        raise ValueError(str(error).replace(str(scratch / "vocab.txt"), f"{tokenizer}: vocabulary")) from error
