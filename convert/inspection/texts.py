"""Captions and tags as tokens: how long they are, and what is cut off at the configured lengths."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.data.tokenization import UNK, CaptionTokenizer, read_vocabulary
from aladin_jax.errors import DataError
from convert.inspection.tallies import histogram

_LONG = 2048  # tokens counted of a text, where the configured length cuts it off
_BATCH = 1024


class Tokens:
    """What a vocabulary makes of texts."""

    def __init__(self, vocab_file: Path, max_caption_len: int, max_labels_len: int):
        """Reads the vocabulary.

        Args:
            vocab_file: a vocab.txt, or a folder with one.
            max_caption_len: as in the configuration.
            max_labels_len: as in the configuration.

        Raises:
            DataError: it is not a vocabulary.
            ValueError: a length is too small.
        """
        if vocab_file.is_dir():
            vocab_file = vocab_file / "vocab.txt"
        self.unknown = read_vocabulary(vocab_file)[UNK]
        self.max_caption_len, self.max_labels_len = max_caption_len, max_labels_len
        self._cut = CaptionTokenizer(vocab_file, max_caption_len=max_caption_len, max_labels_len=max_labels_len)
        self._whole = CaptionTokenizer(vocab_file, max_caption_len=_LONG, max_labels_len=_LONG)

    def caption_tally(self) -> "TokenTally":
        """A tally of captions."""
        return TokenTally(
            self._cut.tokenize_captions, self._whole.tokenize_captions, self.max_caption_len, self.unknown
        )

    def tag_tally(self) -> "TokenTally":
        """A tally of images' tags, each image's joined by spaces as one text."""

        def cut(texts: list[str]):
            return self._cut.tokenize_tags([[text] for text in texts])

        def whole(texts: list[str]):
            return self._whole.tokenize_tags([[text] for text in texts])

        return TokenTally(cut, whole, self.max_labels_len, self.unknown)


class TokenTally:
    """Lengths of texts in tokens; texts are kept until there are enough of them to be tokenised at once."""

    def __init__(self, cut: Any, whole: Any, length: int, unknown: int):
        """Nothing has been seen.

        Args:
            cut: gives ids and lengths of texts at the configured length.
            whole: gives them at a length that hardly any text has.
            length: the configured one.
            unknown: id of [UNK].
        """
        self._cut, self._whole, self._length, self._unknown = cut, whole, length, unknown
        self._waiting: list[str] = []
        self._lengths: Counter[int] = Counter()
        self._unknown_pieces = 0

    def add(self, text: str) -> None:
        """Takes one text into account."""
        self._waiting.append(text)
        if len(self._waiting) == _BATCH:
            self._count()

    def described(self) -> dict[str, Any]:
        """What is known, as plain data; special tokens are not counted."""
        self._count()
        pieces = sum(number * times for number, times in self._lengths.items())
        room = self._length - 2
        cut = {number: times for number, times in self._lengths.items() if number > room}
        lost = sum((number - room) * times for number, times in cut.items())
        texts = sum(self._lengths.values())
        return {
            "texts": texts,
            "tokens": pieces,
            "most tokens": max(self._lengths, default=0),
            "mean": pieces / max(1, texts),
            "unknown to the vocabulary": self._unknown_pieces,
            f"texts cut at {self._length} ({room} and two special tokens)": sum(cut.values()),
            "tokens lost": lost,
            "share of tokens lost": lost / max(1, pieces),
            "histogram": histogram(self._lengths),
        }

    def _count(self) -> None:
        if not self._waiting:
            return
        ids, lengths = self._cut(self._waiting)
        full = np.flatnonzero(lengths == self._length)
        lengths = lengths.astype(np.int64)
        if len(full):
            lengths[full] = self._whole([self._waiting[k] for k in full])[1]
        self._lengths.update((lengths - 2).tolist())
        self._unknown_pieces += int((ids[:, 1:] == self._unknown).sum())
        self._waiting = []


class TextTally:
    """Captions, or the tags of images, as text."""

    def __init__(self, tokens: TokenTally | None):
        """Nothing has been seen.

        Args:
            tokens: counts tokens; None where no vocabulary is known.
        """
        self._tokens = tokens
        self._words: Counter[int] = Counter()
        self._blank = 0

    def add(self, text: str) -> None:
        """Takes one text into account."""
        words = len(text.split())
        self._words[words] += 1
        self._blank += not words
        if self._tokens:
            self._tokens.add(text)

    def described(self) -> dict[str, Any]:
        """What is known, as plain data."""
        words = sum(number * times for number, times in self._words.items())
        return {
            "words, mean": words / max(1, sum(self._words.values())),
            "words, most": max(self._words, default=0),
            "blank": self._blank,
            "tokens": self._tokens.described() if self._tokens else "not counted: pass --vocab",
        }


def open_tokens(vocab: Path | None, max_caption_len: int, max_labels_len: int) -> Tokens | None:
    """The vocabulary that a user names, if any.

    Raises:
        DataError: it is not a vocabulary.
    """
    if vocab is None:
        return None
    if not vocab.exists():
        raise DataError("no such file or folder", "--vocab is a vocab.txt or a folder with one", path=vocab)
    return Tokens(vocab, max_caption_len, max_labels_len)
