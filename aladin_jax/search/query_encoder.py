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
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.encoding import Encoded
from aladin_jax.models.aladin import Aladin, Batch, CaptionEmbeddings, ImageEmbeddings, Params
from aladin_jax.scores.ragged import pack_regions, pack_words

# A text is padded to the first of these that holds it, or else to the longest: each is a compiled program.
LENGTHS = (8, 16, 32)


class QueryEncoder:
    """A text or a picture at a time, from any thread.

    `encoding.Encoder` packs a batch's tokens into one of sixteen lengths; for a single text, that would compile a
    program for nearly every length of text.
    """

    def __init__(
        self, model: Callable[[Params], Aladin], params: Params, tokenizer: CaptionTokenizer, max_regions: int
    ):
        """Takes parameters on the device.

        Args:
            model: from `models.aladin.bind`.
            params: its parameters.
            tokenizer: of its vocabulary.
            max_regions: regions kept of an image.
        """
        self._params, self._tokenizer, self._max_regions = _take_layers_apart(params), tokenizer, max_regions
        self._lock = threading.Lock()  # tracing a model, in `bind`, is for one thread at a time

        def encode_captions(params: Params, batch: Batch) -> CaptionEmbeddings:
            return _encode_captions(model, params, batch)

        def encode_images(params: Params, batch: Batch) -> ImageEmbeddings:
            return model(_put_layers_together(params)).encode_images(batch)

        self._encode_captions, self._encode_images = jax.jit(encode_captions), jax.jit(encode_images)

    def warm_up(self) -> None:
        """Compiles all that texts need."""
        for words in (1, *LENGTHS):
            self.caption("a " * words)

    def caption(self, text: str) -> Encoded:
        """One text, as an `Encoded` of one."""
        ids, length = self._tokenizer.captions([text])
        width = next((w for w in LENGTHS if length[0] <= w < ids.shape[1]), ids.shape[1])
        with self._lock:
            out = self._encode_captions(self._params, {"caption_ids": ids[:, :width], "caption_len": length})
        return Encoded(np.asarray(out.vector), pack_words(out.tokens, out.caption_len))

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
