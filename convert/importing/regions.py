"""From what a detector found, boxes in pixels, to a record's regions and tags."""

import abc
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from aladin_jax.data.box_encoding import BOX_DIM
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import check_text, read_lines
from convert.boxes import encode_boxes
from convert.raw.detections import MAX_FEATURE_DIM, MAX_REGIONS, MAX_ROW_BYTES, Detections, require_finite
from convert.raw.image_rows import ImageRows
from convert.raw.region_reader import RegionReader

_MAX_CLASSES = 1 << 16
_BACKGROUND = ("background", "bg")


class TsvReader(RegionReader):
    """What readers of .tsv files with a row an image have in common.

    Attributes:
        COUNTS: how many fields a row may have.
    """

    COUNTS: ClassVar[Collection[int]]

    def __init__(self, paths: Sequence[Path]):
        """Finds the rows of the files.

        Raises:
            DataError: as `ImageRows`.
        """
        super().__init__(paths[0])
        self._rows = ImageRows(paths, self._parse, counts=self.COUNTS, max_bytes=MAX_ROW_BYTES)
        self._names = self._rows.places
        self.note(*self._rows.notes)

    @abc.abstractmethod
    def _parse(self, fields: list[bytes], where: dict[str, Any]) -> Detections:
        """What a row's fields hold."""

    def detections(self, name: str) -> Detections:
        """Reads one row; see `RegionReader`."""
        return self._rows.read(name)


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
