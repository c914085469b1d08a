"""What a model understands of a text that is asked with, and what it does not."""

from __future__ import annotations

import functools
import itertools
import operator
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from aladin_jax.data.caption_ending import with_ending
from aladin_jax.data.tokenization import UNK, CaptionTokenizer
from aladin_jax.search.inputs import check_query

_IDEOGRAPHS = "CJK"
_FEWEST_IDEOGRAPHS = 1000  # of a vocabulary that knows them as words; BERT's English one has some hundreds
_SHOWN = 5  # words that a note lists


class LeftOut(NamedTuple):
    """A piece of a text that does not count, and why."""

    text: str
    reason: str


class ReadText(NamedTuple):
    """A text as the model is asked with it.

    Attributes:
        text: what is encoded.
        left_out: what of the words that were typed is not in it.
        notes: what whoever asked should know, a sentence each; none if all was understood.
    """

    text: str
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]


class _Piece(NamedTuple):
    text: str
    known: bool


class QueryReader:
    """Makes of what somebody typed a text of the kind that the model was trained on."""

    def __init__(self, tokenizer: CaptionTokenizer, tokens: Sequence[str], ending: str | None):
        """Takes what stays the same.

        Args:
            tokenizer: of the model's vocabulary.
            tokens: the vocabulary, by id.
            ending: that the model's training captions have; None if that is not known.
        """
        self._tokenizer, self._tokens, self._ending = tokenizer, tokens, ending
        self._unknown = tokens.index(UNK)

    def read(self, typed: str) -> ReadText:
        """Leaves out words that the vocabulary lacks, and adds the ending of the training captions.

        An unknown word would be `[UNK]`, which is like any other unknown word, or single letters of a script of which
        the vocabulary has no words. A word in compatibility characters (full width, ligatures) or beside a symbol is
        unknown only if it still is without them.

        Raises:
            ValueError: an empty or overlong text, or one of which nothing is left.
        """
        typed = check_query(typed)
        pieces = _joined(self._pieces(typed))
        text = "".join(piece.text if piece.known else " " for piece in pieces).strip()
        unknown = list(dict.fromkeys(piece.text.strip() for piece in pieces if not piece.known))
        if not any(letter.isalnum() for letter in text):
            cause = f"the model's vocabulary has none of its words ({_listed(unknown)})" if unknown else "no word in it"
            raise ValueError(f"the query is empty: {cause}; say what the picture shows in words that the model knows")
        notes, left_out = [], [LeftOut(word, "not in the model's vocabulary") for word in unknown]
        if unknown:
            notes.append(f"the model does not know {_listed(unknown)}: left out")
        text = with_ending(text, self._ending)
        room, words = self._tokenizer.max_caption_len - 2, self._tokenizer.words(text)
        if (count := sum(len(word.ids) for word in words)) > room:
            ends = itertools.accumulate(len(word.ids) for word in words)
            beyond = next(text[word.start :] for word, end in zip(words, ends, strict=True) if end > room)
            left_out.append(LeftOut(beyond, "beyond the model's length"))
            notes.append(f"the model reads {room} word pieces of {count}: what follows from {_shown(beyond)} is cut")
        return ReadText(text, tuple(left_out), tuple(notes))

    def knows(self, typed: str) -> bool:
        """Whether anything of a text is left to ask with."""
        try:
            return bool(self.read(typed).text)
        except ValueError:
            return False

    def _pieces(self, text: str) -> Iterator[_Piece]:
        """All of a text, cut where what is known begins and ends."""
        end = 0
        for word in self._tokenizer.words(text):
            if word.start > end:
                yield _Piece(text[end : word.start], True)
            start, end = max(word.start, end), max(word.end, end)
            yield from self._judged(text[start:end], word.ids)
        if end < len(text):
            yield _Piece(text[end:], True)

    def _judged(self, word: str, ids: Sequence[int]) -> Iterator[_Piece]:
        if self._is_known(word, ids):
            yield _Piece(word, True)
            return
        plain = "".join(f" {c} " if unicodedata.category(c) == "So" else c for c in unicodedata.normalize("NFKC", word))
        parts = [(plain[part.start : part.end], part.ids) for part in self._tokenizer.words(plain)]
        if not any(self._is_known(*part) for part in parts):
            yield _Piece(word, False)
            return
        for part, part_ids in parts:
            yield _Piece(f" {part} ", self._is_known(part, part_ids))

    def _is_known(self, word: str, ids: Sequence[int]) -> bool:
        scripts = {_script(letter) for letter in word if letter.isalpha()}
        return self._unknown not in ids and not (scripts and scripts.isdisjoint(self._scripts))

    @functools.cached_property
    def _scripts(self) -> set[str]:
        """Scripts of which the vocabulary has words, not the letters alone."""
        letters, words = Counter[str](), Counter[str]()
        for token in self._tokens:
            plain = token.removeprefix("##")
            if plain[:1].isalpha():
                (letters if len(plain) == 1 else words)[_script(plain[0])] += 1
        known = {script for script, count in words.items() if 2 * count > letters[script]}
        known |= {script for script, _ in words.most_common(1)}
        ideographs = {_IDEOGRAPHS}  # each is a word of its own, to BERT
        return known | ideographs if letters[_IDEOGRAPHS] >= _FEWEST_IDEOGRAPHS else known - ideographs


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Joins what is known, and what is unknown, end to end: Chinese is cut into letters."""
    groups = itertools.groupby(pieces, key=operator.attrgetter("known"))
    return [_Piece("".join(piece.text for piece in group), known) for known, group in groups]


def _script(letter: str) -> str:
    """The first word of a letter's name: LATIN, CYRILLIC, CJK, ..."""
    return unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "").partition(" ")[0]


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(_shown(word) for word in words[:_SHOWN]) + more


def _shown(text: str) -> str:
    return f"“{text[:40]}{'…' if len(text) > 40 else ''}”"
