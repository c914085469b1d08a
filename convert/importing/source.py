"""Captions and features of one's own as what records are built of."""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.errors import DataError, shown
from aladin_jax.image_names import NameIndex
from convert.importing.arrays import NpyFiles, NpzFiles
from convert.importing.bottom_up import BottomUpTsv
from convert.importing.caption_files import CaptionFiles, Uncaptioned
from convert.importing.captions import CaptionedImage, Images
from convert.importing.oscar import OscarPt, OscarTsv, VinvlReader
from convert.importing.predictions import DetectorTsv
from convert.importing.recognise import recognise_features
from convert.importing.regions import RegionReader, read_class_names
from convert.raw.detections import Detections, require_finite

_WITH_CLASS_NAMES = ("npz", "npy", "bottom_up_tsv")
_WITH_LABELS = ("oscar_pt", "oscar_tsv")


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """Features as a user names them.

    Attributes:
        format: one of `FEATURE_FORMATS`; None for what the first path is recognised as.
        paths: files, or one folder.
        labels: files with the classes, for Oscar's formats.
        class_names: a file with the names of classes that are given by number.
    """

    format: str | None
    paths: Sequence[Path]
    labels: Sequence[Path] = ()
    class_names: Path | None = None

    def open(self) -> RegionReader:
        """Opens them.

        Raises:
            DataError: a file is missing or damaged, or an option does not belong to the format.
        """
        kind, first = recognise_features(self.paths[0], self.format)
        paths = [first, *self.paths[1:]]
        if self.labels and kind not in _WITH_LABELS:
            raise DataError(f"--labels is for {' and '.join(_WITH_LABELS)}, not for {kind}")
        if self.class_names and kind not in _WITH_CLASS_NAMES:
            raise DataError(f"--class_names is for {', '.join(_WITH_CLASS_NAMES)}, not for {kind}")
        class_names = read_class_names(self.class_names) if self.class_names else None
        if kind in ("npz", "npy", "vinvl") and len(paths) > 1:
            raise DataError(f"{len(paths)} paths of features, but {kind} is one", path=paths[1])
        return {
            "npz": lambda: NpzFiles(first, class_names),
            "npy": lambda: NpyFiles(first, class_names),
            "bottom_up_tsv": lambda: BottomUpTsv(paths, class_names),
            "oscar_pt": lambda: OscarPt(paths, self.labels),
            "oscar_tsv": lambda: OscarTsv(paths, self.labels),
            "vinvl": lambda: VinvlReader(first),
            "predictions": lambda: DetectorTsv(paths),
        }[kind]()


class ImportedSource:
    """Images that have features, with their captions or without; a `record_builder.RecordSource`.

    Attributes:
        feature_dim: width of a region, the same for all images.
        notes: what the user should know, one line each.
    """

    def __init__(
        self, reader: RegionReader, captions: CaptionFiles | Uncaptioned, *, skip_missing: bool, numbered: bool = True
    ):
        """Reads the captions and finds each image's features.

        Args:
            reader: of the features; stays open as long as this is used.
            captions: of the images.
            skip_missing: whether images without features are left out.
            numbered: whether features may be called by the number that captions have beside the picture's name.

        Raises:
            DataError: captions are damaged, images have no features or might have several, or nothing was detected in
                any of them.
        """
        self._reader = reader
        self._captions = captions
        splits = captions.read()
        if not splits:
            raise DataError("no image in any split", "check the captions", path=captions.origin("train"))
        self._images: dict[str, Images] = {}
        self._name_of: dict[str, str] = {}
        self._own_notes: list[str] = []
        self._join(splits, skip_missing, numbered)

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        return [*self._reader.notes, *self._own_notes]

    @property
    def made(self) -> Mapping[str, Any] | None:
        """How the features were made, where their files say; see `FoundFiles.begin`."""
        return getattr(self._reader, "made", None)

    @property
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

    def caption_ids(self) -> dict[str, dict[str, list[str]]]:
        """What the files call the captions, by split and image id; images whose captions have no ids are left out."""
        return {
            split: {key: list(filter(None, image.caption_ids)) for key, image in images.items() if image.caption_ids}
            for split, images in self._images.items()
        }

    def origin(self, split: str) -> Path:
        """The split's captions."""
        return self._captions.origin(split)

    def check(self, captions: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Nothing is left to check: see the constructor."""

    @contextlib.contextmanager
    def open(self, dtype: np.dtype) -> Iterator["_StoredAs"]:
        """The features, which stay open afterwards."""
        yield _StoredAs(self._reader, self._name_of, self.feature_dim, dtype)

    def _join(self, splits: Mapping[str, Images], skip_missing: bool, numbered: bool) -> None:
        """Finds the features of every image, and says how."""
        names = NameIndex(self._reader.names())
        image_of: dict[str, str] = {}
        ways: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for split, images in splits.items():
            path = self.origin(split)
            kept = self._images[split] = {}
            for key, image in images.items():
                found = names.find(image.name, image.number if numbered else None, path=path, image=key)
                if found is None:
                    continue
                if (other := image_of.setdefault(found.name, key)) != key:
                    problem = f"its features, {shown(found.name)}, are found for image {other} too"
                    raise DataError(problem, "rename the features or the images", path=path, image=key)
                kept[key] = image
                self._name_of[key] = found.name
                ways[found.how] += 1
                examples.setdefault(found.how, f"{ascii(found.name)[1:-1]} for {ascii(image.name)[1:-1]}")
            if len(kept) < len(images):
                missing = [image for key, image in images.items() if key not in kept]
                self._miss(split, len(images), missing, skip_missing and bool(kept))
        self._own_notes += [
            f"features of {count:,} images are found {how}, such as {examples[how]}"
            for how, count in ways.most_common()
        ]

    def _miss(self, split: str, total: int, missing: list[CaptionedImage], skip: bool) -> None:
        first = missing[0]
        counted = f"{len(missing)} of {total} images in {split}"
        if skip:
            self._own_notes.append(f"left out {counted}, which have no features, such as {first.id}")
            return
        sought = " or ".join(dict.fromkeys(filter(None, (first.name, first.number))))
        there = next(iter(self._reader.names()))
        raise DataError(
            f"{counted}, this one first, have no features in {self._reader.path} (sought as {sought}; there is "
            f"for instance {there})",
            "take features made for these captions, or pass --skip_missing to leave the images out",
            path=self.origin(split),
            image=first.id,
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
        return Detections(require_finite(regions, self._dtype, **where), tags)
