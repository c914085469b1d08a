"""The model behind an index: what it is, how its inputs are cut, and a fingerprint that tells it from any other."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aladin_jax import configuration, model_folder, sharding
from aladin_jax.data.tokenization import CaptionTokenizer, check_vocabulary, read_vocabulary
from aladin_jax.encoding import Encoder
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.scores import similarity
from aladin_jax.search.query_encoder import QueryEncoder
from aladin_jax.training import checkpoint

MAX_LENGTH = 512


@dataclasses.dataclass(frozen=True)
class Settings:
    """How inputs are cut and scores made; the defaults are the original's.

    Attributes:
        max_caption_len: tokens kept of a caption.
        max_labels_len: tokens kept of an image's tags.
        max_regions: regions kept of an image.
        dtype: number format of the model's dense layers.
        pooling: of alignment scores, see `similarity.alignment_scores`.
        measure: of matching scores, see `similarity.matching_scores`.
    """

    max_caption_len: int = 50
    max_labels_len: int = 50
    max_regions: int = 34
    dtype: str = "float32"
    pooling: similarity.Pooling = "MrSw"
    measure: similarity.Measure = "dot"

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str) -> Settings:
        """Builds settings from the fields given; the others keep their defaults.

        Raises:
            ValueError: a field is unknown or impossible.
        """
        unknown = values.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise ValueError(f"{source}: unknown field {min(unknown)!r}")
        made = dataclasses.replace(cls(), **values)
        for name in ("max_caption_len", "max_labels_len", "max_regions"):
            value = getattr(made, name)
            if type(value) is not int or not 3 <= value <= MAX_LENGTH:
                raise ValueError(f"{source}: {name} is {value!r}; expected an integer from 3 to {MAX_LENGTH}")
        choices = {
            "dtype": tuple(configuration.DTYPES),
            "pooling": similarity.POOLINGS,
            "measure": similarity.MEASURES,
        }
        for name, allowed in choices.items():
            if getattr(made, name) not in allowed:
                raise ValueError(f"{source}: {name} is {getattr(made, name)!r}; choose one of {', '.join(allowed)}")
        return made

    @classmethod
    def of_checkpoint(cls, path: str | Path) -> Settings:
        """What a workdir was trained with; for a converted checkpoint, which does not say, the original's."""
        file = Path(path) / checkpoint.CONFIG_JSON
        if not file.is_file():
            return cls()
        config = model_folder.read_json(file)
        values: dict[str, Any] = {}
        for name in (field.name for field in dataclasses.fields(cls)):
            section = {"dtype": "model", "pooling": "", "measure": ""}.get(name, "data")
            fields = config.get(section) if section else config
            if not isinstance(fields, dict) or name not in fields:
                raise ValueError(f"{file}: there is no field {f'{section}.{name}' if section else name}")
            values[name] = fields[name]
        return cls.from_dict(values, str(file))


class SearchModel:
    """A model ready to encode: parameters on the devices, tokenizer, and encoders for building and for queries.

    Attributes:
        settings: how inputs are cut.
        config: of the model.
        params: float32, as read (NumPy).
        vocabulary: its vocab.txt.
        described: a few words on where the parameters are from.
        fingerprint: SHA-256 of all that determines vectors; see `fingerprint_of`.
        tokenizer: of the vocabulary.
        feature_dim: width of region vectors that the model takes.
    """

    def __init__(self, path: str | Path, settings: Settings):
        """Loads a converted checkpoint or a workdir.

        Raises:
            ValueError: there is none, it has no vocabulary, or the lengths are beyond its positions.
        """
        self.settings = settings
        self.params, self.config, vocabulary, self.described = checkpoint.load_initial(path)
        if vocabulary is None:
            raise ValueError(f"{path}: no vocab.txt in it; put the vocabulary of the model there")
        positions = self.config.backbone.max_position_embeddings
        for name in ("max_caption_len", "max_labels_len"):
            if getattr(settings, name) > positions:
                raise ValueError(f"{name} is {getattr(settings, name)}; the model has {positions} positions")
        self.vocabulary = vocabulary
        self.tokenizer = CaptionTokenizer(
            vocabulary, max_caption_len=settings.max_caption_len, max_labels_len=settings.max_labels_len
        )
        check_vocabulary(self.tokenizer, self.config.backbone.vocab_size)
        self.feature_dim = self.config.backbone.img_feature_dim
        self.fingerprint = fingerprint_of(self.params, self.config, vocabulary, settings)
        self._bound = aladin.bind(*self.config, dtype=configuration.DTYPES[settings.dtype])
        self._tokens = list(read_vocabulary(vocabulary))

    def encoder(self) -> tuple[Encoder, Params]:
        """An encoder of batches, on all devices, and the parameters to give it."""
        mesh = sharding.make_mesh()
        return self._encoder, jax.device_put(self.params, sharding.state_sharding(self.params, mesh))

    @functools.cached_property
    def _encoder(self) -> Encoder:
        """Kept, since it compiles what it runs."""
        return Encoder(
            self._bound,
            self.tokenizer,
            max_regions=self.settings.max_regions,
            mesh=sharding.make_mesh(),  # batches as evaluation's, so recalls are equal to the last rank
        )

    @functools.cached_property
    def query_encoder(self) -> QueryEncoder:
        """An encoder of single queries, on the first device."""
        params = jax.device_put(self.params, jax.devices()[0])
        return QueryEncoder(self._bound, params, self.tokenizer, self.settings.max_regions)

    def words(self, text: str) -> list[str]:
        """The word pieces of a text that take part in alignment (`similarity.word_side`)."""
        ids, lengths = self.tokenizer.captions([text])
        return [self._tokens[token] for token in ids[0, 1 : max(int(lengths[0]) - 2, 1)]]


def fingerprint_of(params: Params, config: model_folder.ModelConfig, vocabulary: Path, settings: Settings) -> str:
    """SHA-256 of all that determines an image's and a caption's vectors.

    Parameters, sizes, vocabulary and the lengths that inputs are cut to; not dropout, which encoding does not use, and
    not how scores are made of vectors.
    """
    sizes = {name: dataclasses.asdict(part) for name, part in config._asdict().items()}
    sizes = {
        name: {field: value for field, value in part.items() if "dropout" not in field} for name, part in sizes.items()
    }
    cut = {field: value for field, value in dataclasses.asdict(settings).items() if field not in ("pooling", "measure")}
    digest = hashlib.sha256(json.dumps([sizes, cut], sort_keys=True).encode())
    digest.update(vocabulary.read_bytes())
    for name, leaf in sorted(model_folder.flatten(params).items()):
        array = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{name}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()
