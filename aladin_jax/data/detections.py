"""What a detector found in an image, and how VinVL's and Oscar's files say it."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from aladin_jax.data.errors import DataError, shown
from aladin_jax.data.untrusted import COPY_AGAIN, check_text, decode, parse_json

MAX_DETECTIONS_BYTES = 16 << 20
"""A longer row of detections is refused before it is read."""


class Detections(NamedTuple):
    """What the detector found in one image: region vectors [r, f] and, in the same order, their classes' names."""

    regions: Float[np.ndarray, "r f"]
    tags: list[str]


class DetectedObjects(NamedTuple):
    """A row of predictions.tsv.

    Attributes:
        classes: the objects' names.
        objects: as they are in the file.
        size: the picture's "image_w" and "image_h" as they are in the file; None where it does not say.
    """

    classes: list[str]
    objects: list[Any]
    size: tuple[Any, Any] | None


def parse_detections(content: bytes, **where: Any) -> DetectedObjects:
    """The detections in a row of predictions.tsv or of Oscar's label.tsv: JSON.

    Raises:
        DataError: it is something else; `where` says where.
    """
    found = parse_json(decode(content, **where), **where)
    # Some rows hold the image's size too, and their detections one level down.
    size = None
    objects = found
    if isinstance(found, dict):
        objects = found.get("objects")
        size = (found["image_w"], found["image_h"]) if {"image_w", "image_h"} <= found.keys() else None
    if not isinstance(objects, list):
        raise DataError(f"detections are {shown(objects)}, expected a list of objects", COPY_AGAIN, **where)
    names = [item.get("class") if isinstance(item, dict) else item for item in objects]
    classes = [check_text(name, f"class of object {position}", **where) for position, name in enumerate(names)]
    return DetectedObjects(classes, objects, size)
