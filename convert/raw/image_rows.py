"""The row of each image in one or several .tsv files, whichever of them it is in."""

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, check_name, parse_json, read_text
from convert.raw.indexed_tsv import IndexedTsv

Parse = Callable[[list[bytes], dict[str, Any]], Any]


class Place(NamedTuple):
    """Where an image's row is: the position of its file, and the row's number in it."""

    file: int
    row: int


class ImageRows:
    """Random access by image to the rows of .tsv files.

    An image that is in several rows, as after an extraction that was killed and went on, has the one that is whole.

    Attributes:
        path: of the first file.
        places: where the row of each image is.
        notes: what the user should know, one line each.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        parse: Parse,
        *,
        counts: Collection[int],
        max_bytes: int,
        index: Path | None = None,
    ):
        """Finds the rows.

        Args:
            paths: of the files, each with its .lineidx or without.
            parse: what a row's fields are read by; raises `DataError` if they are damaged.
            counts: how many fields a row may have.
            max_bytes: a longer row is refused.
            index: an imageid2idx.json, which says the images' rows of the only file; None reads the rows' ids.

        Raises:
            DataError: there is no such file, a row has no image id, two whole rows of one image differ, or the index
                is wrong.
        """
        self.path, self.notes = paths[0], list[str]()
        self._parse, self._counts, self._max_bytes = parse, counts, max_bytes
        if index is None:
            self._files = [IndexedTsv(path) for path in paths]
            self.places = self._find()
        else:
            image_of_row = _read_index(index)
            self._files = [IndexedTsv(self.path, image_of_row)]
            self.places = {image: Place(0, row) for row, image in image_of_row.items()}
            self._check_rows(index)
        if not self.places:
            raise DataError("no row in it", COPY_AGAIN, path=self.path)

    def where(self, name: str) -> dict[str, Any]:
        """What `DataError` takes to say where an image's row is.

        Raises:
            DataError: it has none.
        """
        if name not in self.places:
            raise DataError("no row of this image", "check that it is the right file", path=self.path, image=name)
        return self._at(self.places[name], name)

    def read(self, name: str) -> Any:
        """Reads an image's row.

        Raises:
            DataError: there is none, or it is damaged.
        """
        where = self.where(name)
        return self._parse(self._fields(self.places[name], name), where)

    def _check_rows(self, index: Path) -> None:
        """Checks that the file has the rows that an index names."""
        for image, (_, row) in self.places.items():
            if not 0 <= row < len(self._files[0]):
                by_lines = " by its .lineidx" if self.path.with_suffix(".lineidx").is_file() else ""
                raise DataError(
                    f"row {row}, but {self.path.name} has {len(self._files[0])} rows{by_lines}",
                    "one of them is cut short or another file's, copy all again",
                    path=index,
                    image=image,
                )

    def _at(self, place: Place, name: str) -> dict[str, Any]:
        return {"path": self._files[place.file].path, "row": place.row, "image": name}

    def _fields(self, place: Place, name: str) -> list[bytes]:
        return self._files[place.file].fields(place.row, name, counts=self._counts, max_bytes=self._max_bytes)

    def _find(self) -> dict[str, Place]:
        places: dict[str, list[Place]] = {}
        for number, file in enumerate(self._files):
            for row in range(len(file)):
                places.setdefault(file.name(row), []).append(Place(number, row))
        several = [image for image, some in places.items() if len(some) > 1]
        if several:
            more = sum(len(places[image]) - 1 for image in several)
            self.notes.append(
                f"{self.path}: {len(several)} images are in more than one row, such as {several[0]}: the whole row is "
                f"taken, {more} others that are cut short or the same are left out"
            )
        return {image: some[0] if len(some) == 1 else self._choose(image, some) for image, some in places.items()}

    def _choose(self, image: str, places: list[Place]) -> Place:
        """The first whole row of an image, which no other whole one may differ from; of damaged ones the first.

        A row that another one begins with was cut short, even if it can be read.
        """
        whole: dict[Place, bytes] = {}
        for place in places:
            with contextlib.suppress(DataError):
                fields = self._fields(place, image)
                self._parse(fields, self._at(place, image))
                whole[place] = b"\t".join(fields)
        if not whole:
            return places[0]
        first = max(whole, key=lambda place: len(whole[place]))
        for other, content in whole.items():
            if not whole[first].startswith(content):
                one, two = sorted((first, other))
                problem = f"row {one.row} of {self._files[one.file].path} is this image's too, and differs"
                raise DataError(problem, "keep one of them", **self._at(two, image))
        return first


def _read_index(path: Path) -> Mapping[int, str]:
    """The image of each row that an imageid2idx.json names."""
    rows = parse_json(read_text(path), path=path)
    if not isinstance(rows, dict):
        raise DataError(f"holds {shown(rows)}, expected an object from image ids to rows", COPY_AGAIN, path=path)
    images: dict[int, str] = {}
    for image, row in rows.items():
        check_name(image, "an image's id", path=path)
        if type(row) is not int:
            raise DataError(f"row is {shown(row)}, expected a whole number", COPY_AGAIN, path=path, image=image)
        if row in images:
            raise DataError(f"row {row} is image {images[row]} too", "make the file again", path=path, image=image)
        images[row] = image
    return images
