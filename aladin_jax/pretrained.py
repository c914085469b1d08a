"""A trained model ready to use: its weights, tokenizer, encoding, scores.

Evaluation, search and `aladin_jax.load` use it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.typing import DTypeLike

from aladin_jax import config, model_folder, sharding
from aladin_jax.config import Settings
from aladin_jax.data.records import GivenRecords, Record, Split
from aladin_jax.data.tokenization import CaptionTokenizer, check_vocabulary_size
from aladin_jax.encoding import Encoded, Encoder, Scores, score_pairs
from aladin_jax.model_folder import ModelConfig
from aladin_jax.models import aladin, bert
from aladin_jax.models.aladin import Params
from aladin_jax.untrusted import check_text
from aladin_jax.weights import read_weights

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def require_vocabulary(vocabulary: Path | None, source: str | Path) -> Path:
    """Checks that a model came with its vocabulary.

    Raises:
        ValueError: it did not.
    """
    if vocabulary is None:
        raise ValueError(f"{source}: no vocab.txt in it; put the vocabulary of the model there")
    return vocabulary


def make_tokenizer(
    model_config: ModelConfig, vocabulary: Path | None, source: str | Path, settings: Settings
) -> CaptionTokenizer:
    """The tokenizer of a model's vocabulary, with the lengths of `settings`.

    Raises:
        ValueError: there is no vocabulary, it is not the model's, or the lengths are beyond the model's positions.
    """
    vocabulary = require_vocabulary(vocabulary, source)
    positions = model_config.backbone.max_position_embeddings
    lengths = {name: getattr(settings, name) for name in ("max_caption_len", "max_labels_len")}
    for name, length in lengths.items():
        if length > positions:
            raise ValueError(f"{name} is {length}; the model of {source} has {positions} positions")
    tokenizer = CaptionTokenizer(vocabulary, **lengths)
    check_vocabulary_size(tokenizer.vocab_size, model_config.backbone.vocab_size, vocabulary)
    return tokenizer


def cache_folder(named: str = "") -> Path:
    """Where is kept what can be computed again; ~/.cache/aladin_jax unless named."""
    return Path(named or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "aladin_jax")


def enable_compilation_cache(folder: str = "") -> None:
    """Keeps compiled programs on disk, so that the next start is quick; in `cache_folder`."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder(folder)))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def kernels_for(choice: config.Kernels, dtype: config.DType) -> bert.Kernels:
    """What runs the Transformer's layers here: `auto` takes the fused kernels on GPUs in bfloat16, XLA elsewhere.

    Raises:
        ValueError: the fused kernels are asked for where there is no GPU.
    """
    on_gpu = jax.default_backend() == "gpu"
    if choice == "auto":
        return "pallas" if on_gpu and dtype == "bfloat16" else "xla"
    if choice == "pallas" and not on_gpu:
        raise ValueError(f"model.kernels is 'pallas', for GPUs, but JAX runs on {jax.default_backend()}; take 'auto'")
    return choice


class PretrainedModel:
    """Encodes images and texts, each once, and scores all pairs with both heads.

    Attributes:
        settings: how inputs are cut and scores made.
        params: float32, as read (NumPy).
        config: of the model.
        vocabulary: its vocab.txt.
        described: a few words on where the weights are from.
        lineage: what they come from.
        step: of the run that they are of; None where they were not trained here.
        tokenizer: of the vocabulary.
        bound: a function from parameters to the Flax module, see `models.aladin.bind`.
        feature_dim: width of region vectors that the model takes.
        caption_ending: of the captions that it was trained on, which search gives to queries; None if not known.
    """

    def __init__(
        self, path: str | Path, settings: Settings | None = None, *, kernels: config.Kernels = "auto", fsdp: int = 1
    ):
        """Loads a converted checkpoint or a workdir; see `load`, and `kernels_for` and `sharding.make_mesh`."""
        self._path = path
        self.settings = Settings.of_model(path) if settings is None else settings
        weights = read_weights(path)
        self.params, self.config = weights.params, weights.config
        self.described, self.lineage, self.step = weights.described, weights.lineage, weights.step
        vocabulary = self.vocabulary = require_vocabulary(weights.vocabulary, path)
        self.tokenizer = make_tokenizer(self.config, vocabulary, path, self.settings)
        self.feature_dim = self.config.backbone.img_feature_dim
        self.caption_ending = model_folder.read_caption_ending(path)
        self._mesh = sharding.make_mesh(fsdp)
        self.bound = aladin.bind(
            *self.config,
            dtype=DTYPES[self.settings.dtype],
            kernels=kernels_for(kernels, self.settings.dtype),
            mesh=self._mesh,
        )

    def encode_images(self, images: Split | Iterable[Record]) -> Encoded:
        """Encodes images, batch by batch.

        Args:
            images: a split of a data set, or records: regions [r, f] float32, of which `settings.max_regions` are
                kept, and tags.

        Returns:
            `.vectors` [i, d] of the matching head, and `.parts`: unit vectors of all regions, end to end.

        Raises:
            ValueError: there is no image, or a record is not of the model's kind; the message names it.
        """
        if isinstance(images, Split):
            if images.feature_dim != self.feature_dim:
                raise ValueError(
                    f"{images.name}: regions have {images.feature_dim} features, the model takes {self.feature_dim}"
                )
            split = images
        else:
            split = GivenRecords(images, self.feature_dim)
        if not split.num_images:
            raise ValueError("there is no image to encode; give at least one")
        return self.encoder.encode_images(self.device_params, split, np.arange(split.num_images))

    def encode_texts(self, texts: Iterable[str]) -> Encoded:
        """Encodes texts, any number of them.

        Args:
            texts: such as captions; beyond `settings.max_caption_len` tokens they are cut, which a warning says.

        Returns:
            `.vectors` [c, d] of the matching head, and `.parts`: unit vectors of all words, end to end.

        Raises:
            ValueError: there is no text, one is empty or none at all; the message names it.
        """
        if isinstance(texts, str):
            raise ValueError("texts is one str; give a list: encode_texts([text])")
        texts = list(texts)
        if not texts:
            raise ValueError("there is no text to encode; give at least one")
        for number, text in enumerate(texts):
            if not check_text(text, f"text {number}").strip():
                raise ValueError(f"text {number} is empty; leave it out")
        ids, lengths = self.tokenizer.tokenize_captions(texts)
        full = int(np.count_nonzero(lengths == ids.shape[1]))
        if full:
            logging.warning(
                "%d of %d texts have %d tokens or more; what is beyond is cut", full, len(texts), len(ids[0])
            )
        return self.encoder.encode_tokens(self.device_params, ids, lengths, "texts")

    def score(self, images: Encoded, texts: Encoded) -> Scores:
        """Scores all pairs with both heads.

        Args:
            images: from `encode_images`.
            texts: from `encode_texts`.

        Returns:
            `.matching` and `.alignment`, [i, c] float32.
        """
        settings = self.settings
        return score_pairs(
            images, texts, pooling=settings.pooling, measure=settings.measure, dtype=DTYPES[settings.dtype]
        )

    @functools.cached_property
    def device_params(self) -> Params:
        """The parameters on all devices, as `encoder` takes them."""
        return jax.device_put(self.params, sharding.state_sharding(self.params, self._mesh))

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Of batches, on all devices; kept, since it compiles what it runs. Its unit vectors are float32."""
        return self.make_encoder(self.settings, dtype=jnp.float32)

    def make_encoder(self, settings: Settings, *, dtype: DTypeLike, batch_size: int | None = None) -> Encoder:
        """An encoder of inputs cut as `settings` say; batch size and number format as in `Encoder`.

        Raises:
            ValueError: the lengths are beyond the model's positions.
        """
        own = settings == self.settings
        tokenizer = self.tokenizer if own else make_tokenizer(self.config, self.vocabulary, self._path, settings)
        return Encoder(
            self.bound,
            tokenizer,
            max_regions=settings.max_regions,
            batch_size=batch_size,
            mesh=self._mesh,
            dtype=dtype,
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines an image's and a text's vectors.

        Parameters, sizes, vocabulary and the lengths that inputs are cut to; not dropout, which encoding does not use,
        and not how scores are made of vectors.
        """
        sizes = {
            name: {field: value for field, value in dataclasses.asdict(part).items() if "dropout" not in field}
            for name, part in self.config._asdict().items()
        }
        cut = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in ("pooling", "measure")}
        digest = hashlib.sha256(json.dumps([sizes, cut], sort_keys=True).encode())
        digest.update(self.vocabulary.read_bytes())
        for name, leaf in sorted(model_folder.flatten(self.params).items()):
            array = np.ascontiguousarray(leaf, np.float32)
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()


def load(path: str | Path, settings: Settings | None = None) -> PretrainedModel:
    """Loads a model that is ready to encode and to score.

    Example:
        model = aladin_jax.load("weights/aladin")
        images = model.encode_images(aladin_jax.open_dataset("data/coco")["test"])
        scores = model.score(images, model.encode_texts(["Two dogs on a red sofa."])).matching  # [i, 1]

    Args:
        path: a folder of `convert.checkpoint`, or the workdir of a run (its best checkpoint).
        settings: how inputs are cut and scores made; left out, as the workdir was trained, or the original's.

    Raises:
        ValueError: there is no such model, it has no vocabulary or is damaged; or the settings do not fit it.
    """
    return PretrainedModel(path, settings)
