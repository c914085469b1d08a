"""Random access to the rows of a .tsv file, by the byte offsets in the .lineidx beside it or by those found in it."""

import array
import codecs
import functools
import os
import re
import weakref
from collections.abc import Collection, Mapping
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

    A row's length is checked before the row is read, so memory stays bounded. Reads from several threads do not disturb
    each other, and it pickles, so that other processes need not look for the rows again: each opens the file when it
    first reads, until the object goes.

    Attributes:
        path: the .tsv.
        offsets: where each row begins, and the file's size last.
    """

    def __init__(self, path: Path, image_of_row: Mapping[int, str] | None = None, *, scan: bool = False):
        """Reads the .lineidx and checks it; where there is none, goes through the .tsv once.

        Args:
            path: the .tsv.
            image_of_row: what is known of whose row is whose, for the message about a wrong offset.
            scan: whether to go through the .tsv even if there is a .lineidx.

        Raises:
            DataError: there is no such file, or an offset is not where a row can begin.
        """
        require_file(path)
        self.path = path
        by_index = path.with_suffix(".lineidx").is_file() and not scan
        self.offsets = _read_offsets(path, image_of_row or {}) if by_index else _find_offsets(path)
        self._remedy = _INDEX_AGAIN if by_index else COPY_AGAIN

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.offsets) - 1

    def name(self, row: int) -> str:
        """What a row calls its image.

        Raises:
            DataError: it is no name.
        """
        return self._name(self._read(row, _MAX_NAME_BYTES).partition(b"\t")[0], row)

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
            raise DataError(f"{length:,} bytes, more than the {max_bytes:,} a row can take", self._remedy, **where)
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
        if self._name(fields[0], row) != image:
            raise DataError(
                f"the row is that of {shown(fields[0])}", "take an index that belongs to this file", **where
            )
        if len(fields) not in counts:
            expected = " or ".join(map(str, counts))
            raise DataError(f"{len(fields)} tab-separated fields, expected {expected}", COPY_AGAIN, **where)
        return fields

    def _read(self, row: int, most: int) -> bytes:
        start = self.offsets[row]
        return os.pread(self._descriptor, min(self.offsets[row + 1] - start, most), start)

    @functools.cached_property
    def _descriptor(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out the open file."""
        return {name: value for name, value in vars(self).items() if name != "_descriptor"}

    def _name(self, field: bytes, row: int) -> str:
        content = field.removeprefix(codecs.BOM_UTF8) if row == 0 else field
        where: dict[str, Any] = {"path": self.path, "row": row}
        return check_name(decode(content, **where), "the image's id", **where)


def _find_offsets(path: Path) -> "array.array[int]":
    """Where each row of a .tsv begins, and its size last; empty lines at its end are no rows."""
    size = path.stat().st_size
    offsets = array.array("q", [0] if size else [])
    with (
        open(path, "rb", buffering=0) as file,
        tqdm(desc=f"rows of {path.name}", total=size, unit="B", unit_scale=True, delay=2, leave=False) as bar,
    ):
        for start in range(0, size, _CHUNK_BYTES):
            chunk = os.pread(file.fileno(), _CHUNK_BYTES, start)
            offsets.extend((np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + start + 1).tolist())
            bar.update(len(chunk))
        if not offsets or offsets[-1] != size:
            offsets.append(size)
        while (
            len(offsets) > 1 and offsets[-1] - offsets[-2] <= 2 and not os.pread(file.fileno(), 2, offsets[-2]).strip()
        ):
            offsets.pop()
    return offsets


def _read_offsets(tsv: Path, image_of_row: Mapping[int, str]) -> "array.array[int]":
    """What a .tsv's .lineidx says: where each row begins; and its size last."""
    path, size = tsv.with_suffix(".lineidx"), tsv.stat().st_size
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
