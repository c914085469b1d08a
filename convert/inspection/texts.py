"""Captions and tags as words and tokens: how long they are, and what is cut off at the configured lengths."""

from collections import Counter
from pathlib import Path
from typing import Any

from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError


class TextTally:
    """Lengths of captions, or of the tags of images, each image's joined by spaces."""

    def __init__(self, tokenizer: CaptionTokenizer | None, *, tags: bool = False):
        """Nothing has been seen.

        Args:
            tokenizer: of the configured lengths; None where no vocabulary is known.
            tags: whether texts are tags.
        """
        self._tokenizer = tokenizer
        if tokenizer:
            self._room = (tokenizer.max_labels_len if tags else tokenizer.max_caption_len) - 2
            self._unknown = tokenizer.unknown
        self._words: Counter[int] = Counter()
        self._tokens: Counter[int] = Counter()
        self._unknown_tokens = 0

    def add(self, text: str) -> None:
        """Takes one text into account."""
        self._words[len(text.split())] += 1
        if self._tokenizer:
            ids = [token for word in self._tokenizer.words(text) for token in word.ids]
            self._tokens[len(ids)] += 1
            self._unknown_tokens += ids[: self._room].count(self._unknown)

    def described(self) -> dict[str, Any]:
        """What is known, as plain data."""
        return {
            "words, mean": total(self._words) / max(1, self._words.total()),
            "words, most": max(self._words, default=0),
            "blank": self._words[0],
            "tokens": self._describe_tokens() if self._tokenizer else "not counted: pass --vocab",
        }

    def _describe_tokens(self) -> dict[str, Any]:
        """Lengths in tokens, without the special ones."""
        cut = excess(self._tokens, self._room)
        tokens, texts = total(self._tokens), self._tokens.total()
        return {
            "texts": texts,
            "tokens": tokens,
            "most tokens": max(self._tokens, default=0),
            "mean": tokens / max(1, texts),
            "unknown to the vocabulary": self._unknown_tokens,
            f"texts cut at {self._room + 2} ({self._room} and two special tokens)": cut.total(),
            "tokens lost": total(cut),
            "share of tokens lost": total(cut) / max(1, tokens),
            "histogram": histogram(self._tokens),
        }


def total(counts: Counter[int]) -> int:
    """The sum of numbers that are counted."""
    return sum(number * times for number, times in counts.items())


def excess(counts: Counter[int], most: int) -> Counter[int]:
    """Of the numbers above `most`, by how much they are."""
    return Counter({number - most: times for number, times in counts.items() if number > most})


def histogram(counts: Counter[int]) -> dict[str, int]:
    """Counts in about ten ranges of whole numbers, each as "from-to"."""
    if not counts:
        return {}
    most = max(counts)
    step = next(s for size in range(12) for s in (10**size, 2 * 10**size, 5 * 10**size) if most / s < 12)
    ranges: Counter[int] = Counter()
    for number, times in counts.items():
        ranges[number // step] += times
    low, high = min(ranges), max(ranges)
    label = (lambda k: str(k)) if step == 1 else (lambda k: f"{k * step}-{k * step + step - 1}")
    return {label(k): ranges[k] for k in range(low, high + 1)}


def open_tokenizer(vocab: Path | None, max_caption_len: int, max_labels_len: int) -> CaptionTokenizer | None:
    """The tokenizer of a vocab.txt that a user names, or of a folder with one; None if there is none.

    Raises:
        DataError: it is not a vocabulary.
        ValueError: a length is too small.
    """
    if vocab is None:
        return None
    if not vocab.exists():
        raise DataError("no such file or folder", "--vocab is a vocab.txt or a folder with one", path=vocab)
    file = vocab / "vocab.txt" if vocab.is_dir() else vocab
    return CaptionTokenizer(file, max_caption_len=max_caption_len, max_labels_len=max_labels_len)
