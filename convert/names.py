"""Which PyTorch tensors make up which parameter, as a table that is read in both directions.

PyTorch names are those of a VinVL folder for the backbone (`bert.encoder.layer.0...`) and begin with
`final_projection_net.` for the matching head. What other files put before them is stripped by `matching.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from aladin_jax.model_folder import ModelConfig
from convert.matching import is_of_model

LAYER = "{layer}"


class Entry(NamedTuple):
    """One parameter and the tensors it is made of.

    Attributes:
        parameter: path in the parameter dict.
        tensors: PyTorch names, joined along their first axis in this order. With `{layer}` in them there is such a
            group for every layer, and the groups are stacked on a new first axis.
        transposed: whether PyTorch has the (joined) matrix as [out, in], where the parameter is [in, out].
    """

    parameter: str
    tensors: tuple[str, ...]
    transposed: bool = False


def _dense(parameter: str, *tensors: str) -> list[Entry]:
    return [
        Entry(f"{parameter}/kernel", tuple(f"{name}weight" for name in tensors), transposed=True),
        Entry(f"{parameter}/bias", tuple(f"{name}bias" for name in tensors)),
    ]


def _norm(parameter: str, tensor: str) -> list[Entry]:
    return [Entry(f"{parameter}/scale", (f"{tensor}weight",)), Entry(f"{parameter}/bias", (f"{tensor}bias",))]


_BERT = f"bert.encoder.layer.{LAYER}."
_HEAD = f"final_projection_net.layers.{LAYER}."

BACKBONE = [
    Entry("backbone/embeddings/word", ("bert.embeddings.word_embeddings.weight",)),
    Entry("backbone/embeddings/position", ("bert.embeddings.position_embeddings.weight",)),
    Entry("backbone/embeddings/token_type", ("bert.embeddings.token_type_embeddings.weight",)),
    *_norm("backbone/embeddings/norm", "bert.embeddings.LayerNorm."),
    *_dense("backbone/region_projection", "bert.img_embedding."),
    *_norm("backbone/region_norm", "bert.LayerNorm."),
    *_dense("backbone/layers/qkv", *(f"{_BERT}attention.self.{part}." for part in ("query", "key", "value"))),
    *_dense("backbone/layers/attention_output", f"{_BERT}attention.output.dense."),
    *_norm("backbone/layers/attention_norm", f"{_BERT}attention.output.LayerNorm."),
    *_dense("backbone/layers/intermediate", f"{_BERT}intermediate.dense."),
    *_dense("backbone/layers/output", f"{_BERT}output.dense."),
    *_norm("backbone/layers/output_norm", f"{_BERT}output.LayerNorm."),
]
MATCHING_HEAD = [
    # in_proj holds q, k and v already joined, in the parameter's order; its names end without a dot.
    *_dense("matching_head/layers/qkv", f"{_HEAD}self_attn.in_proj_"),
    *_dense("matching_head/layers/attention_output", f"{_HEAD}self_attn.out_proj."),
    *_norm("matching_head/layers/attention_norm", f"{_HEAD}norm1."),
    *_dense("matching_head/layers/intermediate", f"{_HEAD}linear1."),
    *_dense("matching_head/layers/output", f"{_HEAD}linear2."),
    *_norm("matching_head/layers/output_norm", f"{_HEAD}norm2."),
]

# Tensors that are left out, and why. The first are of the backbone, all other tensors of which have to find a place.
IGNORED = {
    r"bert\.pooler\.dense\.(weight|bias)": "pooler of [CLS]: ALADIN reads the outputs at all positions",
    r"bert\.embeddings\.(position_ids|token_type_ids)": "a buffer of constants",
    r"bert\.detic_to_oscar_img\.\d+\.(weight|bias)": "projection of another detector's (Detic) regions; "
    "detection_type is 'fast'",
    r"bert\.embeddings\.clip_(local|global)_to_oscar_embeddings\.\d+\.(weight|bias)": "projection of CLIP's vectors; "
    "enable_clip_labels and enable_clip_captions are off",
    r"(.*\.)?classifier\.[\w.]+": "classifier of another task, which ALADIN replaces by its two heads",
    r"(.*\.)?cls\.[\w.]+": "pre-training heads",
    r"(.*\.)?qa_outputs\.(weight|bias)": "question answering head",
    r"(.*\.)?(img|cap)_proj\.(weight|bias)": "a projection that the original makes and never applies",
    r"(.*\.)?\w+_criterion\.logit_scale": "temperature of InfoNCE; not used by the hinge and distillation losses",
}


def entries(model_config: ModelConfig) -> list[Entry]:
    """The table's rows for the parameters that a configuration has."""
    has_norm = model_config.backbone.use_img_layernorm
    return [e for e in BACKBONE + MATCHING_HEAD if has_norm or not e.parameter.startswith("backbone/region_norm/")]


def num_layers(entry: Entry, model_config: ModelConfig) -> int | None:
    """How many layers an entry stacks; None if it is not one of layers."""
    if LAYER not in entry.tensors[0]:
        return None
    in_backbone = entry.parameter.startswith("backbone/")
    return model_config.backbone.num_hidden_layers if in_backbone else model_config.matching_head.num_layers


def tensor_names(entry: Entry, layers: int | None) -> list[str]:
    """PyTorch names of all tensors that an entry takes, in order."""
    return [name.replace(LAYER, str(n)) for n in range(layers or 1) for name in entry.tensors]


def ignored_because(name: str) -> str | None:
    """Why a tensor is left out; None if it is of the model, and must not be."""
    reason = next((reason for pattern, reason in IGNORED.items() if re.fullmatch(pattern, name)), None)
    if reason is None and not is_of_model(name):
        return "outside of the backbone and the matching head"
    return reason


def tensor_shape(entry: Entry, parameter_shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of each of an entry's tensors, from the parameter's."""
    shape = parameter_shape[1:] if LAYER in entry.tensors[0] else parameter_shape
    if entry.transposed:
        shape = shape[::-1]
    return (shape[0] // len(entry.tensors), *shape[1:])


def to_parameter(entry: Entry, tensors: Mapping[str, np.ndarray], layers: int | None) -> np.ndarray:
    """Makes a parameter from its tensors, by name; `to_tensors` undoes it exactly."""
    names, width = tensor_names(entry, layers), len(entry.tensors)
    joined = [np.concatenate([tensors[name] for name in names[i : i + width]]) for i in range(0, len(names), width)]
    if entry.transposed:
        joined = [matrix.T for matrix in joined]
    return np.stack(joined) if layers else np.ascontiguousarray(joined[0])


def to_tensors(entry: Entry, parameter: np.ndarray, layers: int | None) -> dict[str, np.ndarray]:
    """Takes a parameter apart into PyTorch's tensors, by name."""
    joined = list(parameter) if layers else [parameter]
    if entry.transposed:
        joined = [matrix.T for matrix in joined]
    parts = [part for group in joined for part in np.split(group, len(entry.tensors))]
    return {name: np.ascontiguousarray(part) for name, part in zip(tensor_names(entry, layers), parts, strict=True)}
