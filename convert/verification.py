"""Compares the converted text stream with `transformers`' own BERT in PyTorch, on sample sentences."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Int32
from transformers import BertConfig, BertModel

from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError
from aladin_jax.models.aladin import Params, bind
from aladin_jax.models.backbone import BackboneConfig
from convert.names import ignored_because
from convert.sources import Checkpoint

TOLERANCE = 1e-4
_MAX_LENGTH = 50
SENTENCES = (
    "a dog",
    "Two children play chess on a wooden bench.",
    "A red double-decker bus stands in front of an old brick station.",
    "people",
    "Black and white photograph of a crowded street market, 1960s; umbrellas, baskets of fruit and a bicycle.",
    "The cat that slept on the windowsill all afternoon watches snow fall on the roofs, the parked cars, the empty "
    "playground, the river behind it and, far away, the hills with their dark line of trees under a pale grey sky.",
)


class Verification(NamedTuple):
    """Largest absolute differences, at real positions.

    Attributes:
        first: of the hidden states after the first layer.
        last: of the hidden states after the last layer.
        tokens: how many were compared.
        text: what they were tokens of.
    """

    first: float
    last: float
    tokens: int
    text: str

    def __str__(self) -> str:
        """One line for the report."""
        return (
            f"text stream against transformers' BertModel, {self.tokens} tokens of {self.text}: largest difference "
            f"{self.first:.1e} after the first layer, {self.last:.1e} after the last "
            f"(must be below {TOLERANCE:.0e})"
        )


def verify_text_stream(source: Checkpoint, params: Params) -> Verification:
    """Runs the source's tensors in `transformers` and the parameters made of them here, both in float32.

    Raises:
        DataError: a difference is `TOLERANCE` or more.
    """
    ids, lengths, text = _sample(source.vocabulary, source.model_config.backbone)
    is_real = np.arange(ids.shape[1]) < lengths[:, None]
    theirs = _run_transformers(source, ids, lengths)
    first, last = (
        float(np.abs(_run_ours(source, params, ids, lengths, depth) - theirs[depth])[is_real].max())
        for depth in (1, len(theirs) - 1)
    )
    verification = Verification(first, last, int(lengths.sum()), text)
    if not (first < TOLERANCE and last < TOLERANCE):  # NaN is refused too
        raise DataError(f"{source.files[-1]}: not verified: {verification}")
    return verification


def _sample(
    vocabulary: Path | None, config: BackboneConfig
) -> tuple[Int32[np.ndarray, "c w"], Int32[np.ndarray, " c"], str]:
    length = min(_MAX_LENGTH, config.max_position_embeddings)
    if vocabulary is not None:
        tokenizer = CaptionTokenizer(vocabulary, max_caption_len=length, max_labels_len=3)
        return *tokenizer.tokenize_captions(SENTENCES), f"{len(SENTENCES)} sentences"
    draw = np.random.default_rng(0)
    lengths = np.array([1, length, length // 2 + 1, length], np.int32)
    ids = draw.integers(0, config.vocab_size, (4, length), dtype=np.int32)
    return np.where(np.arange(length) < lengths[:, None], ids, 0), lengths, "random ids (there is no vocab.txt)"


def _run_ours(source: Checkpoint, params: Params, ids: np.ndarray, lengths: np.ndarray, depth: int) -> np.ndarray:
    """Hidden states [c, w, d] after so many layers."""
    backbone, matching_head = source.model_config
    model = bind(dataclasses.replace(backbone, num_hidden_layers=depth), matching_head)
    layers = jax.tree.map(lambda x: x[:depth], params["backbone"]["layers"])
    params = {**params, "backbone": {**params["backbone"], "layers": layers}}
    batch = {"caption_ids": jnp.asarray(ids), "caption_len": jnp.asarray(lengths)}

    def run(params: Params) -> Array:
        return model(params).encode_captions(batch).tokens

    # It runs once, so that optimising it would take longer than it does.
    compiled = jax.jit(run, compiler_options={"xla_backend_optimization_level": 0})
    with jax.default_matmul_precision("highest"):
        return np.asarray(compiled(params))


def _run_transformers(source: Checkpoint, ids: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Hidden states [c, w, d] before the first layer and after each."""
    fields = dataclasses.asdict(source.model_config.backbone)  # are called as BERT's
    bert = BertModel(BertConfig(**fields, hidden_act="gelu"), add_pooling_layer=False).eval()
    # The file's tensors, not the table's: an error in the table must show.
    state = {
        name.removeprefix("bert."): tensor.float()
        for name, tensor in source.tensors.items()
        if name.startswith(("bert.embeddings.", "bert.encoder.")) and ignored_because(name) is None
    }
    bert.load_state_dict(state)
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths)[:, None]
    with torch.inference_mode():
        states = bert(torch.from_numpy(ids).long(), attention_mask=mask.long(), output_hidden_states=True).hidden_states
    return [state.numpy() for state in states]
