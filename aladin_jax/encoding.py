"""Encodes a split for evaluation or for an index: every image once, every caption once, whatever the pairs are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Float
from tqdm import tqdm

from aladin_jax import sharding
from aladin_jax.data.pipeline import Arrays, image_arrays, load_captions, pad_rows
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer, Ids, Lengths
from aladin_jax.lookahead import look_ahead
from aladin_jax.models.aladin import Aladin, Batch, Params
from aladin_jax.models.packing import tokens_per_shard
from aladin_jax.scores.all_pairs import all_alignment_scores
from aladin_jax.scores.ragged import Ragged, concatenate, drop_padding, unit_regions, unit_words
from aladin_jax.scores.similarity import Measure, Pooling, matching_scores


class Encoded(NamedTuple):
    """Images or captions as both heads see them, on the host.

    Attributes:
        vectors: [n, d] float32, the matching head's.
        parts: unit vectors of the regions, or words, that the alignment head compares.
    """

    vectors: np.ndarray
    parts: Ragged


class Scores(NamedTuple):
    """All pairs' scores by both heads, higher is better; what `recall.retrieval_report` takes.

    Attributes:
        matching: one vector a side.
        alignment: regions against words.
    """

    matching: Float[np.ndarray, "i c"]
    alignment: Float[np.ndarray, "i c"]


def score_pairs(images: Encoded, texts: Encoded, *, pooling: Pooling, measure: Measure, dtype: DTypeLike) -> Scores:
    """Scores all pairs with both heads; regions and words are compared in `dtype`, scores are float32 either way."""
    matching = matching_scores(jnp.asarray(images.vectors), jnp.asarray(texts.vectors), measure=measure)
    alignment = all_alignment_scores(images.parts, texts.parts, pooling=pooling, dtype=dtype)
    return Scores(np.asarray(matching), alignment)


class Encoder:
    """Encodes with any parameters of one model; compiled at the first batch, once for all parameters."""

    def __init__(
        self,
        model: Callable[[Params], Aladin],
        tokenizer: CaptionTokenizer,
        *,
        max_regions: int,
        batch_size: int | None = None,
        mesh: Mesh,
        dtype: DTypeLike = jnp.float32,
    ):
        """Takes what stays the same from call to call.

        Args:
            model: from `models.aladin.bind`.
            tokenizer: of the model's vocabulary.
            max_regions: regions kept of an image.
            batch_size: images or captions of full length encoded at once; rounded up to a multiple of the devices.
                None: 64 on CPUs, 512 for each accelerator.
            mesh: devices to use.
            dtype: number format of the unit vectors that encoding gives, to be compared in.
        """
        batch_size = default_batch_size(mesh) if batch_size is None else batch_size
        self.dtype = dtype
        self._devices = mesh.size
        self._batch_size = -(-batch_size // mesh.size) * mesh.size
        self._tokenizer, self._max_regions = tokenizer, max_regions
        self._sharding = sharding.batch_sharding(mesh)

        # Normalised where they are computed, and replicated, so that every process has all of them.
        @functools.partial(jax.jit, static_argnums=2, out_shardings=sharding.replicated(mesh))
        def encode_images(params: Params, batch: Batch, tokens: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            out = model(params).encode_images(batch, tokens_per_shard=tokens, shards=mesh.size)
            return out.vector, unit_regions(out.regions, out.region_len, dtype)

        @functools.partial(jax.jit, static_argnums=2, out_shardings=sharding.replicated(mesh))
        def encode_captions(params: Params, batch: Batch, tokens: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            out = model(params).encode_captions(batch, tokens_per_shard=tokens, shards=mesh.size)
            return out.vector, unit_words(out.tokens, out.caption_len, dtype)

        self._encode_images, self._encode_captions = encode_images, encode_captions

    def encode_images(self, params: Params, split: Split, images: np.ndarray) -> Encoded:
        """Encodes images of a split, in the given order; `params` are on the devices of the mesh."""

        def batches() -> Iterator[tuple[Arrays, int, int]]:
            for start in range(0, len(images), self._batch_size):
                rows = images[start : start + self._batch_size]
                records = map(split.read, rows.tolist())
                arrays = image_arrays(list(records), split.feature_dim, self._tokenizer, self._max_regions)
                lengths = np.pad(arrays["label_len"] + arrays["region_len"], (0, self._batch_size - len(rows)))
                slots = arrays["label_ids"].shape[1] + self._max_regions
                tokens = tokens_per_shard(lengths, slots=slots, shards=self._devices, buckets=32)
                yield arrays, self._batch_size, tokens

        number = -(-len(images) // self._batch_size)
        return _concatenate(self._encode(self._encode_images, params, batches(), number, f"{split.name} images"))

    def encode_captions(self, params: Params, split: Split, images: np.ndarray) -> tuple[Encoded, np.ndarray]:
        """Encodes all captions of images of a split; also returns which of `images` each caption belongs to."""
        ids, lengths, image_of_caption = load_captions(split, images, self._tokenizer)
        return self.encode_tokens(params, ids, lengths, f"{split.name} captions"), image_of_caption

    def encode_tokens(self, params: Params, ids: Ids, lengths: Lengths, label: str) -> Encoded:
        """Encodes tokenised captions."""
        planned = caption_batches(lengths, ids.shape[1], batch_size=self._batch_size, devices=self._devices)

        def batches() -> Iterator[tuple[Arrays, int, int]]:
            for captions, slots, rows, tokens in planned:
                yield {"caption_ids": ids[captions, :slots], "caption_len": lengths[captions]}, rows, tokens

        out = _concatenate(self._encode(self._encode_captions, params, batches(), len(planned), label))
        place = np.argsort(np.concatenate([plan.captions for plan in planned]))
        return Encoded(out.vectors[place], out.parts.take(place))

    def _encode(
        self, encode: Callable, params: Params, batches: Iterator[tuple[Arrays, int, int]], number: int, label: str
    ) -> Iterator[Encoded]:
        """Encodes batches; each is brought to the host while the next one, which is read meanwhile, is computed.

        A batch is its arrays, the rows that they are filled up to with empty ones, and `packing.tokens_per_shard`.
        """

        def computing() -> Iterator[tuple[Any, int]]:
            shown = tqdm(batches, f"encoding {label}", number, unit="batch", leave=False, disable=None)
            for arrays, rows, tokens in shown:
                filled = jax.device_put(pad_rows(arrays, rows), self._sharding)
                yield encode(params, filled, tokens), len(next(iter(arrays.values())))

        for out, rows in look_ahead(computing(), 1):
            vectors, (parts, is_part) = jax.tree.map(lambda array, rows=rows: np.asarray(array)[:rows], out)
            yield Encoded(vectors, drop_padding(parts, is_part))


def default_batch_size(mesh: Mesh) -> int:
    """Images encoded at once: enough to fill the devices, few enough for a CPU's caches."""
    return 64 if mesh.devices.flat[0].platform == "cpu" else 512 * mesh.size


class CaptionBatch(NamedTuple):
    """Captions to encode at once, all of few tokens or all of many.

    Attributes:
        captions: [k] which.
        slots: tokens that each is padded to.
        rows: captions that the batch is filled up to, so that batches of as many slots share an executable.
        tokens: see `packing.tokens_per_shard`.
    """

    captions: np.ndarray
    slots: int
    rows: int
    tokens: int


def caption_batches(lengths: np.ndarray, most_slots: int, *, batch_size: int, devices: int) -> list[CaptionBatch]:
    """Puts short captions together, so that attention and the matching head see little padding.

    Slots are powers of two from 16, so that few shapes are compiled. A batch has as many of them as `batch_size`
    captions of `most_slots`; captions that don't fill one go with the next longer ones.

    Args:
        lengths: [c] tokens of each caption.
        most_slots: that no caption exceeds.
        batch_size: captions of that many slots in a batch.
        devices: divides it.
    """
    needed = np.minimum(2 ** np.ceil(np.log2(np.clip(lengths, 16, None))).astype(int), most_slots)
    waiting, batches = np.zeros(0, int), []
    for slots in np.unique(needed).tolist():
        waiting = np.concatenate([waiting, np.flatnonzero(needed == slots)])
        rows = batch_size * most_slots // slots // devices * devices
        end = len(waiting) if slots == needed.max() else len(waiting) // rows * rows
        if end == 0:
            continue
        chosen, waiting = np.split(waiting[:end], range(rows, end, rows)), waiting[end:]
        # The fullest batch decides for all, and coarsely: one executable for all, and for the next call.
        filled = np.stack([np.pad(lengths[captions], (0, rows - len(captions))) for captions in chosen])
        tokens = tokens_per_shard(filled.reshape(-1), slots=slots, shards=len(chosen) * devices, buckets=32)
        batches += [CaptionBatch(captions, slots, rows, tokens) for captions in chosen]
    return batches


def _concatenate(batches: Iterator[Encoded]) -> Encoded:
    parts = list(batches)
    return Encoded(np.concatenate([part.vectors for part in parts]), concatenate([part.parts for part in parts]))
