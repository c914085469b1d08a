"""Inputs of COCO's lengths, with random content."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from aladin_jax.scores.ragged import Ragged

MAX_CAPTION_LEN, MAX_LABELS_LEN, MAX_REGIONS = 50, 50, 34
CAPTIONS_PER_IMAGE = 5
HIDDEN_SIZE = 768
VOCABULARY_SIZE = 30522
SPECIAL_TOKENS = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}


def caption_lengths(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """Tokens of captions, `[CLS]` and `[SEP]` included: COCO's have 13.5 on average, few below 10 or above 20."""
    return np.clip(np.round(rng.gamma(3.0, 1.5, n) + 9.0), 8, MAX_CAPTION_LEN).astype(np.int32)


def label_lengths(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """Tokens of an image's tags: a detector that gives 34 regions and more nearly fills the 50."""
    return np.clip(np.round(rng.normal(42, 6, n)), 10, MAX_LABELS_LEN).astype(np.int32)


def region_lengths(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """Regions of an image: most have more than are kept."""
    return np.minimum(detections(rng, n), MAX_REGIONS)


def detections(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """Regions that a detector gives for images."""
    return np.clip(np.round(rng.normal(44, 12, n)), 10, 100).astype(np.int32)


def words(rng: np.random.Generator, n: int) -> list[str]:
    """Words of `write_vocabulary`."""
    return [f"w{k}" for k in rng.integers(200, VOCABULARY_SIZE, n)]


def write_vocabulary(path: Path) -> None:
    """A vocabulary of BERT's size whose every word is one piece."""
    path.write_text("".join(f"{SPECIAL_TOKENS.get(k, f'w{k}')}\n" for k in range(VOCABULARY_SIZE)))


def unit_vectors(rng: np.random.Generator, *shape: int) -> Float[np.ndarray, ...]:
    """Random directions."""
    x = rng.standard_normal(shape, np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def embeddings(
    rng: np.random.Generator, lengths: Int[np.ndarray, " n"], slots: int
) -> Float[np.ndarray, "n slots {HIDDEN_SIZE}"]:
    """Unit vectors [n, slots, d], zero at padding."""
    x = np.zeros((len(lengths), slots, HIDDEN_SIZE), np.float32)
    real = np.arange(slots) < lengths[:, None]
    x[real] = unit_vectors(rng, int(real.sum()), HIDDEN_SIZE)
    return x


def ragged(rng: np.random.Generator, counts: Int[np.ndarray, " n"]) -> Ragged:
    """Unit vectors of many examples end to end."""
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Ragged(unit_vectors(rng, int(offsets[-1]), HIDDEN_SIZE), offsets)


def training_batch(rng: np.random.Generator, size: int, vocab_size: int, feature_dim: int) -> dict[str, np.ndarray]:
    """A batch as `aladin_jax.data.pipeline` gives it."""
    caption_len, label_len, region_len = caption_lengths(rng, size), label_lengths(rng, size), region_lengths(rng, size)

    def ids(lengths: np.ndarray, slots: int) -> np.ndarray:
        return np.where(np.arange(slots) < lengths[:, None], rng.integers(1, vocab_size, (size, slots)), 0)

    features = rng.standard_normal((size, MAX_REGIONS, feature_dim), np.float32)
    features[np.arange(MAX_REGIONS) >= region_len[:, None]] = 0
    return {
        "caption_ids": ids(caption_len, MAX_CAPTION_LEN).astype(np.int32),
        "caption_len": caption_len,
        "label_ids": ids(label_len, MAX_LABELS_LEN).astype(np.int32),
        "label_len": label_len,
        "region_features": features,
        "region_len": region_len,
    }
