"""A collection whose embeddings are drawn, not encoded: of any size, and such that recall means something.

What an image shows is a point on a small sphere, and what a caption says is a point near its image's, nearer for some
captions than for others: so far both heads see the same, and a caption that fits other images better misleads both. A
region tells the image's point in one of 33 ways, a word the caption's in one of the same, and matching vectors tell
them with more noise. The constants are such that 5,000 images have about the recalls that are published for COCO's
5,000: text to image, the matching head R@1 51.3, R@5 79.2, R@10 87.5; the alignment head's are set near the entangled
VinVL's, R@1 58.1 and R@5 83.2. That both heads see the same point is why the better one's first ten are nearly always
among the other's first hundred: this collection measures time, and what depth costs in recall only roughly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from aladin_jax import model_folder
from aladin_jax.config import Settings
from aladin_jax.encoding import Encoded
from aladin_jax.models.aladin import init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.pretrained import PretrainedModel, load
from aladin_jax.scores.ragged import Ragged, offsets_of
from aladin_jax.search import index_files
from aladin_jax.search.index_files import Manifest, Segment
from benchmarks import workload

REGIONS = workload.MAX_REGIONS - 1  # that take part in alignment
SPHERE, APTNESS = 16, (0.6, 1.0)  # dimensions, and how far captions stray: from the least to the most
PART_NOISE, VECTOR_NOISE = 0.5, 0.75  # lengths of what is added to vectors of length 1
SEGMENT_IMAGES, PIECE_IMAGES = 10_000, 1_000
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class World:
    """Draws images and captions, a block at a time."""

    def __init__(self, seed: int, width: int):
        """Draws how regions, words and vectors tell a point of the sphere."""
        self._rng, self._width = np.random.default_rng(seed), width
        self._ways = self._noise((REGIONS, 1 + SPHERE, width), 1.0)
        self._vector_way = self._noise((SPHERE, width), 1.0)

    def images(self, count: int) -> tuple[Float[np.ndarray, "i p"], Ragged, Float[np.ndarray, "i d"]]:
        """Draws images: their points, regions and matching vectors."""
        points = _unit(self._rng.standard_normal((count, SPHERE), np.float32))
        regions = np.tensordot(_with_one(points), self._ways, (1, 1)).reshape(-1, self._width)
        regions = _unit(regions + self._noise(regions.shape, PART_NOISE))
        return points, Ragged(regions, np.arange(count + 1, dtype=np.int64) * REGIONS), self._vectors(points)

    def captions(self, points: Float[np.ndarray, "c p"]) -> tuple[Ragged, Float[np.ndarray, "c d"]]:
        """Draws a caption of each point: words and matching vectors."""
        lengths = workload.caption_lengths(self._rng, len(points)) - 3
        said = self._said(points)
        caption = np.repeat(np.arange(len(points)), lengths)
        ways = self._ways[self._rng.integers(0, REGIONS, len(caption))]
        words = np.einsum("wp,wpd->wd", _with_one(said)[caption], ways)
        words = _unit(words + self._noise(words.shape, PART_NOISE))
        return Ragged(words, offsets_of(lengths)), self._vectors(said)

    def vectors(self, images: int, captions: int) -> tuple[Float[np.ndarray, "i d"], Float[np.ndarray, "c d"]]:
        """Draws matching vectors alone: of images, and of captions of the first of them."""
        points = _unit(self._rng.standard_normal((images, SPHERE), np.float32))
        return self._vectors(points), self._vectors(self._said(points[:captions]))

    def text(self, words: int) -> str:
        """A text of random words, as many that `words` of its word pieces take part in alignment."""
        return " ".join(f"w{k}" for k in self._rng.integers(len(SPECIAL_TOKENS), BackboneConfig.vocab_size, words + 1))

    def _said(self, points: Float[np.ndarray, "c p"]) -> Float[np.ndarray, "c p"]:
        """What captions say of images' points: points near them."""
        strayed = self._rng.standard_normal(points.shape, np.float32) / np.float32(SPHERE**0.5)
        return _unit(points + self._rng.uniform(*APTNESS, (len(points), 1)).astype(np.float32) * strayed)

    def _vectors(self, points: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n d"]:
        vectors = points @ self._vector_way
        return _unit(vectors + self._noise(vectors.shape, VECTOR_NOISE))

    def _noise(self, shape: tuple[int, ...], length: float) -> np.ndarray:
        """Random vectors of about this length."""
        return self._rng.standard_normal(shape, np.float32) * np.float32(length / self._width**0.5)


def write_collection(
    path: Path,
    *,
    images: int,
    captions: int,
    width: int = workload.HIDDEN_SIZE,
    layers: int = 12,
    parts_dtype: str = "float16",
    segment_images: int = SEGMENT_IMAGES,
    seed: int = 0,
) -> None:
    """Writes an index of a drawn collection, with a model of random weights, in the format that `index` writes.

    Args:
        path: the index's folder.
        images: how many.
        captions: how many, of as many images spread evenly.
        width: of all vectors.
        layers: of the model's backbone.
        parts_dtype: number format of regions and words.
        segment_images: images of a segment, at most.
        seed: of everything.
    """
    path.mkdir(parents=True)
    settings = Settings()
    model = _write_model(path, width, layers, settings)
    world = World(seed, width)
    captioned = np.unique(np.linspace(0, images - 1, captions).astype(int))
    entries = []
    for start in range(0, images, segment_images):
        stop = min(start + segment_images, images)
        pieces = [
            _draw_piece(world, range(first, min(first + PIECE_IMAGES, stop)), captioned)
            for first in range(start, stop, PIECE_IMAGES)
        ]
        every = [(piece, np.ones(piece.image_table.num_rows, bool)) for piece in pieces]
        folder = path / f"segment-{len(entries) + 1:06d}"
        entries.append(index_files.write_segment(folder, every, parts_dtype))
    manifest = Manifest(
        generation=len(entries),
        fingerprint=model.fingerprint,
        model_source=model.described,
        settings=settings,
        width=width,
        feature_dim=model.feature_dim,
        parts_dtype=parts_dtype,
        segments=tuple(entries),
        identity="0" * 32,
    )
    index_files.write_manifest(path, manifest)


def _write_model(path: Path, width: int, layers: int, settings: Settings) -> PretrainedModel:
    backbone = BackboneConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=12 if width % 12 == 0 else 4,
        intermediate_size=4 * width,
    )
    config = model_folder.ModelConfig(backbone, MatchingHeadConfig())
    words = (f"w{k}" for k in range(len(SPECIAL_TOKENS), backbone.vocab_size))
    vocabulary = path / "vocab.txt"
    vocabulary.write_text("".join(f"{word}\n" for word in (*SPECIAL_TOKENS, *words)))
    model_folder.save_model_folder(
        path / index_files.MODEL, init_params(*config, seed=0), config, vocabulary, {}, caption_ending=None
    )
    vocabulary.unlink()
    return load(path / index_files.MODEL, settings)


def _draw_piece(world: World, rows: range, captioned: Int[np.ndarray, " c"]) -> Segment:
    """Some images and their captions, as a segment in memory."""
    points, regions, vectors = world.images(len(rows))
    own = captioned[(captioned >= rows.start) & (captioned < rows.stop)] - rows.start
    words, caption_vectors = world.captions(points[own])
    texts = [world.text(int(length)) for length in words.lengths]
    nothing: list[list[str]] = [[]] * len(rows)
    table = pa.table(
        {"id": [f"drawn-{row:07d}" for row in rows], "tags": nothing, "boxes": nothing, "file": [""] * len(rows)},
        schema=index_files.IMAGE_SCHEMA,
    )
    return Segment(
        Encoded(vectors, regions),
        Encoded(caption_vectors, words),
        table,
        pa.table({"image": own, "text": texts}, schema=index_files.CAPTION_SCHEMA),
        Ragged(np.zeros(0, np.uint8), np.zeros(len(rows) + 1, np.int64)),
    )


def _with_one(points: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n q"]:
    """Points and a 1, which stands for the way that they are told."""
    return np.concatenate([np.ones((len(points), 1), np.float32), points], axis=1)


def _unit(x: np.ndarray) -> np.ndarray:
    x /= np.sqrt(np.einsum("...d,...d->...", x, x))[..., None]
    return x
