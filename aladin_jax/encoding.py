"""Encodes a split for evaluation or for an index: every image once, every caption once, whatever the pairs are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from aladin_jax import sharding
from aladin_jax.data.pipeline import Arrays, load_captions, load_images, pad_rows
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.models.aladin import Aladin, Batch, Params
from aladin_jax.models.packing import tokens_per_group
from aladin_jax.scoring import Packed, concatenate, pack_regions, pack_words


class Encoded(NamedTuple):
    """Images or captions as both heads see them, on the host.

    Attributes:
        vectors: [n, d] float32, the matching head's.
        parts: unit vectors of the regions, or words, that the alignment head compares.
    """

    vectors: np.ndarray
    parts: Packed


class Encoder:
    """Encodes with any parameters of one model; compiled at the first batch, once for all parameters."""

    def __init__(
        self,
        model: Callable[[Params], Aladin],
        tokenizer: CaptionTokenizer,
        *,
        max_regions: int,
        batch_size: int,
        mesh: Mesh,
    ):
        """Takes what stays the same from call to call.

        Args:
            model: from `models.aladin.bind`.
            tokenizer: of the model's vocabulary.
            max_regions: regions kept of an image.
            batch_size: images or captions encoded at once; rounded up to a multiple of the devices.
            mesh: devices to use.
        """
        self._devices = mesh.size
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        self._tokenizer, self._max_regions = tokenizer, max_regions
        self._sharding = sharding.batch_sharding(mesh)

        def encode_images(params: Params, batch: Batch, tokens: int):
            return model(params).encode_images(batch, tokens_per_group=tokens, groups=mesh.size)

        def encode_captions(params: Params, batch: Batch, tokens: int):
            return model(params).encode_captions(batch, tokens_per_group=tokens, groups=mesh.size)

        # Replicated, so that every process has all of it.
        everywhere = sharding.replicated(mesh)
        self._encode_images = jax.jit(encode_images, static_argnums=2, out_shardings=everywhere)
        self._encode_captions = jax.jit(encode_captions, static_argnums=2, out_shardings=everywhere)

    def encode_images(self, params: Params, split: Split, images: np.ndarray) -> Encoded:
        """Encodes images of a split, in the given order; `params` are on the devices of the mesh."""
        return _concatenate(self.iterate_images(params, split, images))

    def iterate_images(self, params: Params, split: Split, images: np.ndarray) -> Iterator[Encoded]:
        """Encodes images batch by batch, for callers that must not hold them all."""
        for start in _batches(len(images), self._batch_size, f"{split.name} images"):
            arrays = load_images(split, images[start : start + self._batch_size], self._tokenizer, self._max_regions)
            lengths = np.asarray(arrays["label_len"] + arrays["region_len"])
            slots = arrays["label_ids"].shape[1] + self._max_regions
            out = self._run(self._encode_images, params, arrays, lengths, slots)
            yield Encoded(out.vector, pack_regions(out.regions, out.region_len))

    def encode_captions(self, params: Params, split: Split, images: np.ndarray) -> tuple[Encoded, np.ndarray]:
        """Encodes all captions of images of a split; also returns which of `images` each caption belongs to."""
        arrays, image_of_caption = load_captions(split, images, self._tokenizer)
        return self.encode_tokens(params, arrays, f"{split.name} captions"), image_of_caption

    def encode_tokens(self, params: Params, arrays: Arrays, label: str = "captions") -> Encoded:
        """Encodes tokenised captions: caption_ids [c, w] and caption_len [c]."""
        encoded = []
        for start in _batches(len(arrays["caption_len"]), self._batch_size, label):
            part = {name: array[start : start + self._batch_size] for name, array in arrays.items()}
            out = self._run(
                self._encode_captions, params, part, np.asarray(part["caption_len"]), part["caption_ids"].shape[1]
            )
            encoded.append(Encoded(out.vector, pack_words(out.tokens, out.caption_len)))
        return _concatenate(encoded)

    def _run(self, encode: Callable, params: Params, arrays: Arrays, lengths: np.ndarray, slots: int):
        """Encodes one batch, filled up to the batch size with empty rows, and brings it to the host."""
        rows = len(lengths)
        filled = pad_rows(arrays, self._batch_size)
        lengths = np.pad(lengths, (0, self._batch_size - rows))
        tokens = tokens_per_group(lengths, slots=slots, groups=self._devices)
        out = encode(params, jax.device_put(filled, self._sharding), tokens)
        return jax.tree.map(lambda array: np.asarray(array)[:rows], out)


def _batches(examples: int, batch_size: int, label: str) -> tqdm:
    return tqdm(range(0, examples, batch_size), desc=f"encoding {label}", unit="batch", leave=False, disable=None)


def _concatenate(parts: Iterator[Encoded] | list[Encoded]) -> Encoded:
    parts = list(parts)
    return Encoded(np.concatenate([part.vectors for part in parts]), concatenate([part.parts for part in parts]))
