"""Random access to the rows of a .tsv file, by the byte offsets in the .lineidx beside it or by those found in it."""

import array
import codecs
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, MAX_NAME_LENGTH, check_name, decode, require_file

_INDEX_AGAIN = "make the .lineidx anew from the .tsv, or copy both again"
_CHUNK_BYTES = 16 << 20
_MAX_NAME_BYTES = 4 * MAX_NAME_LENGTH + 8


class IndexedTsv:
    """The rows of a .tsv, by number; the first field of a row is an image's id.

    A row's length is checked before the row is read, so memory stays bounded. A context manager; reads from several
    threads do not disturb each other.
    """

    _too_long = _INDEX_AGAIN

    def __init__(self, path: Path, image_of_row: Mapping[int, str], offsets: "array.array[int] | None" = None):
        """Opens the file and checks all offsets.

        Args:
            path: the .tsv.
            image_of_row: what is known of whose row is whose, for the message about a wrong offset.
            offsets: of the rows, as another reader of the file found them; None finds them.

        Raises:
            DataError: a file is missing, or an offset is not where a row can begin.
        """
        self.path = path
        require_file(path)
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (closed by __exit__, or just below)
        try:
            size = os.fstat(self._file.fileno()).st_size
            self.offsets = self._find_offsets(size, image_of_row) if offsets is None else offsets
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "IndexedTsv":
        """Nothing to do: the file is open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self._file.close()

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    def fields(self, row: int, image: str, *, counts: Collection[int], max_bytes: int) -> list[bytes]:
        """Reads one row.

        Args:
            row: its number, from 0.
            image: the id that its first field has to be.
            counts: how many fields it may have.
            max_bytes: a longer row is refused before it is read.

        Raises:
            DataError: the row is not so, or the offsets do not fit the file's lines.
        """
        where: dict[str, Any] = {"path": self.path, "row": row, "image": image}
        length = self.offsets[row + 1] - self.offsets[row]
        if length > max_bytes:
            raise DataError(f"{length:,} bytes, more than the {max_bytes:,} a row can take", self._too_long, **where)
        line = self._read(row, length)
        if len(line) != length:
            raise DataError(f"{length:,} bytes were expected, {len(line):,} are there", COPY_AGAIN, **where)
        if not line.endswith(b"\n") and row != len(self) - 1:
            raise DataError("by the .lineidx this row does not end where a line does", _INDEX_AGAIN, **where)
        # Empty lines at the file's end are none.
        line = line.rstrip(b"\r\n") if row == len(self) - 1 else line.removesuffix(b"\n").removesuffix(b"\r")
        if b"\n" in line:
            raise DataError("by the .lineidx this row is several lines long", _INDEX_AGAIN, **where)
        fields = line.split(b"\t")
        if row_name(fields[0], row, self.path) != image:
            raise DataError(
                f"the row is that of {shown(fields[0])}", "take an index that belongs to this file", **where
            )
        if len(fields) not in counts:
            expected = " or ".join(map(str, counts))
            raise DataError(f"{len(fields)} tab-separated fields, expected {expected}", COPY_AGAIN, **where)
        return fields

    def rows_by_image(self) -> dict[str, list[int]]:
        """The rows of every image, found by reading the first bytes of all rows.

        Raises:
            DataError: a row has no image id.
        """
        rows: dict[str, list[int]] = {}
        for row in range(len(self)):
            head = self._read(row, _MAX_NAME_BYTES).partition(b"\t")[0]
            rows.setdefault(row_name(head, row, self.path), []).append(row)
        return rows

    def _find_offsets(self, size: int, image_of_row: Mapping[int, str]) -> "array.array[int]":
        """Where each row begins, and the file's size last."""
        return _read_offsets(self.path, size, image_of_row)

    def _read(self, row: int, most: int) -> bytes:
        start = self.offsets[row]
        return os.pread(self._file.fileno(), min(self.offsets[row + 1] - start, most), start)


class ScannedTsv(IndexedTsv):
    """The rows of a .tsv that has no .lineidx: where they begin is found by reading all of it once.

    Empty lines at its end are no rows.
    """

    _too_long = COPY_AGAIN

    def _find_offsets(self, size: int, image_of_row: Mapping[int, str]) -> "array.array[int]":
        offsets = array.array("q", [0] if size else [])
        with _byte_bar(f"rows of {self.path.name}", size) as bar:
            for start in range(0, size, _CHUNK_BYTES):
                chunk = os.pread(self._file.fileno(), _CHUNK_BYTES, start)
                offsets.extend((np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + start + 1).tolist())
                bar.update(len(chunk))
        if not offsets or offsets[-1] != size:
            offsets.append(size)
        while len(offsets) > 1 and offsets[-1] - offsets[-2] <= 2 and not self._is_row(*offsets[-2:]):
            offsets.pop()
        return offsets

    def _is_row(self, start: int, end: int) -> bool:
        return bool(os.pread(self._file.fileno(), end - start, start).strip())


def open_tsv(path: Path, image_of_row: Mapping[int, str] | None = None) -> IndexedTsv:
    """Opens a .tsv with the .lineidx beside it, or where there is none, goes through it once.

    Raises:
        DataError: there is no such file, or an offset is not where a row can begin.
    """
    reader = IndexedTsv if path.with_suffix(".lineidx").is_file() else ScannedTsv
    return reader(path, image_of_row or {})


def row_name(field: bytes, row: int, path: Path) -> str:
    """What the first field of a row calls its image.

    Raises:
        DataError: it is no name.
    """
    content = field.removeprefix(codecs.BOM_UTF8) if row == 0 else field
    return check_name(decode(content, path=path, row=row), "the image's id", path=path, row=row)


def stream_rows(path: Path, max_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Reads a .tsv from its first row to its last, with a progress bar if that takes long.

    Args:
        path: the .tsv.
        max_bytes: a longer row is passed over.

    Yields:
        Where a row begins, and its bytes without the line end; None for a row that is too long.

    Raises:
        DataError: there is no such file.
    """
    require_file(path)
    size = path.stat().st_size
    with (
        open(path, "rb", buffering=1 << 20) as file,
        _byte_bar(path.name, size) as bar,
    ):
        start = 0
        while line := file.readline(max_bytes + 1):
            too_long = len(line) > max_bytes
            end = start + len(line)
            part = line
            while too_long and part and not part.endswith(b"\n"):
                part = file.readline(max_bytes)
                end += len(part)
            yield start, None if too_long else line.removesuffix(b"\n").removesuffix(b"\r")
            bar.update(end - start)
            start = end


def _byte_bar(what: str, size: int) -> tqdm:
    """A progress bar, if it takes long, that leaves nothing behind."""
    return tqdm(desc=what, total=size, unit="B", unit_scale=True, delay=2, mininterval=1, leave=False)


def _read_offsets(tsv: Path, size: int, image_of_row: Mapping[int, str]) -> "array.array[int]":
    """Where each row of a .tsv of `size` bytes begins, and `size` last."""
    path = tsv.with_suffix(".lineidx")
    require_file(path)
    offsets = array.array("q")
    with open(path, "rb") as lines:
        while line := lines.readline(24):  # longer than any offset, so that no line can fill the memory
            row, text = len(offsets), line.strip()
            where: dict[str, Any] = {"path": path, "row": row, "image": image_of_row.get(row)}
            if not re.fullmatch(rb"[0-9]{1,18}", text):
                raise DataError(f"{shown(text)} is no byte offset", _INDEX_AGAIN, **where)
            offset = int(text)
            if offset >= size:
                raise DataError(
                    f"byte {offset:,} is past the end of {tsv.name} ({size:,} bytes)",
                    f"{tsv.name} is cut short or the .lineidx is another file's, copy both again",
                    **where,
                )
            if offset <= offsets[-1] if offsets else offset != 0:
                raise DataError(f"a row cannot begin at byte {offset:,}", _INDEX_AGAIN, **where)
            offsets.append(offset)
    offsets.append(size)
    return offsets
