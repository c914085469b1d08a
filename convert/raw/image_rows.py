"""The row of each image in one or several .tsv files, whichever of them it is in."""

import array
import contextlib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aladin_jax.errors import DataError
from aladin_jax.untrusted import COPY_AGAIN
from convert.raw.indexed_tsv import IndexedTsv, open_tsv

Parse = Callable[[list[bytes], dict[str, Any]], Any]


class Place(NamedTuple):
    """Where an image's row is: the position of its file, and the row's number in it."""

    file: int
    row: int


class FoundRows(NamedTuple):
    """What is known after files were gone through; pickles, so that no other process has to.

    Attributes:
        offsets: where rows begin, of each file.
        places: of the images.
        notes: what the user should know, one line each.
    """

    offsets: "list[array.array[int]]"
    places: dict[str, Place]
    notes: list[str]


class ImageRows:
    """Random access by image to the rows of .tsv files. A context manager, open from the start.

    An image that is in several rows, as after an extraction that was killed and went on, has the one that is whole.

    Attributes:
        path: of the first file.
        found: which rows there are.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Parse,
        *,
        counts: Collection[int],
        max_bytes: int,
        found: FoundRows | None = None,
    ):
        """Opens the files and finds the rows.

        Args:
            paths: of the files, each with its .lineidx or without.
            parse: what a row's fields are read by; raises `DataError` if they are damaged.
            counts: how many fields a row may have.
            max_bytes: a longer row is refused.
            found: what another reader of these files found; None finds it.

        Raises:
            DataError: there is no such file, a row has no image id, or two whole rows of one image differ.
        """
        self.path = paths[0]
        self._parse, self._counts, self._max_bytes = parse, counts, max_bytes
        with contextlib.ExitStack() as stack:
            self._files = [
                stack.enter_context(IndexedTsv(path, {}, found.offsets[k]) if found else open_tsv(path))
                for k, path in enumerate(paths)
            ]
            self.found = found or self._find()
            if not self.found.places:
                raise DataError("no row in it", COPY_AGAIN, path=self.path)
            self._stack = stack.pop_all()

    def __enter__(self) -> "ImageRows":
        """Nothing to do: the files are open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._stack.close()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self.found.places.keys()

    def where(self, name: str) -> dict[str, Any]:
        """What `DataError` takes to say where an image's row is.

        Raises:
            DataError: it has none.
        """
        if name not in self.found.places:
            raise DataError("no row of this image", "check that it is the right file", path=self.path, image=name)
        file, row = self.found.places[name]
        return {"path": self._files[file].path, "row": row, "image": name}

    def read(self, name: str) -> Any:
        """Reads an image's row.

        Raises:
            DataError: there is none, or it is damaged.
        """
        where = self.where(name)
        return self._parse(self._fields(self.found.places[name], name), where)

    def _fields(self, place: Place, name: str) -> list[bytes]:
        return self._files[place.file].fields(place.row, name, counts=self._counts, max_bytes=self._max_bytes)

    def _find(self) -> FoundRows:
        places: dict[str, list[Place]] = {}
        for number, file in enumerate(self._files):
            for image, rows in file.rows_by_image().items():
                places.setdefault(image, []).extend(Place(number, row) for row in rows)
        several = [image for image, some in places.items() if len(some) > 1]
        chosen = {image: some[0] for image, some in places.items()}
        chosen |= {image: self._choose(image, places[image]) for image in several}
        notes = []
        if several:
            more = sum(len(places[image]) - 1 for image in several)
            notes = [
                f"{self.path}: {len(several)} images are in more than one row, such as {several[0]}: the whole row is "
                f"taken, {more} others that are cut short or the same are left out"
            ]
        return FoundRows([file.offsets for file in self._files], chosen, notes)

    def _choose(self, image: str, places: list[Place]) -> Place:
        """The first whole row of an image, which no other whole one may differ from; of damaged ones the first.

        A row that another one begins with was cut short, even if it can be read.
        """
        whole: dict[Place, bytes] = {}
        for place in places:
            where = {"path": self._files[place.file].path, "row": place.row, "image": image}
            with contextlib.suppress(DataError):
                fields = self._fields(place, image)
                self._parse(fields, where)
                whole[place] = b"\t".join(fields)
        if not whole:
            return places[0]
        first = max(whole, key=lambda place: len(whole[place]))
        for other, content in whole.items():
            if not whole[first].startswith(content):
                one, two = sorted((first, other))
                raise DataError(
                    f"row {one.row} of {self._files[one.file].path} is this image's too, and differs",
                    "keep one of them",
                    path=self._files[two.file].path,
                    row=two.row,
                    image=image,
                )
        return first
