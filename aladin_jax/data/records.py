"""Random access to a prepared data set: one record an image, with its regions, tags and captions."""

import collections
import functools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from aladin_jax.data.dataset import PREPARE_AGAIN, Dataset, Record, open_dataset
from aladin_jax.errors import DataError, first_few, first_line, shown
from aladin_jax.untrusted import check_image_id, check_text, read_lines


class Split:
    """One split of a prepared data set.

    What the (image, caption) pairs are is known from the data set's metadata, without reading a record. Pickles as
    its folder and name, so that reader processes open the files themselves.

    Attributes:
        name: the split's name.
        ids: the images' ids, in record order.
        caption_counts: how many captions each image has, [i].
        first_pairs: index of each image's first pair, and the number of pairs last, [i + 1].
        feature_dim: width of a region vector.
    """

    name: str
    ids: list[str]
    caption_counts: Int64[np.ndarray, "i"]
    first_pairs: Int64[np.ndarray, "i+1"]
    feature_dim: int

    def __init__(self, dataset: Dataset, name: str, feature_dim: int | None = None):
        """Opens a split.

        Args:
            dataset: what `open_dataset` gives.
            name: the split, such as "train".
            feature_dim: the width of region vectors that the model takes; None takes any.

        Raises:
            DataError: no such split, metadata that is missing or disagrees with the records, another `feature_dim`.
        """
        directory = dataset.folder
        self.directory, self.name = directory, name
        if name not in dataset.splits:
            raise DataError(f"no split {name!r}", f"there are {', '.join(sorted(dataset.splits))}", path=directory)
        self.ids, self.caption_counts, self.feature_dim = _split_metadata(dataset, name)
        self.first_pairs = np.concatenate([[0], np.cumsum(self.caption_counts)])
        if feature_dim is not None and feature_dim != self.feature_dim:
            raise DataError(
                f"regions have {self.feature_dim} features, the model takes {feature_dim}",
                f"prepare data of that width with python -m convert.coco_ir, or start from a model (init_from) for "
                f"{self.feature_dim}",
                path=directory,
            )
        self._dataset, self._source = dataset, dataset.source(name)
        if len(self._source) != len(self.ids):
            raise DataError(
                f"{len(self._source)} records in {name}, metadata.json lists {len(self.ids)}",
                PREPARE_AGAIN,
                path=directory,
            )

    def __reduce__(self):
        """Pickles how to open the split, not the open files."""
        return _reopen, (self.directory, self.name)

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return len(self.ids)

    @property
    def num_pairs(self) -> int:
        """How many (image, caption) pairs the split has: what an epoch visits."""
        return int(self.first_pairs[-1])

    @functools.cached_property
    def index_of_id(self) -> dict[str, int]:
        """The record of each image id."""
        return {image_id: index for index, image_id in enumerate(self.ids)}

    def images_of_pairs(self, pairs: Int64[np.ndarray, "p"]) -> Int64[np.ndarray, "p"]:
        """The image of each pair; pair `first_pairs[i] + k` is image i with its caption k."""
        return np.searchsorted(self.first_pairs, pairs, side="right") - 1

    def read(self, index: int) -> Record:
        """Reads one image.

        Raises:
            DataError: the record is not what the metadata says, or has no region.
        """
        try:
            record = self._dataset.record(self._source[index])
        except Exception as error:  # damaged files end in errors of many kinds
            problem = f"{self.name} record {index} cannot be read ({first_line(error)})"
            raise DataError(problem, PREPARE_AGAIN, path=self.directory, image=self.ids[index]) from error
        found = (record.id, len(record.captions), record.regions.shape[-1])
        expected = (self.ids[index], int(self.caption_counts[index]), self.feature_dim)
        where = f"{self.name} record {index}"
        if found != expected:
            raise DataError(
                f"{where} has (id, captions, features) {found}, metadata.json says {expected}",
                PREPARE_AGAIN,
                path=self.directory,
            )
        if record.caption_ids and len(record.caption_ids) != len(record.captions):
            problem = f"{where} has {len(record.captions)} captions and {len(record.caption_ids)} ids of captions"
            raise DataError(problem, PREPARE_AGAIN, path=self.directory, image=record.id)
        if not len(record.regions):
            raise DataError(f"{where} has no region", PREPARE_AGAIN, path=self.directory, image=record.id)
        return record

    def picture(self, index: int) -> tuple[bytes | None, Float[np.ndarray, "r 4"] | None]:
        """An image's picture file and its boxes, see `Dataset.picture`; mostly a data set has neither."""
        return self._dataset.picture(self._source[index]) if self._dataset.has_pictures else (None, None)

    def require_captions(self, images: Int64[np.ndarray, "i"] | None = None, use: str = "evaluated") -> None:
        """Checks that there is any caption.

        Args:
            images: of these records; None for all.
            use: what cannot be done without.

        Raises:
            DataError: there is none.
        """
        counts = self.caption_counts if images is None else self.caption_counts[images]
        if not counts.any():
            problem = f"split {self.name} has no captions"
            raise DataError(problem, f"it can be searched, not {use}", path=self.directory)

    def select(self, image_ids: Sequence[str]) -> Int64[np.ndarray, "i"]:
        """The records of the given ids, in the given order.

        Raises:
            DataError: ids that the split lacks, or an id given twice.
        """
        unknown = [image_id for image_id in image_ids if image_id not in self.index_of_id]
        if unknown:
            raise DataError(
                f"{len(unknown)} of {len(image_ids)} image ids are not in {self.name}: {first_few(unknown)}",
                "remove them from the keys file, or name the split they are of",
                path=self.directory,
            )
        repeated = [image_id for image_id, times in collections.Counter(image_ids).items() if times > 1]
        if repeated:
            raise DataError(f"{len(repeated)} image ids come more than once: {first_few(repeated)}", "keep one of each")
        return np.array([self.index_of_id[image_id] for image_id in image_ids], np.int64)


class GivenRecords(Split):
    """Records that are in memory already, as a split."""

    def __init__(self, records: Iterable[Record], feature_dim: int):
        """Takes records, each checked.

        Raises:
            DataError: naming the record that is none, has no region, or has regions of another width or not finite.
        """
        if isinstance(records, Record):
            raise DataError("images is one record", "give a list: [record]")
        self._records = list(records)
        for number, record in enumerate(self._records):
            _check_record(record, feature_dim, f"record {number}")
        self.name, self.directory, self.feature_dim = "given", Path(), feature_dim
        self.ids = [record.id for record in self._records]
        self.caption_counts = np.array([len(record.captions) for record in self._records], np.int64)
        self.first_pairs = np.concatenate([[0], np.cumsum(self.caption_counts)])

    def __reduce__(self):
        return GivenRecords, (self._records, self.feature_dim)

    def read(self, index: int) -> Record:
        """One of the records."""
        return self._records[index]


def _check_record(record: object, feature_dim: int, name: str) -> None:
    if not isinstance(record, Record):
        raise DataError(f"{name} is {shown(record)}", "give an aladin_jax.data.records.Record")
    regions = record.regions
    if not isinstance(regions, np.ndarray) or regions.ndim != 2 or regions.dtype.kind != "f":
        found = f"{regions.dtype}{list(regions.shape)}" if isinstance(regions, np.ndarray) else shown(regions)
        raise DataError(f"{name}: regions is {found}, expected float32[regions, {feature_dim}]")
    if regions.shape[1] != feature_dim:
        raise DataError(f"{name}: regions have {regions.shape[1]} features, the model takes {feature_dim}")
    with np.errstate(over="ignore"):
        finite = np.isfinite(regions.astype(np.float32)).all()
    if not len(regions) or not finite:
        raise DataError(f"{name}: regions must be at least one, and finite in float32")
    for tag in record.tags:
        check_text(tag, f"a tag of {name}")


class Splits(Mapping[str, Split]):
    """The splits of a data set by name, each opened when it is asked for."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset

    def __getitem__(self, name: str) -> Split:
        """Opens a split; its records are read one by one.

        Raises:
            DataError: there is no such split, or its files are damaged.
        """
        return Split(self._dataset, name)

    def __contains__(self, name: object) -> bool:
        return name in self._dataset.splits

    def __iter__(self) -> Iterator[str]:
        return iter(self._dataset.splits)

    def __len__(self) -> int:
        return len(self._dataset.splits)


def open_splits(path: str | Path) -> Splits:
    """Opens a prepared data set, for reading.

    Example:
        split = aladin_jax.open_dataset("data/coco")["test"]
        record = split.read(0)  # .id, .regions [r, f], .tags, .captions

    Args:
        path: `--output` of ``python -m convert.coco_ir``, ``convert.features`` or ``demo``.

    Raises:
        DataError: there is none, or several, or it is damaged.
    """
    return Splits(open_dataset(path))


def read_image_keys(path: str | os.PathLike[str]) -> list[str]:
    """Reads `*_img_keys*.tsv`: the image ids of an evaluation, one a line.

    The original evaluates images in this file's order, whatever the order of the captions: the `test` examples of
    golden/e2e/examples.npz follow test_img_keys_1k.tsv. Without a keys file the order is that of the captions.

    Raises:
        DataError: a line is not an image id, an id comes twice, or there is none.
    """
    path = Path(path)
    rows: dict[str, int] = {}
    for row, line in enumerate(read_lines(path)):
        image = check_image_id(line, path=path, row=row)
        if image in rows:
            raise DataError(f"row {rows[image]} is this image too", "keep one of them", path=path, row=row, image=image)
        rows[image] = row
    if not rows:
        raise DataError("no image id in it", "write one a line", path=path)
    return list(rows)


def _reopen(directory: Path, name: str) -> Split:
    return Split(open_dataset(directory), name)


def _split_metadata(dataset: Dataset, name: str) -> tuple[list[Any], np.ndarray, int]:
    """The ids, caption counts and feature width that a builder recorded for a split."""
    directory, metadata = dataset.folder, dataset.metadata
    try:
        about = metadata["splits"][name]
        ids, caption_counts = list(about["ids"]), np.array(list(about["caption_counts"]), np.int64)
        feature_dim = int(metadata["feature_dim"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:  # not JSON, or of other values
        problem = f"metadata.json does not describe split {name!r} ({type(error).__name__}: {first_line(error, 120)})"
        raise DataError(problem, PREPARE_AGAIN, path=directory) from error
    if len(ids) != len(caption_counts):
        problem = f"metadata.json has {len(ids)} ids but {len(caption_counts)} caption counts for {name}"
        raise DataError(problem, PREPARE_AGAIN, path=directory)
    return ids, caption_counts, feature_dim
