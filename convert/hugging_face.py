"""Reads a Hugging Face BERT folder: the text half of a backbone, of any size."""

from __future__ import annotations

from pathlib import Path

from aladin_jax.errors import DataError
from aladin_jax.files import read_json
from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from convert.matching import match
from convert.sources import Checkpoint, find_vocabulary, read_config
from convert.weights import read_folder_weights

# What the tokenizer's files may say, the value of an absent field first.
_UNCASED = {
    "do_lower_case": (True,),
    "lowercase": (True,),
    "strip_accents": (None, True),
    "tokenize_chinese_chars": (True,),
    "handle_chinese_chars": (True,),
}


def read_bert(folder: str | Path, scratch: Path) -> Checkpoint:
    """Reads config.json, weights of any layout (see `weights.py`), and vocab.txt or tokenizer.json.

    Args:
        folder: as `save_pretrained` writes it, with or without heads.
        scratch: where a vocab.txt is written if the folder has it within tokenizer.json only.

    Raises:
        DataError: a file is missing, damaged or refused, or the model is no BERT with an uncased WordPiece vocabulary.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a BERT's config.json and weights in it")
    notes: list[str] = []
    config_file, values = read_config(folder)
    backbone = BackboneConfig.from_dict(values, str(config_file))
    tokenizer_files = _check_uncased(folder, notes)
    vocabulary = _find_vocabulary(folder, backbone, scratch, notes)
    files, weights = read_folder_weights(folder)
    matched = match(weights.tensors, str(files[-1]))
    notes += [*weights.notes, *matched.notes]
    if "bert.img_embedding.weight" in matched.tensors:
        raise DataError(f"{files[-1]}: has a projection of regions, so it is no plain BERT; pass its folder as --vinvl")
    notes.append(
        f"a plain BERT has seen no images: the projection of regions ({backbone.img_feature_dim} numbers each) "
        "and the matching head start from fresh weights"
    )
    return Checkpoint(
        tensors=matched.tensors,
        keys=matched.keys,
        model_config=ModelConfig(backbone, MatchingHeadConfig()),
        vocabulary=vocabulary,
        fresh=("backbone/region_projection/", "backbone/region_norm/", "matching_head/"),
        files=[config_file, *tokenizer_files, *files],
        details={},
        notes=notes,
        caption_ending=None,
    )


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
                raise DataError(
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
        raise DataError(f"{tokenizer}: not a WordPiece tokenizer, which a BERT has")
    words = {number: word for word, number in vocabulary.items() if type(number) is int}
    if sorted(words) != list(range(len(vocabulary))):
        raise DataError(f"{tokenizer}: its tokens are not numbered from 0 without gaps")
    if any("\n" in word or "\r" in word for word in vocabulary):
        raise DataError(f"{tokenizer}: a token has a line end in it")
    text = "".join(f"{words[number]}\n" for number in range(len(words)))
    (scratch / "vocab.txt").write_text(text, encoding="utf-8", errors="surrogatepass", newline="\n")
    notes.append("vocab.txt is taken from tokenizer.json")
    try:
        return find_vocabulary(scratch, backbone, notes)
    except ValueError as error:
        raise DataError(str(error).replace(str(scratch / "vocab.txt"), f"{tokenizer}: vocabulary")) from error
