"""What a detector found in an image, and how VinVL's and Oscar's files say it."""

import base64
import binascii
import re
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num
from numpy.typing import DTypeLike

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, check_text, decode, parse_json

FEATURE_DIM = 2054  # of a VinVL region: 2048 detector features, then x1, y1, x2, y2, h, w scaled to [0, 1]

# What is more than this is taken for damage, before it is read. VinVL's detector gives at most 100 boxes; a float32
# takes 16/3 bytes of base64.
MAX_FEATURE_DIM = 1 << 14
MAX_REGIONS = 1000
MAX_ROW_BYTES = 4096 + MAX_REGIONS * (MAX_FEATURE_DIM + 16) * 16 // 3  # of features
MAX_DETECTIONS_BYTES = 16 << 20  # of a row of predictions.tsv


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


def decode_base64(content: bytes, what: str, **where: Any) -> bytes:
    """Bytes of a base64 text, also of one that Python 3 printed as bytes: b'...'.

    Raises:
        DataError: it is none.
    """
    if content[:2] in (b"b'", b'b"') and content[-1:] == content[1:2]:
        content = content[2:-1]
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise DataError(f"{what}: not base64 ({error})", COPY_AGAIN, **where) from error


def decode_array(
    content: bytes, what: str, dtype: np.dtype, count: int, width: int | None, **where: Any
) -> Num[np.ndarray, "n w"]:
    """[count, width] numbers of a base64 text; `width` None for as wide as it is.

    Raises:
        DataError: it is no base64, or of another size.
    """
    numbers = decode_base64(content, what, **where)
    if width is None:
        width = len(numbers) // max(1, count * dtype.itemsize)
    if len(numbers) != count * width * dtype.itemsize:
        problem = f"{what} takes {len(numbers):,} bytes, which {count} boxes of {dtype.name} do not"
        raise DataError(problem, COPY_AGAIN, **where)
    return np.frombuffer(numbers, dtype).reshape(count, width)


def decode_regions(
    count_text: bytes, content_text: bytes, feature_dim: int | None, **where: Any
) -> Float[np.ndarray, "r f"]:
    """The regions in a row of features.tsv, finite or not.

    Args:
        count_text: the number of boxes.
        content_text: base64 of float32.
        feature_dim: width of a region; None takes what it is.
        **where: what `DataError` takes to say where the row is.

    Raises:
        DataError: the fields are something else, or do not belong together.
    """
    if not re.fullmatch(rb"[0-9]{1,9}", count_text) or (count := int(count_text)) > MAX_REGIONS:
        raise DataError(f"box count {shown(count_text)}, expected 0 to {MAX_REGIONS}", COPY_AGAIN, **where)
    content = decode_base64(content_text, "features", **where)
    width = len(content) // (4 * max(count, 1)) if feature_dim is None else feature_dim
    _check_size(len(content), count, width, where)
    return np.frombuffer(content, "<f4").reshape(count, width)


def _check_size(size: int, count: int, feature_dim: int, where: dict[str, Any]) -> None:
    """Checks that a row's features are as many bytes as its box count says, and else says what is the likely cause."""
    if size == count * feature_dim * 4:
        return
    found = f"box count {count} with {size:,} bytes of features"
    boxes, rest = divmod(size, max(feature_dim, 1) * 4)
    if not rest:
        raise DataError(f"{found}, which are {boxes} boxes of {feature_dim} float32", COPY_AGAIN, **where)
    if count and not size % (count * 4):
        width = size // (count * 4)
        remedy = f"if all rows are so wide, pass --feature_dim {width}"
        raise DataError(f"{found}: {width} features a box, expected {feature_dim}", remedy, **where)
    raise DataError(f"{found}, expected {count * feature_dim * 4:,}", COPY_AGAIN, **where)


def require_finite(
    values: Num[np.ndarray, "r f"], dtype: DTypeLike = np.float32, *, what: str = "features", **where: Any
) -> Float[np.ndarray, "r f"]:
    """Gives numbers as a type, and refuses NaN, infinity, and what the type cannot hold.

    Raises:
        DataError: naming the first such region and column.
    """
    with np.errstate(over="ignore"):  # becomes infinite, and is refused below
        stored = values.astype(dtype)
    if np.isfinite(stored).all():
        return stored
    region, column = np.argwhere(~np.isfinite(stored))[0]
    value = float(values[region, column])
    found = f"{what}: {value:g} in region {region}, column {column}"
    if np.isfinite(value):
        raise DataError(f"{found} is too large for {np.dtype(dtype)}", "a larger type is needed", **where)
    raise DataError(found, "extract its features again or leave the image out", **where)
