"""Encodes one query at a time, in a few compiled shapes."""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aladin_jax.data.pipeline import image_arrays
from aladin_jax.data.records import Record
from aladin_jax.data.tokenization import read_vocabulary
from aladin_jax.encoding import Encoded
from aladin_jax.models.aladin import Aladin, Batch, CaptionEmbeddings, ImageEmbeddings, Params
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import pack_regions, pack_words
from aladin_jax.search.query_text import QueryReader

# A text is padded to the first of these that holds it, or else to the longest: each is a compiled program.
LENGTHS = (8, 16, 32)


class QueryEncoder:
    """A text or a picture at a time, from any thread.

    `encoding.Encoder` packs a batch's tokens into one of sixteen lengths; for a single text, that would compile a
    program for nearly every length of text.
    """

    def __init__(self, model: PretrainedModel):
        """Puts the model's parameters on the first device."""
        self._params = _take_layers_apart(jax.device_put(model.params, jax.devices()[0]))
        self._tokenizer, self._max_regions = model.tokenizer, model.settings.max_regions
        self._tokens, self.feature_dim = list(read_vocabulary(model.vocabulary)), model.feature_dim
        self.reader = QueryReader(model.tokenizer, self._tokens, model.caption_ending)
        bound = model.bound
        self._lock = threading.Lock()  # tracing a model, in `bind`, is for one thread at a time

        def encode_captions(params: Params, batch: Batch) -> CaptionEmbeddings:
            return _encode_captions(bound, params, batch)

        def encode_images(params: Params, batch: Batch) -> ImageEmbeddings:
            return bound(_put_layers_together(params)).encode_images(batch)

        self._encode_captions, self._encode_images = jax.jit(encode_captions), jax.jit(encode_images)

    def warm_up(self) -> None:
        """Compiles all that texts need."""
        for words in (1, *LENGTHS):
            self.caption("a " * words)

    def caption(self, text: str) -> Encoded:
        """One text, as an `Encoded` of one."""
        ids, length = self._tokenizer.tokenize_captions([text])
        width = next((w for w in LENGTHS if length[0] <= w < ids.shape[1]), ids.shape[1])
        with self._lock:
            out = self._encode_captions(self._params, {"caption_ids": ids[:, :width], "caption_len": length})
        return Encoded(np.asarray(out.vector), pack_words(out.tokens, out.caption_len))

    def words(self, text: str) -> list[str]:
        """The word pieces of a text that take part in alignment (`similarity.word_side`)."""
        ids, lengths = self._tokenizer.tokenize_captions([text])
        return [self._tokens[token] for token in ids[0, 1 : max(int(lengths[0]) - 2, 1)]]

    def image(self, record: Record) -> Encoded:
        """One picture, as an `Encoded` of one."""
        arrays = image_arrays([record], record.regions.shape[1], self._tokenizer, self._max_regions)
        with self._lock:
            out = self._encode_images(self._params, arrays)
        return Encoded(np.asarray(out.vector), pack_regions(out.regions, out.region_len))


def _encode_captions(model: Callable[[Params], Aladin], params: Params, batch: Batch) -> CaptionEmbeddings:
    """The model's own encoding, with each layer's parameters in arrays of their own.

    Out of stacked arrays they would be copied before use, which for one text takes as long as the layer itself.
    """
    backbone, head = params["backbone"], _join(params["matching_head"])
    layers = backbone["layers"]

    def model_of(layer: dict[str, Any]) -> Aladin:
        return model({"backbone": {**backbone, "layers": layer}, "matching_head": head})

    stream = model_of(layers[0]).backbone.embed_captions(batch["caption_ids"], batch["caption_len"], None)
    for layer in layers:
        [x] = model_of(layer).backbone.encode([stream], keys=None)
        stream = stream._replace(x=x)
    [vector] = model_of(layers[0]).matching_head([stream], None)
    return CaptionEmbeddings(vector, stream.x.astype(jnp.float32), batch["caption_len"])


def _take_layers_apart(params: Params) -> Params:
    def split(group: dict[str, Any]) -> dict[str, Any]:
        layers = group["layers"]
        rows = [slice(k, k + 1) for k in range(len(jax.tree.leaves(layers)[0]))]
        return {**group, "layers": [jax.tree.map(operator.itemgetter(row), layers) for row in rows]}

    return {name: split(group) for name, group in params.items()}


def _put_layers_together(params: Params) -> Params:
    return {name: _join(group) for name, group in params.items()}


def _join(group: dict[str, Any]) -> dict[str, Any]:
    return {**group, "layers": jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *group["layers"])}
