"""The error that every reader of a user's files ends with."""

import os
from collections.abc import Sequence

LISTED = 5  # offenders that a message names


class DataError(ValueError):
    """A file is not what it should be.

    The message is one line: where (file, row, image), what was found, what to do.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        path: str | os.PathLike[str] | None = None,
        row: int | None = None,
        image: str | None = None,
    ):
        """Puts the line together.

        Args:
            problem: what was found, and what was expected.
            remedy: what to do about it.
            path: the file.
            row: of the file, counted from 0 as imageid2idx.json does; shown as a line number too, counted from 1.
            image: the image's id.
        """
        place = [os.fspath(path)] if path is not None else []
        if row is not None:
            place.append(f"row {row} (line {row + 1})")
        if image is not None:
            place.append(f"image {image}")
        text = f"{', '.join(place)}: {problem}" if place else problem
        super().__init__(f"{text}; {remedy}" if remedy else text)


def shown(value: object) -> str:
    """What a message says of a value out of a file: a short text or number as it is, of others the type alone."""
    if isinstance(value, bytes):
        value = value[:61].decode("latin-1")
    if isinstance(value, str):
        return ascii(value if len(value) <= 60 else value[:60]) + (" ..." if len(value) > 60 else "")
    if isinstance(value, int | float) and abs(value) < 1e30:
        return repr(value)
    return f"a value of type {type(value).__name__}"


def first_line(error: BaseException, limit: int = 200) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:limit] if lines else type(error).__name__


def first_few(names: Sequence[str]) -> str:
    """Those of many offenders that a message lists."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
