"""Captions as lines of text: Flickr's token files, and tables with a row of names on top."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import check_name, check_text, read_lines

_TOKEN = re.compile(r"(?P<name>[^\t]+?)#(?:(?P<kind>[A-Za-z]+)#)?(?P<number>[0-9]+)(?P<gap>[\t ])(?P<caption>.*)")
_MARKS = ("|", "\t", ",", ";")
_IMAGES = {"image", "image_name", "image_id", "filename", "file_name", "img"}
_CAPTIONS = {"caption", "comment", "text", "sentence"}
_NUMBERS = {"comment_number", "caption_number", "caption_id"}


class CaptionLine(NamedTuple):
    """A caption of an image.

    Attributes:
        row: where it stands, counted from 0.
        name: of the picture.
        number: which of the picture's captions it is; None where a file does not count them.
        caption: the text.
    """

    row: int
    name: str
    number: str | None
    caption: str


def read_caption_lines(path: Path) -> Iterator[CaptionLine]:
    """Reads a text file of captions.

    - `name.jpg#0`, a tab, and the caption, as Flickr8k's and Flickr30k's token files have it; or `name.jpg#zhc#0`, a
      space, and the caption, as Flickr8k-CN's.
    - A first line `image,caption` or `image_name| comment_number| comment`, and rows of it, as the tables of Flickr8k
      and Flickr30k that go round.

    Raises:
        DataError: naming the line and what is wrong with it.
    """
    lines = read_lines(path)
    if not lines:
        raise DataError("no line in it", "check that it is the right file", path=path)
    columns = next((found for mark in _MARKS if (found := _columns(lines[0], mark))), None)
    yield from _read_tokens(lines, path) if columns is None else _read_table(lines, *columns, path)


def is_caption_line(line: str) -> bool:
    """Whether a file whose first line this is may be read by `read_caption_lines`."""
    return bool(_TOKEN.fullmatch(line)) or any(_columns(line, mark) for mark in _MARKS)


def _read_tokens(lines: list[str], path: Path) -> Iterator[CaptionLine]:
    for row, line in enumerate(lines):
        where: dict[str, Any] = {"path": path, "row": row}
        found = _TOKEN.fullmatch(line)
        if not found or (found["gap"] == " " and not found["kind"]):
            raise DataError(f"{shown(line)} is not name#number, a tab, and a caption", **where)
        name = check_name(found["name"], "the picture's name", **where)
        yield CaptionLine(row, name, found["number"], check_text(found["caption"], "caption", **where))


def _columns(first: str, mark: str) -> tuple[str, list[str]] | None:
    """The delimiter and what the columns hold, if a line names them."""
    names = [name.strip().strip('"').lower() for name in first.split(mark)]
    return (mark, names) if len(names) > 1 and set(names) & _IMAGES and set(names) & _CAPTIONS else None


def _read_table(lines: list[str], mark: str, names: list[str], path: Path) -> Iterator[CaptionLine]:
    image, caption = (next(k for k, name in enumerate(names) if name in some) for some in (_IMAGES, _CAPTIONS))
    number = next((k for k, name in enumerate(names) if name in _NUMBERS), None)
    for row, line in enumerate(lines[1:], 1):
        where: dict[str, Any] = {"path": path, "row": row}
        fields = _fields(line, mark, **where)
        if len(fields) > len(names) and caption == len(names) - 1:
            fields = [*fields[:caption], mark.join(fields[caption:])]  # a caption with the mark in it
        if number is not None and number + 1 == caption == len(fields) == len(names) - 1:
            # `name.jpg| 4   A dog runs ...`: one row of Flickr30k's results.csv lacks a mark.
            fields = [*fields[:number], *fields[number].strip().split(None, 1)]
        if len(fields) != len(names):
            raise DataError(f"{len(fields)} fields, the first line names {len(names)}", "mend the line", **where)
        yield CaptionLine(
            row,
            check_name(fields[image], "the picture's name", **where),
            None if number is None else fields[number].strip(),
            check_text(fields[caption].strip(), "caption", **where),
        )


def _fields(line: str, mark: str, **where: Any) -> list[str]:
    """The fields of a row; where commas or semicolons divide them, quotes may hold a field together."""
    if mark not in ",;":
        return line.split(mark)
    try:
        [fields] = csv.reader([line], delimiter=mark, strict=True)
    except (csv.Error, ValueError) as error:
        raise DataError(f"quotes that do not fit together ({error})", "mend the line", **where) from error
    return fields
