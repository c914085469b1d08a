"""From what a detector found, boxes in pixels, to a record's regions and tags."""

import abc
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Num

from aladin_jax.data.box_encoding import BOX_DIM
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import check_text, read_lines
from convert.boxes import encode_boxes
from convert.raw.detections import MAX_FEATURE_DIM, MAX_REGIONS, MAX_ROW_BYTES, Detections, require_finite
from convert.raw.image_rows import ImageRows

_MAX_CLASSES = 1 << 16
_BACKGROUND = ("background", "bg")


@runtime_checkable
class RegionReader(Protocol):
    """Random access to the images of a file or folder of features. A context manager.

    Attributes:
        path: what a message names.
        notes: what the user should know of the files, one line each.
    """

    path: Path
    notes: list[str]

    def names(self) -> Collection[str]:
        """What the images are called there."""
        ...

    def detections(self, name: str) -> Detections:
        """Reads one image.

        Raises:
            DataError: naming the file, the row and the image.
        """
        ...

    def __enter__(self) -> "RegionReader":
        """Opens what stays open."""
        ...

    def __exit__(self, *_: object) -> None:
        """Closes it."""
        ...


class TsvReader(abc.ABC):
    """What readers of .tsv files with a row an image have in common; a `RegionReader`."""

    def __init__(self, paths: Sequence[Path], counts: Collection[int]):
        """Opens the files and finds the rows.

        Args:
            paths: the .tsv files.
            counts: how many fields a row may have.

        Raises:
            DataError: as `ImageRows`.
        """
        self.path = paths[0]
        self.notes: list[str] = []
        self._rows = ImageRows(paths, self._parse, counts=counts, max_bytes=MAX_ROW_BYTES)
        self.notes += self._rows.found.notes

    @abc.abstractmethod
    def _parse(self, fields: list[bytes], where: dict[str, Any]) -> Detections:
        """What a row's fields hold."""

    def __enter__(self) -> "TsvReader":
        """Nothing to do: the files are open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._rows.__exit__()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._rows.names()

    def detections(self, name: str) -> Detections:
        """Reads one row.

        Raises:
            DataError: it is damaged, or its numbers are impossible.
        """
        return self._rows.read(name)

    def note(self, line: str) -> None:
        """Adds what the user should know, once."""
        if line not in self.notes:
            self.notes.append(line)


class PixelRegions(NamedTuple):
    """What a detector found in one image.

    Attributes:
        features: [r, f].
        boxes: x1, y1, x2, y2 in pixels, [r, 4].
        classes: a name for each region, None for none; None for all where the detector gives none.
        scores: [r]; None where there are none.
        width: of the picture.
        height: of the picture.
    """

    features: Float[np.ndarray, "r f"]
    boxes: Num[np.ndarray, "r 4"]
    classes: Sequence[str | None] | None
    scores: Float[np.ndarray, "r"] | None
    width: int
    height: int


def to_detections(found: PixelRegions, **where: Any) -> Detections:
    """Makes a record's regions: features and the box's encoding, by falling score where there are scores.

    Training keeps an image's first regions (34 of VinVL's), so the order matters.

    Returns:
        Regions [r, f + 6], float32, and the classes in their order.

    Raises:
        DataError: arrays do not belong together, or a number is not finite or a box impossible.
    """
    count = len(found.features)
    if found.features.ndim != 2:
        raise DataError(f"features have shape {list(found.features.shape)}, expected [regions, width]", **where)
    if not count:
        return Detections(np.zeros((0, found.features.shape[1] + BOX_DIM), np.float32), [])
    if count > MAX_REGIONS or not 0 < found.features.shape[1] <= MAX_FEATURE_DIM:
        raise DataError(
            f"{count} regions of {found.features.shape[1]} features, expected at most {MAX_REGIONS} of "
            f"1 to {MAX_FEATURE_DIM}",
            **where,
        )
    others = {"boxes": found.boxes, "classes": found.classes, "scores": found.scores}
    for name, values in others.items():
        if values is not None and len(values) != count:
            raise DataError(f"{len(values)} {name} for {count} regions", "each region has one", **where)
    if found.boxes.shape[1:] != (4,):
        raise DataError(f"boxes have shape {list(found.boxes.shape)}, expected [regions, 4]", **where)
    require_finite(found.features, **where)
    boxes = encode_boxes(found.boxes, found.width, found.height, **where)
    regions = np.concatenate([found.features.astype(np.float32), boxes], 1)
    tags = [
        None if name is None else check_text(name, f"class of region {k}", **where)
        for k, name in enumerate(found.classes or [])
    ]
    if found.scores is None:
        return Detections(regions, [tag for tag in tags if tag is not None])
    if found.scores.ndim != 1:
        raise DataError(f"scores have shape {list(found.scores.shape)}, expected [regions]", **where)
    require_finite(found.scores[:, None], what="scores", **where)
    order = np.argsort(-found.scores.astype(np.float64), kind="stable")
    return Detections(regions[order], [tag for k in order if tags and (tag := tags[k]) is not None])


def read_class_names(path: Path) -> list[str]:
    """Reads a detector's class names, one a line, such as objects_vocab.txt: class 0 first.

    A line may have synonyms after a comma, as Visual Genome's list does: the first counts.

    Raises:
        DataError: there is no such file, or a line is blank.
    """
    lines = read_lines(path)
    if len(lines) > _MAX_CLASSES:
        raise DataError(f"{len(lines)} lines, expected at most {_MAX_CLASSES} classes", path=path)
    names = [line.split(",")[0].strip() for line in lines]
    for row, name in enumerate(names):
        if not name:
            raise DataError("a blank line, expected the name of a class", path=path, row=row)
    return names


def name_classes(
    numbers: Num[np.ndarray, "r"], names: Sequence[str | None] | None, *, background: bool = False, **where: Any
) -> list[str | None]:
    """The names of classes that are given by number.

    Args:
        numbers: of the regions.
        names: class 0 first, which may be the background.
        background: whether 0 is the background and 1 the first class, unless `names` begin with the background too.
        **where: what `DataError` takes to say where the numbers are from.

    Returns:
        A name for each region, None for the background.

    Raises:
        DataError: there are no names, or a number is not that of one.
    """
    if names is None:
        raise DataError("classes are numbers", "pass --class_names, a file with the detector's class names", **where)
    if background:
        names = [None, *(names[1:] if names[0] and names[0].strip("_").lower() in _BACKGROUND else names)]
    known = (numbers >= 0) & (numbers < len(names)) & (numbers == np.floor(numbers))
    if not known.all():
        position = int(np.argmin(known))
        raise DataError(
            f"class of region {position} is {shown(numbers[position].item())}, but there are {len(names)} class names",
            "take the list that belongs to the detector; its first line is class 0",
            **where,
        )
    return [names[int(number)] for number in numbers]
