"""Checks on what a user's files hold, shared by their readers; each ends in a `DataError`.

`where` is what `DataError` takes to say where: path, row, image.
"""

import json
import re
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError, shown

MAX_TEXT_BYTES = 1 << 30
"""A file that is read whole may not be larger: captions and indices of COCO take some tens of MB."""

COPY_AGAIN = "the file is damaged or cut short, copy it again"

_IMAGE_ID = re.compile(r"(?!\.)[A-Za-z0-9_.-]{1,128}")


def require_file(path: Path, max_bytes: int | None = None) -> None:
    """Checks that there is a file, and that it is no larger than `max_bytes`."""
    if not path.is_file():
        raise DataError("no such file", "check the path: all files of the original's format are needed", path=path)
    if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
        raise DataError(f"{size:,} bytes, more than {max_bytes:,}", "check that it is the right file", path=path)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file."""
    require_file(path, MAX_TEXT_BYTES)
    return decode(path.read_bytes(), path=path)


def decode(content: bytes, **where: Any) -> str:
    """UTF-8 bytes as text, without a byte order mark."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", COPY_AGAIN, **where) from error


def parse_json(text: str, **where: Any) -> Any:
    """The value of a JSON text, in which no object has a key twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise DataError(f"{shown(key)} stands in one JSON object twice", "keep one of them", **where)
            values[key] = value
        return values

    try:
        return json.loads(text, object_pairs_hook=unique)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        cause = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:120]
        raise DataError(f"not JSON that can be read ({cause})", COPY_AGAIN, **where) from error


def check_text(value: object, what: str, **where: Any) -> str:
    """Checks that a value is a text that UTF-8 can hold; `what` names it."""
    if not isinstance(value, str):
        raise DataError(f"{what} is {shown(value)}, expected a text", "mend it and save the file again", **where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{what} has half of a surrogate pair", "mend it and save the file again", **where) from error
    return value


def check_image_id(value: object, **where: Any) -> str:
    """Checks that a value is an image's id: COCO's are digits, but others may have names."""
    if not isinstance(value, str) or not _IMAGE_ID.fullmatch(value):
        raise DataError(
            f"{shown(value)} is no image id", "ids are 1 to 128 of A-Z a-z 0-9 _ . -, no dot first", **where
        )
    return value
