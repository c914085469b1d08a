"""Captions and features of one's own as what records are built of."""

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from numpy.typing import DTypeLike

from aladin_jax.errors import DataError, shown
from aladin_jax.image_names import NameIndex
from convert.importing.arrays import NpyFiles, NpzFiles
from convert.importing.bottom_up import BottomUpTsv
from convert.importing.caption_files import Captions
from convert.importing.captions import CaptionedImage, Images
from convert.importing.oscar import OscarPt, OscarTsv, VinvlReader
from convert.importing.predictions import DetectorTsv
from convert.importing.recognise import recognise_features
from convert.importing.regions import read_class_names
from convert.raw.detections import Detections, require_finite
from convert.raw.region_reader import RegionReader

_WITH_CLASS_NAMES = ("npz", "npy", "bottom_up_tsv")
_WITH_LABELS = ("oscar_pt", "oscar_tsv")


def open_features(
    feature_format: str | None, paths: Sequence[Path], labels: Sequence[Path] = (), class_names: Path | None = None
) -> RegionReader:
    """Opens features as a user names them.

    Args:
        feature_format: one of `FEATURE_FORMATS`; None for what the first path is recognised as.
        paths: files, or one folder.
        labels: files with the classes, for Oscar's formats.
        class_names: a file with the names of classes that are given by number.

    Raises:
        DataError: a file is missing or damaged, or an option does not belong to the format.
    """
    kind, first = recognise_features(paths[0], feature_format)
    paths = [first, *paths[1:]]
    if labels and kind not in _WITH_LABELS:
        raise DataError(f"--labels is for {' and '.join(_WITH_LABELS)}, not for {kind}")
    if class_names and kind not in _WITH_CLASS_NAMES:
        raise DataError(f"--class_names is for {', '.join(_WITH_CLASS_NAMES)}, not for {kind}")
    names = read_class_names(class_names) if class_names else None
    if kind in ("npz", "npy", "vinvl") and len(paths) > 1:
        raise DataError(f"{len(paths)} paths of features, but {kind} is one", path=paths[1])
    return {
        "npz": lambda: NpzFiles(first, names),
        "npy": lambda: NpyFiles(first, names),
        "bottom_up_tsv": lambda: BottomUpTsv(paths, names),
        "oscar_pt": lambda: OscarPt(paths, labels),
        "oscar_tsv": lambda: OscarTsv(paths, labels),
        "vinvl": lambda: VinvlReader(first),
        "predictions": lambda: DetectorTsv(paths),
    }[kind]()


class ImportedSource:
    """Images that have features, with their captions or without.

    Attributes:
        reader: of the features.
        captions: of these images.
        feature_dim: width of a region, the same for all images.
        notes: what the user should know, one line each.
    """

    def __init__(self, reader: RegionReader, captions: Captions, *, skip_missing: bool, numbered: bool = True):
        """Finds each image's features.

        Args:
            reader: of the features.
            captions: of the images.
            skip_missing: whether images without features are left out.
            numbered: whether features may be called by the number that captions have beside the picture's name.

        Raises:
            DataError: there are no images, or some have no features or might have several.
        """
        self.reader = reader
        if not captions.splits:
            raise DataError("no image in any split", "check the captions", path=captions.origins["train"])
        self.captions = Captions({split: {} for split in captions.splits}, captions.origins)
        self._name_of: dict[str, str] = {}
        self._own_notes: list[str] = []
        self._join(captions.splits, skip_missing, numbered)

    @property
    def notes(self) -> list[str]:
        """What the user should know."""
        return [*self.reader.notes, *self._own_notes]

    @functools.cached_property
    def feature_dim(self) -> int:
        """Width of the first image's regions, box encoding included."""
        for name in self._name_of.values():
            regions = self.reader.detections(name).regions
            if len(regions):
                return regions.shape[1]
        raise DataError("nothing was detected in any of the images", path=self.reader.path)

    def names(self) -> list[str]:
        """What the features of the images are called, in the order of the records."""
        return list(self._name_of.values())

    def detections(self, image: str, dtype: DTypeLike) -> Detections:
        """Reads one image.

        Raises:
            DataError: it is damaged, of another width than the others, or too large for float16.
        """
        regions, tags = self.reader.detections(self._name_of[image])
        where = {"path": self.reader.path, "image": image}
        if len(regions) and regions.shape[1] != self.feature_dim:
            raise DataError(
                f"regions have {regions.shape[1]} numbers, those of the first image {self.feature_dim}",
                "take all features from one detector",
                **where,
            )
        return Detections(require_finite(regions, dtype, **where), tags)

    def _join(self, splits: Mapping[str, Images], skip_missing: bool, numbered: bool) -> None:
        """Finds the features of every image, and says how."""
        names = NameIndex(self.reader.names())
        image_of: dict[str, str] = {}
        ways: Counter[str] = Counter()
        examples: dict[str, str] = {}
        for split, images in splits.items():
            path, kept = self.captions.origins[split], self.captions.splits[split]
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
        there = next(iter(self.reader.names()))
        raise DataError(
            f"{counted}, this one first, have no features in {self.reader.path} (sought as {sought}; there is "
            f"for instance {there})",
            "take features made for these captions, or pass --skip_missing to leave the images out",
            path=self.captions.origins[split],
            image=first.id,
        )
