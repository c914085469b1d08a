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
        layers: how many layers are stacked; None if the entry is not one of layers, or no model's yet.
    """

    parameter: str
    tensors: tuple[str, ...]
    transposed: bool = False
    layers: int | None = None

    @property
    def names(self) -> list[str]:
        """PyTorch names of all tensors that it takes, in order."""
        return [name.replace(LAYER, str(n)) for n in range(self.layers or 1) for name in self.tensors]

    def tensor_shape(self, parameter_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of each of its tensors, from the parameter's."""
        shape = parameter_shape if self.layers is None else parameter_shape[1:]
        if self.transposed:
            shape = shape[::-1]
        return (shape[0] // len(self.tensors), *shape[1:])

    def to_parameter(self, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
        """Makes the parameter from its tensors, by name; `to_tensors` undoes it exactly."""
        names, width = self.names, len(self.tensors)
        joined = [np.concatenate([tensors[name] for name in names[i : i + width]]) for i in range(0, len(names), width)]
        if self.transposed:
            joined = [matrix.T for matrix in joined]
        return np.stack(joined) if self.layers else np.ascontiguousarray(joined[0])

    def to_tensors(self, parameter: np.ndarray) -> dict[str, np.ndarray]:
        """Takes the parameter apart into PyTorch's tensors, by name."""
        joined = list(parameter) if self.layers else [parameter]
        if self.transposed:
            joined = [matrix.T for matrix in joined]
        parts = [part for group in joined for part in np.split(group, len(self.tensors))]
        return {name: np.ascontiguousarray(part) for name, part in zip(self.names, parts, strict=True)}


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
    backbone, head = model_config
    table = [(e, backbone.num_hidden_layers) for e in BACKBONE] + [(e, head.num_layers) for e in MATCHING_HEAD]
    return [
        entry._replace(layers=layers) if LAYER in entry.tensors[0] else entry
        for entry, layers in table
        if backbone.use_img_layernorm or not entry.parameter.startswith("backbone/region_norm/")
    ]


def ignored_because(name: str) -> str | None:
    """Why a tensor is left out; None if it is of the model, and must not be."""
    reason = next((reason for pattern, reason in IGNORED.items() if re.fullmatch(pattern, name)), None)
    if reason is None and not is_of_model(name):
        return "outside of the backbone and the matching head"
    return reason
