"""Checks on what a user's files hold, shared by their readers; each ends in a `DataError`.

`where` is what `DataError` takes to say where: path, row, image.
"""

import codecs
import json
import re
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError, shown

MAX_TEXT_BYTES = 1 << 30
"""A file that is read whole may not be larger: captions and indices of COCO take some tens of MB."""

COPY_AGAIN = "the file is damaged or cut short, copy it again"

MAX_NAME_LENGTH = 512
"""Of an image, folders included."""

_IMAGE_ID = re.compile(r"(?![.~])[A-Za-z0-9_.~-]{1,128}")


def require_file(path: Path, max_bytes: int | None = None) -> None:
    """Checks that there is a file, and that it is no larger than `max_bytes`."""
    if not path.is_file():
        raise DataError("no such file", "check the path", path=path)
    if max_bytes is not None and (size := path.stat().st_size) > max_bytes:
        raise DataError(f"{size:,} bytes, more than {max_bytes:,}", "check that it is the right file", path=path)


def read_text(path: Path) -> str:
    """The text of a file, UTF-8 or UTF-16 with a byte order mark; line ends are those of the file."""
    require_file(path, MAX_TEXT_BYTES)
    return decode(path.read_bytes(), path=path)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, whichever system it is from; empty lines at its end are none.

    Other characters that Unicode counts as line ends are kept: captions hold them.
    """
    text = read_text(path)
    lines = re.split("\r?\n" if "\n" in text else "\r", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def decode(content: bytes, **where: Any) -> str:
    """The text of bytes: UTF-8, or what a byte order mark says, which is left out."""
    codec = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(codec)
    except UnicodeDecodeError as error:
        name = codec.removesuffix("-sig").upper()
        raise DataError(f"not {name} text (byte {error.start})", COPY_AGAIN, **where) from error


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


def check_name(value: object, what: str, **where: Any) -> str:
    """Checks that a value can be the name of an image: a line of text, with folders or without."""
    name = check_text(value, what, **where).strip()
    if not 0 < len(name) <= MAX_NAME_LENGTH or any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        problem = f"{what} is {shown(value)}, expected 1 to {MAX_NAME_LENGTH} letters and no control characters"
        raise DataError(problem, "mend it and save the file again", **where)
    return name


def check_image_id(value: object, **where: Any) -> str:
    """Checks that a value is an image's id, as `image_names.image_id` makes them."""
    if not isinstance(value, str) or not _IMAGE_ID.fullmatch(value):
        raise DataError(
            f"{shown(value)} is no image id", "ids are 1 to 128 of A-Z a-z 0-9 _ . - ~, no dot or ~ first", **where
        )
    return value
