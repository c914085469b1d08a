"""Builds the records that training and evaluation read, one an image, from whatever knows captions and regions.

The data set is called `coco_ir` whatever it was made from, so that all that reads it stays the same.
"""

import contextlib
import dataclasses
import fcntl
import functools
import io
import itertools
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from aladin_jax.data.dataset import Dataset
from aladin_jax.errors import DataError
from convert.dataset import made_from
from convert.dataset.record_writer import (
    FILE_FORMAT,
    RecordSource,
    RecordWriter,
    Shard,
    record_features,
    write_shards,
)

NAME = "coco_ir"
VERSION = tfds.core.Version("1.0.0")

_CONFIG = "default"
_INFO_FILE = "dataset_info.json"  # TFDS takes a folder for a data set if this is there; it writes it last

# About 150 MB of VinVL's regions: TFDS advises 100 MB and more, and a worker takes one file at a time.
IMAGES_PER_FILE = 500


class RecordBuilder(FileReaderBuilder, skip_registration=True):
    """Writes a source's images as records in the order of its captions; those without any region are counted."""

    name = NAME
    VERSION = VERSION
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (TFDS declares it so)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=_CONFIG)]  # noqa: RUF012
    # Nothing is downloaded. TFDS would look for checksums with importlib_resources, which it does not install.
    url_infos = None

    def __init__(
        self,
        *,
        source: RecordSource,
        float16: bool = False,
        num_workers: int = 1,
        made: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        """Reads nothing yet.

        Args:
            source: what to build from.
            float16: whether to store regions in half the space.
            num_workers: processes that write; Beam's options decide instead, if the download configuration has any.
            made: how the features were made, if that is known: see `FoundFiles.begin`.
            **kwargs: as every TFDS builder takes; `data_dir` is where the data set is written.

        Raises:
            DataError: the data set is there already, with another width or type of regions.
        """
        self.source = source
        self._made = made
        self._feature_dim = source.feature_dim
        self._dtype = np.dtype(np.float16 if float16 else np.float32)
        self._num_workers = num_workers
        self.made_from: Mapping[str, Any] | None = None  # see `prepare_records`
        kwargs.setdefault("file_format", FILE_FORMAT)
        super().__init__(**kwargs)
        # What TFDS makes the builder from again after pickling.
        self._original_state |= {"source": source, "float16": float16, "num_workers": num_workers, "made": made}
        if (Path(self.data_path) / _INFO_FILE).exists():
            self._check_stored()

    def _check_stored(self) -> None:
        stored, asked = Dataset(Path(self.data_path)), (self._feature_dim, self._dtype)
        if (stored.feature_dim, stored.dtype) != asked:
            raise DataError(
                f"there already, with {stored.feature_dim} features a region as {stored.dtype}, "
                f"not {asked[0]} as {asked[1]}",
                "pass --overwrite to replace it, or write to another folder",
                path=self.data_path,
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Region features, detected classes and captions of images.",
            features=record_features(self._feature_dim, self._dtype),
            disable_shuffling=True,  # the original's order, which its unshuffled batches and evaluation follow
            metadata=tfds.core.MetadataDict(),
        )

    @functools.cached_property
    def _captions(self) -> Mapping[str, Mapping[str, list[str]]]:
        return self.source.captions()

    @functools.cached_property
    def _caption_ids(self) -> Mapping[str, Mapping[str, list[str]]]:
        return self.source.caption_ids()

    def check_inputs(self) -> None:
        """Checks all that can be checked without reading the features.

        Raises:
            DataError: as `RecordSource.check`.
        """
        self.source.check(self._captions)

    def _download_and_prepare(self, dl_manager: Any, download_config: tfds.download.DownloadConfig) -> None:
        del dl_manager  # nothing is downloaded
        self.check_inputs()
        if self.made_from is not None:
            made_from.keep(Path(self.data_path), self.made_from)
        shards_of = {split: self._shards(split, download_config.num_shards) for split in self._captions}
        shards = list(itertools.chain(*shards_of.values()))
        writer = RecordWriter(self.source, self._feature_dim, self._dtype)
        runner, options = download_config.beam_runner, download_config.beam_options
        if runner or options:
            from convert.dataset.record_beam import write_shards_with_beam

            written = write_shards_with_beam(writer, shards, runner, options)
        else:
            written = write_shards(writer, shards, self._num_workers)
        ids_of = dict(zip((shard.path for shard in shards), written, strict=True))
        splits = [self._split_info(split, [ids_of[shard.path] for shard in shards_of[split]]) for split in shards_of]
        self.info.set_splits(tfds.core.SplitDict(splits))

    def _shards(self, split: str, count: int | None) -> list[Shard]:
        """What the files of a split are to hold: about as many images each."""
        images = list(self._captions[split].items())
        caption_ids = self._caption_ids.get(split, {})
        count = count or math.ceil(len(images) / IMAGES_PER_FILE)
        paths = self._get_filename_template(split_name=split).sharded_filepaths(count)
        bounds = itertools.pairwise(len(images) * k // count for k in range(count + 1))
        return [
            Shard(str(path), dict(images[a:b]), {key: caption_ids[key] for key, _ in images[a:b] if key in caption_ids})
            for path, (a, b) in zip(paths, bounds, strict=True)
        ]

    def _split_info(self, split: str, ids_of_file: list[list[str]]) -> tfds.core.SplitInfo:
        """Describes what was written of a split: what TFDS wants to know, and metadata."""
        captions = self._captions[split]
        ids = list(itertools.chain(*ids_of_file))
        if not ids:
            remedy = "check that the features belong to these captions"
            raise DataError("nothing was detected in any of its images", remedy, path=self.source.origin(split))
        skipped = len(captions) - len(ids)
        if skipped:
            logging.warning("%s: skipped %d of %d images without detections", split, skipped, len(captions))
        metadata: Any = self.info.metadata
        metadata["feature_dim"] = self._feature_dim
        if self._made:
            metadata["features"] = dict(self._made)
        metadata.setdefault("splits", {})[split] = {
            "ids": ids,
            "caption_counts": [len(captions[image]) for image in ids],
            "skipped": skipped,
        }
        template = self._get_filename_template(split_name=split)
        files = template.sharded_filepaths(len(ids_of_file))
        return tfds.core.SplitInfo(
            name=split,
            shard_lengths=[len(some) for some in ids_of_file],
            num_bytes=sum(file.stat().length for file in files),
            filename_template=template,
        )


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
    return Path(output) / NAME / _CONFIG / str(VERSION)


def prepare_records(
    source: RecordSource,
    output: str | os.PathLike[str],
    *,
    made_of: Mapping[str, Any] | None = None,
    made: Mapping[str, Any] | None = None,
    float16: bool = False,
    overwrite: bool = False,
    num_workers: int = 1,
    beam_options: Any = None,
) -> Prepared:
    """Builds the data set unless it is there.

    May be killed at any time and run again: until all is written, the data set has another name, under which it is
    removed by the next run.

    Args:
        source: what to build from.
        output: folder for the data set, which will be `coco_ir/default/1.0.0` in it.
        made_of: what it is made from, from `made_from.describe`; kept in it, and held against one that is there.
        made: how the features were made; see `RecordBuilder`, as for the next.
        float16: whether to store regions in half the space.
        overwrite: whether to remove a data set that is there first.
        num_workers: processes that write.
        beam_options: `PipelineOptions` to write with Apache Beam.

    Raises:
        DataError: a file is not what it should be, or what is there is something else or being written.
    """
    folder = data_set_folder(output)
    make_builder = functools.partial(
        RecordBuilder,
        source=source,
        float16=float16,
        num_workers=num_workers,
        made=made,
    )
    with _alone(folder):
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
            _remove(leftover)
        if overwrite and folder.exists():
            with tempfile.TemporaryDirectory() as elsewhere:
                # Before anything is lost. The builder is given another place, since it minds what is at its own.
                make_builder(data_dir=elsewhere).check_inputs()
            _remove(folder)
        was_there = folder.exists()
        if was_there and not (folder / _INFO_FILE).exists():
            raise DataError("there, but not a data set", "remove it or pass --overwrite", path=folder)
        same = was_there and made_of is not None and made_from.check(folder, made_of)
        builder = make_builder(data_dir=os.fspath(output))
        builder.made_from = made_of
        # TFDS wants a folder for downloads, and prints that it downloads.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            config = tfds.download.DownloadConfig(beam_options=beam_options)
            builder.download_and_prepare(download_dir=downloads, download_config=config)
    return _describe(folder, was_there, same)


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


def _remove(folder: Path) -> None:
    """Removes a data set; killed halfway, it leaves a folder that does not open as one."""
    (folder / _INFO_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def _describe(folder: Path, was_there: bool, same: bool) -> Prepared:
    metadata = Dataset(folder).metadata
    splits = {
        split: (len(about["ids"]), sum(about["caption_counts"]), about["skipped"])
        for split, about in metadata["splits"].items()
    }
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return Prepared(folder, was_there, same, splits, num_bytes)
