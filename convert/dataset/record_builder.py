"""Builds the records that training and evaluation read, one an image, from whatever knows captions and regions.

The data set is called `coco_ir` whatever it was made from, so that all that reads it stays the same. TFDS opens it.
"""

import contextlib
import dataclasses
import fcntl
import functools
import itertools
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from aladin_jax.data.dataset import Dataset
from aladin_jax.errors import DataError
from aladin_jax.files import write_json
from convert.dataset import made_from
from convert.dataset.record_writer import FILE_FORMAT, RecordSource, Shard, record_features, write_shard, write_shards
from convert.importing.captions import CaptionedImage, Images

NAME = "coco_ir"
VERSION = "1.0.0"

_CONFIG = "default"
_INFO_FILE = "dataset_info.json"  # TFDS takes a folder for a data set if this is there; it is written last

# About 150 MB of VinVL's regions: TFDS advises 100 MB and more, and a worker takes one file at a time.
IMAGES_PER_FILE = 500


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare_records` says at its end.

    Attributes:
        folder: what `tfds.builder_from_directory` opens.
        was_there: whether it was complete already, so that nothing was done.
        same: whether it is known to be made from what it would be made from now.
        splits: images, captions and images skipped, by split.
        num_bytes: of the folder's files.
    """

    folder: Path
    was_there: bool
    same: bool
    splits: dict[str, tuple[int, int, int]]
    num_bytes: int

    def __str__(self) -> str:
        """A table of the splits, then where they are."""
        lines = [f"{'split':8} {'images':>8} {'captions':>9} {'skipped (no detections)':>24}"]
        lines += [f"{name:8} {i:8,} {c:9,} {s:24,}" for name, (i, c, s) in self.splits.items()]
        unknown = "" if self.same else ", and does not say what it was made from"
        state = f"is there already{unknown} (--overwrite makes it anew)" if self.was_there else "is ready"
        return "\n".join([*lines, f"{self.num_bytes:,} bytes; the data set {state}: {self.folder}"])


def data_set_folder(output: str | os.PathLike[str]) -> Path:
    """Where `prepare_records` puts the data set in an output folder."""
    return Path(output) / NAME / _CONFIG / VERSION


def prepare_records(
    feature_dim: int,
    open_source: Callable[[], RecordSource],
    output: str | os.PathLike[str],
    *,
    made_of: Mapping[str, Any] | None = None,
    float16: bool = False,
    overwrite: bool = False,
    num_workers: int = 1,
    beam_options: Any = None,
) -> Prepared:
    """Builds the data set unless it is there: records in the order of the captions, of images with any region.

    May be killed at any time and run again: until all is written, the data set has another name, under which it is
    removed by the next run.

    Args:
        feature_dim: width of a region.
        open_source: gives what to build from, after checking all that can be checked without reading the features; is
            not called if the data set is there.
        output: folder for the data set, which will be `coco_ir/default/1.0.0` in it.
        made_of: what it is made from, from `made_from.describe`; kept in it, and held against one that is there.
        float16: whether to store regions in half the space.
        overwrite: whether to remove a data set that is there first.
        num_workers: processes that write.
        beam_options: `PipelineOptions` to write with Apache Beam instead.

    Raises:
        DataError: a file is not what it should be, or what is there is something else or being written.
    """
    folder = data_set_folder(output)
    dtype = np.dtype(np.float16 if float16 else np.float32)
    with _alone(folder):
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
            logging.warning("%s: removed, left by a run that was killed", leftover)
            shutil.rmtree(leftover)
        was_there = folder.exists() and not overwrite
        same = was_there and _check_there(folder, feature_dim, dtype, made_of)
        if not was_there:
            source = open_source()
            if folder.exists():
                (folder / _INFO_FILE).unlink(missing_ok=True)  # killed halfway, the rest does not open as a data set
                shutil.rmtree(folder)
            with _unfinished(folder) as place:
                if made_of is not None:
                    write_json(place / made_from.MADE_FROM, made_of)
                _write(place, source, dtype, num_workers, beam_options)
    splits = {
        split: (len(about["ids"]), sum(about["caption_counts"]), about["skipped"])
        for split, about in Dataset(folder).metadata["splits"].items()
    }
    return Prepared(folder, was_there, same, splits, sum(file.stat().st_size for file in folder.iterdir()))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing the same data set; a killed process's lock goes with it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".{folder.name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError("another process is writing it", "wait for it to end", path=folder) from error
        yield


@contextlib.contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name at the end; if the block fails, nothing is left of it."""
    place = folder.with_name(f"incomplete.{os.getpid()}_{folder.name}")
    place.mkdir()
    try:
        yield place
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _check_there(folder: Path, feature_dim: int, dtype: np.dtype, made_of: Mapping[str, Any] | None) -> bool:
    """Whether what is there is known to be made of the same; refuses what is known to be something else."""
    if not (folder / _INFO_FILE).exists():
        raise DataError("there, but not a data set", "remove it or pass --overwrite", path=folder)
    same = made_of is not None and made_from.check(folder, made_of)
    stored = Dataset(folder)
    if (stored.feature_dim, stored.dtype) != (feature_dim, dtype):
        raise DataError(
            f"there already, with {stored.feature_dim} features a region as {stored.dtype}, "
            f"not {feature_dim} as {dtype}",
            "pass --overwrite to replace it, or write to another folder",
            path=folder,
        )
    return same


def _write(place: Path, source: RecordSource, dtype: np.dtype, num_workers: int, beam_options: Any) -> None:
    """Writes the records of all splits, then what TFDS wants to know of them, and metadata."""
    captions, feature_dim = source.captions, source.feature_dim
    templates = {
        split: tfds.core.ShardedFileTemplate(
            data_dir=epath.Path(place), dataset_name=NAME, split=split, filetype_suffix=FILE_FORMAT.file_suffix
        )
        for split in captions.splits
    }
    shards = {split: _shards(templates[split], list(images.values())) for split, images in captions.splits.items()}
    every = list(itertools.chain(*shards.values()))
    write = functools.partial(write_shard, source.read, feature_dim, dtype)
    if beam_options:
        from convert.dataset.record_beam import write_shards_with_beam

        written = write_shards_with_beam(write, every, beam_options)
    else:
        written = write_shards(write, every, num_workers)
    ids_of = dict(zip((shard.path for shard in every), written, strict=True))
    metadata: dict[str, Any] = {"feature_dim": feature_dim} | ({"features": dict(source.made)} if source.made else {})
    metadata["splits"] = {}
    splits = []
    for split, images in captions.splits.items():
        ids_of_file = [ids_of[shard.path] for shard in shards[split]]
        metadata["splits"][split] = _describe_split(split, images, ids_of_file, captions.origins[split])
        num_bytes = sum(Path(shard.path).stat().st_size for shard in shards[split])
        lengths = [len(ids) for ids in ids_of_file]
        splits.append(tfds.core.SplitInfo(split, lengths, num_bytes, filename_template=templates[split]))
    info = tfds.core.DatasetInfo(
        builder=DatasetIdentity(NAME, tfds.core.Version(VERSION), str(place), __name__, _CONFIG),
        description="Region features, detected classes and captions of images.",
        features=record_features(feature_dim, dtype),
        disable_shuffling=True,  # the original's order, which its unshuffled batches and evaluation follow
        metadata=tfds.core.MetadataDict(metadata),
        split_dict=tfds.core.SplitDict(splits),
    )
    info.set_file_format(FILE_FORMAT)
    info.write_to_directory(place)


def _shards(template: tfds.core.ShardedFileTemplate, images: list[CaptionedImage]) -> list[Shard]:
    """What the files of a split are to hold: about as many images each."""
    count = math.ceil(len(images) / IMAGES_PER_FILE)
    bounds = itertools.pairwise(len(images) * k // count for k in range(count + 1))
    paths = template.sharded_filepaths(count)
    return [Shard(str(path), images[a:b]) for path, (a, b) in zip(paths, bounds, strict=True)]


def _describe_split(split: str, images: Images, ids_of_file: list[list[str]], origin: Path) -> dict[str, Any]:
    """The metadata of a split: images without any region are counted."""
    ids = list(itertools.chain(*ids_of_file))
    if not ids:
        remedy = "check that the features belong to these captions"
        raise DataError("nothing was detected in any of its images", remedy, path=origin)
    if skipped := len(images) - len(ids):
        logging.warning("%s: skipped %d of %d images without detections", split, skipped, len(images))
    return {"ids": ids, "caption_counts": [len(images[image].captions) for image in ids], "skipped": skipped}
