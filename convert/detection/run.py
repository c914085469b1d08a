"""Goes through pictures with a detector, and keeps what it finds in files that a restart finds again."""

import json
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from aladin_jax.errors import DataError
from aladin_jax.files import whole_file, write_whole
from aladin_jax.image_names import image_id
from aladin_jax.model_folder import read_json
from aladin_jax.pictures import UnreadableError, read_picture
from convert.detection.picture_model import Prepared
from convert.importing.arrays import NpzFiles
from convert.importing.regions import PixelRegions
from convert.raw.detections import Detections
from convert.raw.region_reader import RegionReader

if TYPE_CHECKING:
    from convert.detection.extractor import Extractor

SETTINGS = "settings.json"
UNREADABLE = "unreadable.txt"

_BATCHES_WAITING = 4  # pictures of other shapes than the batch's that wait for their own, in batches


class FoundFiles(RegionReader):
    """What was found, one .npz a picture (docs/features.md), in a folder that also says by which settings.

    Files are called by the pictures' ids.

    Attributes:
        unreadable: pictures that could not be read, and why.
    """

    def __init__(self, folder: Path, pictures: Mapping[str, Path]):
        """Reads nothing yet.

        Args:
            folder: of the files, made if need be.
            pictures: paths by name, as `pictures.list_pictures` gives names.
        """
        super().__init__(folder)
        self._pictures = pictures
        self.unreadable: dict[str, str] = {}
        self._files: NpzFiles | None = None

    def names(self) -> Collection[str]:
        """Names of all pictures but those known to be unreadable, whether anything was found in them yet or not."""
        return [name for name in self._pictures if name not in self.unreadable]

    def detections(self, name: str) -> Detections:
        """Reads what was found in a picture; see `RegionReader`."""
        self._files = self._files or NpzFiles(self.path)
        return self._files.detections(image_id(name))

    def begin(self, made: Mapping[str, Any], *, overwrite: bool) -> None:
        """Makes the folder, or takes up one of an earlier run with the same settings.

        Args:
            made: all that decides what is found in a picture: "detector" or "encoder" with a checksum of its files,
                the detector's "threshold", and "max_regions".
            overwrite: whether to remove what was found with other settings.

        Raises:
            DataError: the folder is of other settings, or is something else.
        """
        told = self.path / SETTINGS
        now = self.made = dict(made)
        if self.path.exists() and any(self.path.iterdir()):
            if not told.is_file():
                raise DataError("there, but not of a detector's run", "choose another --output", path=self.path)
            before = read_json(told)
            other = [
                f"{name} was {before.get(name)}, is {now.get(name)}"
                for name in {**now, **before}
                if before.get(name) != now.get(name)
            ]
            if other and not overwrite:
                remedy = "pass --overwrite to detect anew, or choose another --output"
                raise DataError(f"made with other settings ({'; '.join(other)})", remedy, path=self.path)
            if other:
                for file in self.path.glob("*.npz"):
                    file.unlink()
        self.path.mkdir(parents=True, exist_ok=True)
        for file in self.path.glob(".*.tmp"):  # of a run that was killed
            file.unlink()
        write_whole(self.path / SETTINGS, json.dumps(now, indent=2).encode() + b"\n")

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those pictures that have no file yet, or have changed since."""
        times = {entry.name: entry.stat().st_mtime for entry in os.scandir(self.path)}
        return [
            name for name in names if times.get(f"{image_id(name)}.npz", -1.0) < self._pictures[name].stat().st_mtime
        ]

    def add(self, name: str, found: PixelRegions) -> None:
        """Writes what was found in a picture, complete or not at all."""
        with whole_file(self.path / f"{image_id(name)}.npz") as file:
            arrays: dict[str, Any] = {"features": found.features.astype(np.float32)}
            arrays |= {"boxes": found.boxes.astype(np.float32), "width": found.width, "height": found.height}
            if found.classes is not None and found.scores is not None:
                arrays |= {"classes": np.array(found.classes, np.str_), "scores": found.scores.astype(np.float32)}
            np.savez(file, **arrays)

    def set_unreadable(self, unreadable: Mapping[str, str]) -> None:
        """Writes the list of pictures that could not be read, with the causes."""
        self.unreadable = dict(unreadable)
        text = "".join(f"{cause}\n" for cause in unreadable.values())
        write_whole(self.path / UNREADABLE, text.encode("utf-8", "surrogateescape"))


def detect_pictures(
    extractor: "Extractor", pictures: Mapping[str, Path], names: list[str], files: FoundFiles, *, batch_size: int
) -> None:
    """Detects in pictures and adds what is found to `files`; those that cannot be read are listed there.

    Args:
        extractor: what makes the features.
        pictures: paths by name.
        names: of those to go through; those that have their file are passed over.
        files: begun.
        batch_size: pictures of one shape that are detected in at once.

    Raises:
        DataError: the detector's outputs are not those of its family.
    """
    unreadable: dict[str, str] = {}
    todo = files.missing(names)
    with tqdm(desc="detecting", total=len(names), initial=len(names) - len(todo), unit="picture", mininterval=1) as bar:
        for batch in _batches(_prepared(extractor, pictures, todo, unreadable, bar), batch_size):
            found_in = extractor.extract([prepared for _, prepared in batch])
            for (name, _), found in zip(batch, found_in, strict=True):
                files.add(name, found)
            bar.update(len(batch))
    files.set_unreadable(unreadable)


def _prepared(
    extractor: "Extractor", pictures: Mapping[str, Path], names: list[str], unreadable: dict[str, str], bar: tqdm
) -> Iterator[tuple[str, Prepared]]:
    for name in names:
        try:
            image = read_picture(pictures[name])
        except UnreadableError as error:
            unreadable[name] = str(error)
            bar.update()
            continue
        yield name, extractor.prepare(image)


def _batches(pictures: Iterable[tuple[str, Prepared]], batch_size: int) -> Iterator[list[tuple[str, Prepared]]]:
    """Gathers pictures of one shape; those of rarer shapes wait, but not without end."""
    waiting: defaultdict[tuple[int, ...], list[tuple[str, Prepared]]] = defaultdict(list)
    for name, prepared in pictures:
        waiting[prepared.shape].append((name, prepared))
        if len(waiting[prepared.shape]) == batch_size:
            yield waiting.pop(prepared.shape)
        elif sum(map(len, waiting.values())) > _BATCHES_WAITING * batch_size:
            yield waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
    yield from waiting.values()
