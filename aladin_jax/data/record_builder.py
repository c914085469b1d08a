"""Builds the records that training and evaluation read, one an image, from whatever knows captions and regions.

The data set is called `coco_ir` whatever it was made from, so that all that reads it stays the same.
"""

import contextlib
import dataclasses
import fcntl
import functools
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from aladin_jax.data.detections import Detections
from aladin_jax.data.errors import DataError

NAME = "coco_ir"
VERSION = tfds.core.Version("1.0.0")

_CONFIG = "default"
_INFO_FILE = "dataset_info.json"  # TFDS takes a folder for a data set if this is there; it writes it last

# TFDS's writer keeps a split that outgrows memory in 1000 files by ranges of a 128-bit key, each of which it then sorts
# in memory. Small whole numbers as keys would all fall into the first of them, so they are spread: over a fifth of the
# range, which for COCO is 200 files of about 150 MB, few enough to be open at once.
_KEY_RANGE = 2**128 // 5


class ImageReader(Protocol):
    """Random access to what a detector found in the images."""

    def detections(self, image: str) -> Detections:
        """Reads one image; no regions where nothing was detected.

        Raises:
            DataError: the image is not there or is damaged.
        """
        ...


class RecordSource(Protocol):
    """What a data set is made of."""

    def captions(self) -> Mapping[str, Mapping[str, list[str]]]:
        """Captions by split and image id, in the order that the records will have.

        Raises:
            DataError: a file is missing or damaged.
        """
        ...

    def origin(self, split: str) -> Path:
        """The file that a message about a split names."""
        ...

    def check(self, captions: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Checks all that can be checked without reading the features: seconds, where building takes long.

        Raises:
            DataError: a file is missing or wrong, or files do not belong together.
        """
        ...

    def open(self, dtype: np.dtype) -> contextlib.AbstractContextManager[ImageReader]:
        """Opens the regions, which are to be of a type, float32 or float16."""
        ...


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a source's images as records in the order of its captions; those without any region are counted."""

    name = NAME
    VERSION = VERSION
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (TFDS declares it so)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=_CONFIG)]  # noqa: RUF012
    # Nothing is downloaded. TFDS would look for checksums with importlib_resources, which it does not install.
    url_infos = None

    def __init__(self, *, source: RecordSource | None, feature_dim: int, float16: bool = False, **kwargs: Any):
        """Reads nothing yet.

        Args:
            source: what to build from; not needed to read what is built.
            feature_dim: width of a region.
            float16: whether to store regions in half the space.
            **kwargs: as every TFDS builder takes; `data_dir` is where the data set is written.

        Raises:
            DataError: the data set is there already, with another width or type of regions.
        """
        self._source = source
        self._feature_dim = feature_dim
        self._dtype = np.dtype(np.float16 if float16 else np.float32)
        kwargs.setdefault("file_format", tfds.core.FileFormat.ARRAY_RECORD)
        super().__init__(**kwargs)
        # What TFDS makes the builder from again after pickling.
        self._original_state |= {"source": source, "feature_dim": feature_dim, "float16": float16}
        if (Path(self.data_path) / _INFO_FILE).exists():
            self._check_stored()

    def _check_stored(self) -> None:
        stored: Any = tfds.builder_from_directory(str(self.data_path)).info.features
        regions = stored["regions"]
        asked = (self._feature_dim, self._dtype)
        if (regions.shape[-1], regions.np_dtype) != asked:
            raise DataError(
                f"there already, with {regions.shape[-1]} features a region as {regions.np_dtype}, "
                f"not {asked[0]} as {asked[1]}",
                "pass --overwrite to replace it, or write to another folder",
                path=self.data_path,
            )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Region features, detected classes and captions of images.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    # As bytes: TFDS would store float16 in the four bytes of a float32, and is slower to read those.
                    "regions": tfds.features.Tensor(
                        shape=(None, self._feature_dim), dtype=self._dtype, encoding=tfds.features.Encoding.BYTES
                    ),
                    "tags": tfds.features.Sequence(tfds.features.Text()),
                    "captions": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
            disable_shuffling=True,  # the original's order, which its unshuffled batches and evaluation follow
            metadata=tfds.core.MetadataDict(),
        )

    @property
    def source(self) -> RecordSource:
        """What it builds from."""
        if self._source is None:
            raise ValueError(f"a source is needed to build {self.name}")
        return self._source

    @functools.cached_property
    def _captions(self) -> Mapping[str, Mapping[str, list[str]]]:
        return self.source.captions()

    def check_inputs(self) -> None:
        """Checks all that can be checked without reading the features.

        Raises:
            DataError: as `RecordSource.check`.
        """
        self.source.check(self._captions)

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        self.check_inputs()
        # TFDS's progress bars tell the time left only for splits whose size is known beforehand.
        expected = [
            tfds.core.SplitInfo(name=split, shard_lengths=[len(images)], num_bytes=0)
            for split, images in self._captions.items()
        ]
        self.info.set_splits(tfds.core.SplitDict(expected))
        super()._download_and_prepare(dl_manager, download_config)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in self._captions}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        captions = self._captions[split]
        counts: dict[str, int] = {}
        with self.source.open(self._dtype) as images:
            for position, (image, sentences) in enumerate(captions.items()):
                regions, tags = images.detections(image)
                if not len(regions):
                    continue
                counts[image] = len(sentences)
                key = _KEY_RANGE * position // len(captions)
                yield key, {"id": image, "regions": regions, "tags": tags, "captions": sentences}
        if not counts:
            remedy = "check that the features belong to these captions"
            raise DataError("nothing was detected in any of its images", remedy, path=self.source.origin(split))
        skipped = len(captions) - len(counts)
        if skipped:
            logging.warning("%s: skipped %d of %d images without detections", split, skipped, len(captions))
        metadata: Any = self.info.metadata
        metadata["feature_dim"] = self._feature_dim
        metadata.setdefault("splits", {})[split] = {
            "ids": list(counts),
            "caption_counts": list(counts.values()),
            "skipped": skipped,
        }


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What `prepare_records` says at its end.

    Attributes:
        folder: what `tfds.builder_from_directory` opens.
        was_there: whether it was complete already, so that nothing was done.
        splits: images, captions and images skipped, by split.
        num_bytes: of the folder's files.
    """

    folder: Path
    was_there: bool
    splits: dict[str, tuple[int, int, int]]
    num_bytes: int

    def __str__(self) -> str:
        """A table of the splits, then where they are."""
        lines = [f"{'split':8} {'images':>8} {'captions':>9} {'skipped (no detections)':>24}"]
        lines += [f"{name:8} {i:8,} {c:9,} {s:24,}" for name, (i, c, s) in self.splits.items()]
        state = "is there already (--overwrite makes it anew)" if self.was_there else "is ready"
        return "\n".join([*lines, f"{self.num_bytes:,} bytes; the data set {state}: {self.folder}"])


def data_set_folder(output: str | os.PathLike[str]) -> Path:
    """Where `prepare_records` puts the data set in an output folder."""
    return Path(output) / NAME / _CONFIG / str(VERSION)


def prepare_records(
    make_builder: Callable[[str], RecordBuilder], output: str | os.PathLike[str], *, overwrite: bool = False
) -> Prepared:
    """Builds the data set unless it is there.

    May be killed at any time and run again: until all is written, the data set has another name, under which it is
    removed by the next run.

    Args:
        make_builder: the builder for a `data_dir`.
        output: folder for the data set, which will be `coco_ir/default/1.0.0` in it.
        overwrite: whether to remove a data set that is there first.

    Raises:
        DataError: a file is not what it should be, or what is there is something else or being written.
    """
    folder = data_set_folder(output)
    with _alone(folder):
        for leftover in folder.parent.glob(f"incomplete.*_{folder.name}"):
            _remove(leftover)
        if overwrite and folder.exists():
            with tempfile.TemporaryDirectory() as elsewhere:
                # Before anything is lost. The builder is given another place, since it minds what is at its own.
                make_builder(elsewhere).check_inputs()
            _remove(folder)
        was_there = folder.exists()
        if was_there and not (folder / _INFO_FILE).exists():
            raise DataError("there, but not a data set", "remove it or pass --overwrite", path=folder)
        builder = make_builder(os.fspath(output))
        # TFDS wants a folder for downloads, and prints that it downloads.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    return _describe(folder, was_there)


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


def _describe(folder: Path, was_there: bool) -> Prepared:
    metadata: Any = tfds.builder_from_directory(str(folder)).info.metadata
    splits = {
        split: (len(about["ids"]), sum(about["caption_counts"]), about["skipped"])
        for split, about in metadata["splits"].items()
    }
    num_bytes = sum(file.stat().st_size for file in folder.iterdir())
    return Prepared(folder, was_there, splits, num_bytes)
