"""Token ids of a split's captions and tags: made when a record is first read, kept for all later epochs."""

from __future__ import annotations

import shutil
import tempfile
import weakref
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from aladin_jax.data.records import Record, Split
from aladin_jax.data.tokenization import CaptionTokenizer, Ids, Lengths
from aladin_jax.errors import DataError

_CHECKSUM, _LENGTH, _FIRST = 0, 1, 2  # columns of a row


class TokenCache:
    """Rows of ids in a memory-mapped file, which reader processes share; it goes with the object that made it.

    A row counts once its checksum is right, so that a process never takes what another has half written. Pickles as
    the file's path.
    """

    def __init__(self, split: Split, tokenizer: CaptionTokenizer):
        """Makes an empty file for a split's captions and its images' tags.

        Raises:
            DataError: the folder for temporary files has no room for it.
        """
        folder = Path(tempfile.mkdtemp(prefix="aladin_tokens_"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        rows = {
            "captions": (split.num_pairs, _FIRST + tokenizer.max_caption_len),
            "labels": (split.num_images, _FIRST + tokenizer.max_labels_len),
        }
        files = {name: (folder / name, shape) for name, shape in rows.items()}
        try:
            for path, shape in files.values():  # in full: writing to the map of a full disk would end the process
                np.zeros(shape, np.int32).tofile(path)
        except OSError as error:
            problem = f"no room for the tokens of {split.name} ({error})"
            raise DataError(problem, "set TMPDIR to a folder with more", path=folder) from error
        self.__setstate__((files, tokenizer))

    def __getstate__(self):
        """Where the file is, and the tokenizer."""
        return self._files, self.tokenizer

    def __setstate__(self, state):
        """Opens the file."""
        self._files, self.tokenizer = state
        arrays = {name: np.memmap(path, np.int32, "r+", shape=shape) for name, (path, shape) in self._files.items()}
        self._captions, self._labels = arrays["captions"], arrays["labels"]

    def tokenize_captions(
        self,
        split: Split,
        pairs: Int64[np.ndarray, " p"],
        images: Int64[np.ndarray, " p"],
        records: Mapping[int, Record],
    ) -> tuple[Ids, Lengths]:
        """As `CaptionTokenizer.tokenize_captions`, for the captions of pairs; `records` are those of their `images`."""
        if missing := _missing(self._captions, pairs):
            owners = {int(images[position]) for position in missing}
            texts = [caption for image in owners for caption in records[image].captions]
            rows = [np.arange(split.first_pairs[image], split.first_pairs[image + 1]) for image in owners]
            _store(self._captions, np.concatenate(rows), *self.tokenizer.tokenize_captions(texts))
        return _rows(self._captions, pairs)

    def tokenize_tags(self, images: Int64[np.ndarray, " p"], records: Mapping[int, Record]) -> tuple[Ids, Lengths]:
        """As `CaptionTokenizer.tokenize_tags`, for images."""
        if missing := _missing(self._labels, images):
            owners = np.unique(images[missing])
            _store(
                self._labels, owners, *self.tokenizer.tokenize_tags([records[image].tags for image in owners.tolist()])
            )
        return _rows(self._labels, images)


def _missing(array: np.ndarray, rows: Int64[np.ndarray, " p"]) -> list[int]:
    return [k for k, row in enumerate(array[rows]) if row[_CHECKSUM] != _checksum(row)]


def _checksum(row: np.ndarray) -> np.int32:
    """Of the length and the ids; never that of a row of zeros."""
    return np.uint32(zlib.crc32(row[_LENGTH:].tobytes())).view(np.int32)


def _store(array: np.ndarray, rows: Int64[np.ndarray, " n"], ids: Ids, lengths: Lengths) -> None:
    made = np.concatenate([np.zeros((len(ids), 1), np.int32), lengths[:, None], ids], axis=1)
    made[:, _CHECKSUM] = [_checksum(row) for row in made]
    array[rows] = made


def _rows(array: np.ndarray, rows: Int64[np.ndarray, " p"]) -> tuple[Ids, Lengths]:
    found = np.asarray(array[rows])
    return np.ascontiguousarray(found[:, _FIRST:]), np.ascontiguousarray(found[:, _LENGTH])
