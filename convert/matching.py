"""Finds the table's tensors in a file, whatever stands before their names there.

Files put many things before a name: DataParallel `module.`, torch.compile `_orig_mod.`, Lightning the attribute that a
model is kept in, ALADIN `img_txt_enc.oscar_model.`; and some wrap parts of a model, so that such a word stands amid a
name. So the backbone is found by its word embeddings, and whatever begins as their name does is of the backbone. The
matching head is found by its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch

from aladin_jax.errors import DataError

BACKBONE, HEAD = "bert.", "final_projection_net."

# Modules that only pass on to the one inside them.
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
_WRAPPER = re.compile(rf"(?:(?<=\.)|^)(?:{'|'.join(_WRAPPERS)})\.")
_WORDS = re.compile(r"(?P<before>(?:.*\.)?)embeddings\.word_embeddings\.weight")
_HEAD_NAME = re.compile(rf"(?P<before>(?:.*\.)?){re.escape(HEAD)}")
# Where a file holds a BertModel alone, nothing stands before the names of its parts.
_BACKBONE_PARTS = ("embeddings", "encoder", "pooler", "img_embedding", "LayerNorm", "detic_to_oscar_img")
_OLD_NAMES = {"gamma": "weight", "beta": "bias"}  # of LayerNorm's parameters
_OLD_NAME = re.compile(r"(?<=LayerNorm\.)(gamma|beta)$")


class Matched(NamedTuple):
    """A file's tensors under the table's names; those outside of backbone and matching head keep their own.

    Attributes:
        tensors: by the table's names.
        keys: the name of each in its file.
        notes: what the user should know.
    """

    tensors: dict[str, torch.Tensor]
    keys: dict[str, str]
    notes: list[str]


def match(state: Mapping[str, torch.Tensor], source: str) -> Matched:
    """Gives a file's tensors the table's names: `bert.` and `final_projection_net.` begin those of the model.

    Args:
        state: tensors by the file's names.
        source: the file, for messages.

    Raises:
        DataError: there is no backbone, or several backbones or heads, or two tensors get the same name.
    """
    bare = {key: _WRAPPER.sub("", key) for key in state}
    backbone = _only(_before(_WORDS.fullmatch, bare.values()), "backbones", source)
    if backbone is None:
        raise DataError(
            f"{source}: no tensor is called ...embeddings.word_embeddings.weight, so these are not a BERT's weights"
        )
    head = _only(_before(_HEAD_NAME.match, bare.values()), "matching heads", source)
    keys: dict[str, str] = {}
    for key, name in bare.items():
        if (other := keys.setdefault(_table_name(name, backbone, head), key)) != key:
            raise DataError(f"{source}: {other} and {key} are the same tensor")
    return Matched({name: state[key] for name, key in keys.items()}, keys, _notes(bare, backbone, head))


def is_of_model(name: str) -> bool:
    """Whether a tensor, by its table's name, lies within the backbone or the matching head."""
    return name.startswith((BACKBONE, HEAD))


def _before(find, names: Iterable[str]) -> set[str]:
    return {found["before"] for name in names if (found := find(name))}


def _only(found: set[str], what: str, source: str) -> str | None:
    if len(found) > 1:
        listed = ", ".join(repr(before) for before in sorted(found)[:5])
        raise DataError(f"{source}: has several {what}, with names that begin {listed}; save the tensors of one alone")
    return found.pop() if found else None


def _table_name(name: str, backbone: str, head: str | None) -> str:
    if head is not None and name.startswith(head + HEAD):
        return name.removeprefix(head)
    of_backbone = name.startswith(backbone) if backbone else name.split(".")[0] in _BACKBONE_PARTS
    if not of_backbone:
        return name
    return BACKBONE + _OLD_NAME.sub(lambda old: _OLD_NAMES[old[1]], name.removeprefix(backbone))


def _notes(bare: Mapping[str, str], backbone: str, head: str | None) -> list[str]:
    wrappers = {found[0] for key in bare for found in _WRAPPER.finditer(key)}
    before = {backbone.removesuffix(BACKBONE), head or ""} - {""}
    left_out = sorted(wrappers) + sorted(before)
    return [f"names of the model's tensors are given without {' and '.join(left_out)}"] if left_out else []
