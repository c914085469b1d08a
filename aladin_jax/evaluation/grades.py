"""People's grades of pairs, as a file: how well a caption describes an image.

A row is `query id, item id, grade`, parted by tabs or else commas: an image's id and a caption's, in either order, but
the same order in all rows. Flickr8k's ExpertAnnotations.txt is taken too: `image, caption, three grades from 1 to 4`,
where 1 says that the caption does not describe the image at all; the pair's grade is their mean less 1.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float

from aladin_jax.errors import DataError, shown
from aladin_jax.evaluation.retrieval import Collection
from aladin_jax.image_names import NameIndex
from aladin_jax.untrusted import read_lines

_LARGEST = 10.0  # 2^10 - 1 such gains, of grade 1, weigh as much as one of it
_EXPERTS = (1.0, 4.0)
_HEADINGS = ("grade", "label", "rating", "rel", "relevance", "score")  # of the last column, where the first row has any


class Grade(NamedTuple):
    """A row of the file, from 0, its two ids, and the grade, at least 0."""

    row: int
    ids: tuple[str, str]
    value: float


def read_grades(path: Path) -> list[Grade]:
    """Reads a file of grades.

    Raises:
        DataError: naming the row that is malformed; or there is none.
    """
    grades = []
    for row, line in enumerate(read_lines(path)):
        fields = [field.strip().strip('"') for field in line.split("\t" if "\t" in line else ",")]
        if row == 0 and fields[-1].lower() in _HEADINGS:
            continue
        if len(fields) not in (3, 5):
            problem = f"{len(fields)} fields ({shown(line)}), expected query id, item id, grade (or three grades)"
            raise DataError(problem, path=path, row=row)
        experts = len(fields) == 5
        values = [_number(field, *(_EXPERTS if experts else (0.0, _LARGEST)), path, row) for field in fields[2:]]
        grades.append(Grade(row, (fields[0], fields[1]), sum(values) / 3 - _EXPERTS[0] if experts else values[0]))
    if not any(grade.value > 0 for grade in grades):
        raise DataError("no pair has a grade above 0", "write a row for each pair: query id, item id, grade", path=path)
    return grades


def relevance_of_grades(grades: list[Grade], path: Path, collection: Collection) -> Float[np.ndarray, "i c"]:
    """The grades as the relevances of all pairs; those that nobody graded have 0.

    Images are found by their names too (see `image_names.NameIndex`), and captions as `NAME#K`. Rows of images or
    captions that are not among these are left out, which a warning says.

    Args:
        grades: of `read_grades`.
        path: where they are from.
        collection: the images and captions.

    Raises:
        DataError: no row is of these images and captions, or a pair has two rows.
    """
    images = {image: place for place, image in enumerate(collection.image_ids)}
    captions = {caption: place for place, caption in enumerate(collection.caption_ids)}
    names = NameIndex(collection.image_ids)

    def image_of(name: str, row: int) -> str:
        return found.name if (found := names.find(name, path=path, row=row)) else name

    def caption_of(name: str, row: int) -> str:
        stem, mark, number = name.rpartition("#")
        return name if name in captions or not mark else f"{image_of(stem, row)}#{number}"

    # COCO's numbers may be an image's and a caption's both, so the column decides.
    known = [sum(caption_of(grade.ids[column], grade.row) in captions for grade in grades) for column in (0, 1)]
    column = int(known[1] >= known[0])
    relevance = np.zeros((len(images), len(captions)), np.float32)
    row_of_pair: dict[tuple[int, int], int] = {}
    unknown = []
    for grade in grades:
        caption = captions.get(caption_of(grade.ids[column], grade.row))
        image = images.get(image_of(grade.ids[1 - column], grade.row))
        if caption is None or image is None:
            unknown.append(grade.ids[column if caption is None else 1 - column])
            continue
        if (other := row_of_pair.setdefault((image, caption), grade.row)) != grade.row:
            raise DataError(f"row {other} is of this pair too", "keep one of them", path=path, row=grade.row)
        relevance[image, caption] = grade.value
    told = f"{len(unknown):,} of {len(grades):,} rows are of images or captions that are not evaluated"
    told = f"{told}, such as {', '.join(shown(name) for name in dict.fromkeys(unknown[:3]))}"
    if not relevance.any():
        raise DataError(told if unknown else "no grade is above 0", "give the ids of the data set's files", path=path)
    if unknown:
        logging.warning("%s: %s", path, told)
    return relevance


def _number(field: str, least: float, most: float, path: Path, row: int) -> float:
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise DataError(f"grade {shown(field)}, expected a number from {least:g} to {most:g}", path=path, row=row)
    return value
