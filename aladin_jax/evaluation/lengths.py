"""Recalls as a function of the lengths that inputs are cut to, each in a file of its own, so that a sweep can go on.

FOLDER/of.json          the model and the images that all are of
FOLDER/NAME.ranks.npz   every query's rank (see `query_ranks`); NAME has the three lengths
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from aladin_jax.checked import checked
from aladin_jax.config import LENGTHS, Settings
from aladin_jax.data.records import Split
from aladin_jax.encoding import Encoded
from aladin_jax.errors import DataError
from aladin_jax.evaluation.metrics import recalls_of_ranks
from aladin_jax.evaluation.protocol import images_sha256
from aladin_jax.evaluation.query_ranks import QueryRanks, ranks_file, read_query_ranks, write_query_ranks
from aladin_jax.evaluation.retrieval import Collection, Retrieval, read_collection
from aladin_jax.files import make_folder, read_json, write_json
from aladin_jax.pretrained import DTYPES, PretrainedModel


class Measured(NamedTuple):
    """What a model finds with inputs cut to some lengths.

    Attributes:
        lengths: in the order of `LENGTHS`.
        ranks: of all queries.
        report: of each head, as `metrics.recalls` has it.
    """

    lengths: tuple[int, int, int]
    ranks: QueryRanks
    report: Mapping[str, Mapping[str, float]]


def grid(settings: Settings, lengths: Mapping[str, Iterable[int] | None]) -> list[Settings]:
    """All combinations of lengths, those of an image one after the other; where none is given, the settings' own.

    Raises:
        ValueError: a length is impossible.
    """
    values = [sorted(set(lengths.get(name) or [getattr(settings, name)])) for name in LENGTHS]
    own = dataclasses.asdict(settings)
    return [
        checked(Settings, own | dict(zip(LENGTHS, (captions, *of_image), strict=True)), "the command line")
        for *of_image, captions in itertools.product(*values[1:], values[0])
    ]


def measure_lengths(model: PretrainedModel, split: Split, asked: Sequence[Settings], folder: Path) -> list[Measured]:
    """Measures the settings that the folder does not have yet; the images, and the captions, are encoded once a length.

    The captions' vectors of all lengths stay in memory: for 25,000 captions and BERT-base, 1 GB each.

    Args:
        model: to encode with.
        split: to find the images and captions of; all images have captions.
        asked: of `grid`.
        folder: for the files; made if it is missing.

    Raises:
        DataError: the folder has files of another model or of other images.
        ValueError: a length is beyond the model's positions; an image has no caption.
    """
    encoder_of = {settings: model.make_encoder(settings, dtype=DTYPES[settings.dtype]) for settings in asked}
    _claim(folder, model, split)
    missing = [settings for settings in asked if not ranks_file(_report(folder, settings)).is_file()]
    images = np.arange(split.num_images)
    captions: dict[int, tuple[Encoded, np.ndarray]] = {}
    collection: Collection | None = None
    with tqdm(total=len(asked), initial=len(asked) - len(missing), unit="setting", disable=None) as progress:
        for _, group in itertools.groupby(missing, lambda settings: (settings.max_labels_len, settings.max_regions)):
            of_images: Encoded | None = None
            for settings in group:
                encoder, params = encoder_of[settings], model.device_params
                of_images = of_images or encoder.encode_images(params, split, images)
                if settings.max_caption_len not in captions:
                    captions[settings.max_caption_len] = encoder.encode_captions(params, split, images)
                of_captions, image_of_caption = captions[settings.max_caption_len]
                collection = collection or read_collection(split, images, image_of_caption)
                scores = model.score(of_images, of_captions)
                retrievals = {head: Retrieval(values, collection) for head, values in scores._asdict().items()}
                write_query_ranks(retrievals, _report(folder, settings))
                progress.update()
    return [_read(folder, settings) for settings in asked]


def _read(folder: Path, settings: Settings) -> Measured:
    ranks = read_query_ranks(_report(folder, settings))
    report = {head: recalls_of_ranks(of_head) for head, of_head in ranks.heads.items()}
    return Measured((settings.max_caption_len, settings.max_labels_len, settings.max_regions), ranks, report)


def _report(folder: Path, settings: Settings) -> Path:
    """What `query_ranks` calls a report; there are its ranks alone."""
    return folder / f"{','.join(f'{name}={getattr(settings, name)}' for name in LENGTHS)}.json"


def _claim(folder: Path, model: PretrainedModel, split: Split) -> None:
    """Writes what the folder is of, or checks that it is of the same."""
    of = {
        "model": model.fingerprint,
        "pooling": model.settings.pooling,
        "measure": model.settings.measure,
        "split": split.name,
        "images_sha256": images_sha256(split, np.arange(split.num_images)),
    }
    make_folder(folder)
    file = folder / "of.json"
    if not file.is_file():
        write_json(file, of)
    elif other := [name for name, value in of.items() if read_json(file).get(name) != value]:
        raise DataError(f"holds a sweep of another {' and '.join(other)}", "name another --output", path=folder)
