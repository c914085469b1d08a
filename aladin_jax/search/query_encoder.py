"""Encodes one query at a time, in a few compiled shapes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import jax
import numpy as np

from aladin_jax.data.pipeline import load_images
from aladin_jax.data.records import Record, Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.encoding import Encoded
from aladin_jax.models.aladin import Aladin, Batch, Params
from aladin_jax.packed_vectors import pack_regions, pack_words

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
        self._params, self._tokenizer, self._max_regions = params, tokenizer, max_regions
        self._lock = threading.Lock()  # tracing a model, in `bind`, is for one thread at a time

        def encode_captions(params: Params, batch: Batch):
            return model(params).encode_captions(batch)

        def encode_images(params: Params, batch: Batch):
            return model(params).encode_images(batch)

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
        split = _OneRecord(record)
        arrays = load_images(split, np.zeros(1, np.int64), self._tokenizer, self._max_regions)
        with self._lock:
            out = self._encode_images(self._params, arrays)
        return Encoded(np.asarray(out.vector), pack_regions(out.regions, out.region_len))


class _OneRecord(Split):
    """A split of one image that is in no data set."""

    def __init__(self, record: Record):
        self.name, self.feature_dim, self._record = "query", record.regions.shape[1], record

    def read(self, index: int) -> Record:
        return self._record
