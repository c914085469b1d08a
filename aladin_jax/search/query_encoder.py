"""Encodes one query at a time: texts on the host, pictures with the program that encodes batches."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from aladin_jax.data.pipeline import image_arrays
from aladin_jax.data.records import Record
from aladin_jax.data.tokenization import read_vocabulary
from aladin_jax.models.aladin import ImageEmbeddings
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import ragged_regions
from aladin_jax.search.query_text import QueryReader
from aladin_jax.search.text_encoder import TextEncoder, unit


class QueryEncoder:
    """A text or a picture at a time, from any thread."""

    def __init__(self, model: PretrainedModel):
        """Takes what encodes texts; pictures' part is taken when there is one."""
        self._model, self._tokenizer = model, model.tokenizer
        self._tokens, self.feature_dim = list(read_vocabulary(model.vocabulary)), model.feature_dim
        self.reader = QueryReader(model.tokenizer, self._tokens, model.caption_ending)
        self._encode_text = TextEncoder(model.params, model.config)
        self._lock = threading.Lock()  # tracing a model, in `bind`, is for one thread at a time

    def caption(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """One text: the matching head's vector [d], and unit vectors [n, d] of its words."""
        ids, words = self._ids(text)
        vector, tokens = self._encode_text(ids)
        return vector, unit(tokens[words])

    def words(self, text: str) -> list[str]:
        """The word pieces of a text that take part in alignment."""
        ids, words = self._ids(text)
        return [self._tokens[token] for token in ids[words]]

    def image(self, record: Record) -> tuple[np.ndarray, np.ndarray]:
        """One picture: the matching head's vector [d], and unit vectors [n, d] of its regions."""
        max_regions = self._model.settings.max_regions
        arrays = image_arrays([record], record.regions.shape[1], self._tokenizer, max_regions)
        with self._lock:
            out = self._encode_image(arrays)
        return np.asarray(out.vector[0]), ragged_regions(out.regions, out.region_len).vectors

    @functools.cached_property
    def _encode_image(self) -> Callable[[Mapping[str, Any]], ImageEmbeddings]:
        params = jax.device_put(self._model.params, jax.devices()[0])
        encode = jax.jit(lambda params, batch: self._model.bound(params).encode_images(batch))
        return functools.partial(encode, params)

    def _ids(self, text: str) -> tuple[np.ndarray, slice]:
        """A text's tokens, and which take part in alignment (`similarity.word_side`)."""
        ids, [length] = self._tokenizer.tokenize_captions([text])
        return ids[0, :length], slice(1, max(int(length) - 2, 1))
