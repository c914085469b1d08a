"""Captions and features of one's own as what records are built of."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from aladin_jax.errors import DataError
from convert.importing.arrays import NpyFiles, NpzFiles
from convert.importing.bottom_up import BottomUpTsv
from convert.importing.caption_files import CaptionFiles, Uncaptioned
from convert.importing.captions import CaptionedImage
from convert.importing.oscar import OscarPt, OscarTsv, VinvlReader
from convert.importing.regions import RegionReader, read_class_names, require_finite
from convert.raw.detections import Detections

FEATURE_FORMATS = ("npz", "npy", "bottom_up_tsv", "oscar_pt", "oscar_tsv", "vinvl")

_FOLDERS = {"npz": NpzFiles, "npy": NpyFiles}
_WITH_CLASS_NAMES = ("npz", "npy", "bottom_up_tsv")
_WITH_LABELS = {"oscar_pt": OscarPt, "oscar_tsv": OscarTsv}


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """Features as a user names them.

    Attributes:
        format: one of `FEATURE_FORMATS`.
        paths: files, or one folder.
        labels: files with the classes, for Oscar's formats.
        class_names: a file with the names of classes that are given by number.
    """

    format: str
    paths: Sequence[Path]
    labels: Sequence[Path] = ()
    class_names: Path | None = None

    def open(self) -> RegionReader:
        """Opens them.

        Raises:
            DataError: a file is missing or damaged, or an option does not belong to the format.
        """
        if self.labels and self.format not in _WITH_LABELS:
            raise DataError(f"--labels is for {' and '.join(_WITH_LABELS)}, not for {self.format}")
        if self.class_names and self.format not in _WITH_CLASS_NAMES:
            raise DataError(f"--class_names is for {', '.join(_WITH_CLASS_NAMES)}, not for {self.format}")
        class_names = read_class_names(self.class_names) if self.class_names else None
        if self.format == "bottom_up_tsv":
            return BottomUpTsv(self.paths, class_names)
        if self.format in _WITH_LABELS:
            return _WITH_LABELS[self.format](self.paths, self.labels)
        if len(self.paths) > 1:
            raise DataError(f"{len(self.paths)} paths of features, but {self.format} is one", path=self.paths[1])
        return (
            VinvlReader(self.paths[0]) if self.format == "vinvl" else _FOLDERS[self.format](self.paths[0], class_names)
        )


class ImportedSource:
    """Images that have both captions and features; a `record_builder.RecordSource`.

    Attributes:
        feature_dim: width of a region, the same for all images.
        notes: what the user should know, one line each.
    """

    def __init__(self, reader: RegionReader, captions: CaptionFiles | Uncaptioned, *, skip_missing: bool):
        """Reads the captions and finds each image's features.

        Args:
            reader: of the features; stays open as long as this is used.
            captions: of the images.
            skip_missing: whether images without features are left out.

        Raises:
            DataError: captions are damaged, images have no features, or nothing was detected in any of them.
        """
        self._reader = reader
        self._captions = captions
        splits = captions.read()
        if not splits:
            raise DataError("no image in any split", "check the captions", path=captions.origin("train"))
        self._kind = _kind_of_name(reader, [image for images in splits.values() for image in images.values()])
        self._images: dict[str, dict[str, CaptionedImage]] = {}
        self._own_notes = [f"features are found by {self._kind}"]
        names = reader.names()
        for split, images in splits.items():
            found = {key: image for key, image in images.items() if image.names.get(self._kind) in names}
            if len(found) < len(images):
                self._miss(split, images, found, skip_missing)
            self._images[split] = found
        self._name_of = {
            key: image.names[self._kind] for images in self._images.values() for key, image in images.items()
        }

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        return [*self._reader.notes, *self._own_notes]

    @functools.cached_property
    def feature_dim(self) -> int:
        """Width of the first image's regions, box encoding included."""
        for name in self._name_of.values():
            regions = self._reader.detections(name).regions
            if len(regions):
                return regions.shape[1]
        raise DataError("nothing was detected in any of the images", path=self._reader.path)

    def names(self) -> list[str]:
        """What the features of the images are called, in the order of the records."""
        return list(self._name_of.values())

    def captions(self) -> dict[str, dict[str, list[str]]]:
        """Captions by split and image id."""
        return {s: {key: image.captions for key, image in images.items()} for s, images in self._images.items()}

    def origin(self, split: str) -> Path:
        """The split's captions."""
        return self._captions.origin(split)

    def check(self, captions: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Nothing is left to check: see the constructor."""

    @contextlib.contextmanager
    def open(self, dtype: np.dtype) -> Iterator["_StoredAs"]:
        """The features, which stay open afterwards."""
        yield _StoredAs(self._reader, self._name_of, self.feature_dim, dtype)

    def _miss(
        self,
        split: str,
        images: Mapping[str, CaptionedImage],
        found: Mapping[str, CaptionedImage],
        skip_missing: bool,
    ) -> None:
        missing = [key for key in images if key not in found]
        counted = f"{len(missing)} of {len(images)} images in {split}"
        if skip_missing and found:
            self._own_notes.append(f"left out {counted}, which have no features, such as {missing[0]}")
            return
        sought = " or ".join(dict.fromkeys(images[missing[0]].names.values()))
        there = next(iter(self._reader.names()))
        raise DataError(
            f"{counted}, this one first, have no features in {self._reader.path} (sought as {sought}; there is "
            f"for instance {there})",
            "take features made for these captions, or pass --skip_missing to leave the images out",
            path=self.origin(split),
            image=missing[0],
        )


class _StoredAs:
    """Features by the images' ids, of the type that is stored."""

    def __init__(self, reader: RegionReader, name_of: Mapping[str, str], feature_dim: int, dtype: np.dtype):
        self._reader = reader
        self._name_of = name_of
        self._feature_dim = feature_dim
        self._dtype = dtype

    def detections(self, image: str) -> Detections:
        """Reads one image.

        Raises:
            DataError: it is damaged, of another width than the others, or too large for float16.
        """
        regions, tags = self._reader.detections(self._name_of[image])
        where = {"path": self._reader.path, "image": image}
        if len(regions) and regions.shape[1] != self._feature_dim:
            raise DataError(
                f"regions have {regions.shape[1]} numbers, those of the first image {self._feature_dim}",
                "take all features from one detector",
                **where,
            )
        return Detections(require_finite(regions, "features", self._dtype, **where), tags)


def _kind_of_name(reader: RegionReader, images: list[CaptionedImage]) -> str:
    """The kind of name by which most images have features."""
    names = reader.names()
    kinds = dict.fromkeys(kind for image in images for kind in image.names)
    found = {kind: sum(image.names.get(kind) in names for image in images) for kind in kinds}
    return max(found, key=lambda kind: found[kind])
