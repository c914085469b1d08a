"""Captions and tags to token ids: BERT's uncased WordPiece on a checkpoint's own ``vocab.txt``.

Masks and token types follow from the lengths and are not made here.

Text that spells a special token, such as a caption with a literal ``[SEP]``, becomes that token, as it did in the
original: its BertTokenizer cut such text out before anything else and looked it up whole. The match is exact
(``[sep]`` is three pieces) and the ids are the vocabulary's own, never new ones.

One known difference: the original lower-cased a word-final Greek capital sigma to its final form, this does not.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32
from tokenizers import AddedToken, Encoding, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from aladin_jax.errors import DataError, shown

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"

Ids = Int32[np.ndarray, "rows length"]
Lengths = Int32[np.ndarray, "rows"]


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Reads a BERT ``vocab.txt``: one token a line, its id the line's number from 0.

    Raises:
        DataError: there is no such file, or it is empty, is not UTF-8, has a blank or repeated line, lacks one of
            ``[PAD] [UNK] [CLS] [SEP]``, or does not begin with ``[PAD]`` (the model's padding row is row 0).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", "a BERT vocab.txt, one token a line, is needed", path=path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 text (byte {error.start})", path=path) from error
    # Only "\n" ends a line: str.splitlines would also cut at characters that are tokens of some vocabularies.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if lines == [""]:
        raise DataError("the vocabulary is empty", path=path)
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(lines):
        if not token:
            raise DataError(f"line {index + 1} is blank", path=path)
        if token in vocabulary:
            raise DataError(f"line {index + 1} repeats {shown(token)} of line {vocabulary[token] + 1}", path=path)
        vocabulary[token] = index
    missing = [token for token in (PAD, UNK, CLS, SEP) if token not in vocabulary]
    if missing:
        raise DataError(f"the vocabulary of {len(vocabulary)} tokens lacks {', '.join(missing)}", path=path)
    if vocabulary[PAD] != 0:
        raise DataError(f"{PAD} stands on line {vocabulary[PAD] + 1}, expected on the first (id 0)", path=path)
    return vocabulary


class Word(NamedTuple):
    """A word of a text: text[start:end], and the ids of its pieces."""

    start: int
    end: int
    ids: list[int]


class CaptionTokenizer:
    """Token ids of captions and of tags, padded to fixed lengths."""

    def __init__(self, vocab_file: str | Path, *, max_caption_len: int, max_labels_len: int):
        """Reads the vocabulary and sets both row lengths.

        Args:
            vocab_file: the checkpoint's ``vocab.txt``.
            max_caption_len: length of a caption row, ``[CLS]`` and ``[SEP]`` included.
            max_labels_len: length of a tags row, its first ``[UNK]`` and ``[SEP]`` included.

        Raises:
            DataError: as `read_vocabulary`.
            ValueError: a length below 3 (no room for a wordpiece).
        """
        for name, length in (("max_caption_len", max_caption_len), ("max_labels_len", max_labels_len)):
            if length < 3:
                raise ValueError(f"{name} is {length}; two places are special tokens, so it must be at least 3")
        vocabulary = read_vocabulary(vocab_file)
        self.unknown = vocabulary[UNK]
        self.vocab_size = len(vocabulary)
        self.max_caption_len, self.max_labels_len = max_caption_len, max_labels_len
        self._vocabulary = vocabulary
        self._captions = _tokenizer(vocabulary, CLS, max_caption_len)
        # A quirk of the original: the tags' first position holds [UNK], where one expects [CLS]
        # (test_tokenization.py, against golden/e2e/examples.npz).
        self._labels = _tokenizer(vocabulary, UNK, max_labels_len)

    def tokenize_captions(self, captions: Sequence[str]) -> tuple[Ids, Lengths]:
        """``[CLS] wordpieces [SEP]`` of each caption, cut to fit, and its length with both special tokens."""
        return _pad(self._captions, captions)

    def tokenize_tags(self, tags: Sequence[Sequence[str]]) -> tuple[Ids, Lengths]:
        """``[UNK] wordpieces [SEP]`` of each image's tags, joined by spaces as one text and cut to fit."""
        return _pad(self._labels, [" ".join(words) for words in tags])

    def words(self, text: str) -> list[Word]:
        """A text's words and punctuation marks, all of them, however long it is."""
        found = self._uncut.encode(text, add_special_tokens=False)
        words: list[Word] = []
        last = None
        for token, (start, end), word in zip(found.ids, found.offsets, found.word_ids, strict=True):
            if words and word is not None and word == last:
                words[-1] = Word(words[-1].start, end, [*words[-1].ids, token])
            else:
                words.append(Word(start, end, [token]))
            last = word
        return words

    @functools.cached_property
    def _uncut(self) -> Tokenizer:
        tokenizer = _tokenizer(self._vocabulary, CLS, self.max_caption_len)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


def check_vocabulary_size(tokens: int, vocab_size: int, path: Path) -> None:
    """Holds the number of a vocabulary's tokens against a model's ``vocab_size``.

    A word embedding may have some rows more: people round its size up to a multiple of 8, or reserve rows. More than
    a twentieth (or 7, in a small one) is no padding but another vocabulary, or part of one.

    Raises:
        DataError: there are more tokens than rows, or far fewer.
    """
    if not 0 <= vocab_size - tokens <= max(7, vocab_size // 20):
        raise DataError(
            f"{tokens} tokens, but the model's vocab_size is {vocab_size}",
            "use the vocab.txt that came with the model",
            path=path,
        )


def _tokenizer(vocabulary: dict[str, int], first: str, max_len: int) -> Tokenizer:
    """A fast tokenizer whose rows are ``first``, the pieces and ``[SEP]``, cut and padded to ``max_len``."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=UNK, max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=True, lowercase=True
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    # Tokens the vocabulary has keep their ids; one that it lacks ([MASK] at most) would be given an id past its end.
    special = [token for token in (PAD, UNK, CLS, SEP, MASK) if token in vocabulary]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {SEP}", special_tokens=[(first, vocabulary[first]), (SEP, vocabulary[SEP])]
    )
    tokenizer.enable_truncation(max_len)
    tokenizer.enable_padding(length=max_len, pad_id=vocabulary[PAD], pad_token=PAD)
    return tokenizer


def _pad(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Ids, Lengths]:
    encodings: list[Encoding] = tokenizer.encode_batch_fast(list(texts))
    assert tokenizer.padding is not None
    shape = (len(encodings), tokenizer.padding["length"])
    ids = np.array([encoding.ids for encoding in encodings], np.int32).reshape(shape)
    # Not the count of non-zero ids: a caption may spell [PAD].
    lengths = np.array([sum(encoding.attention_mask) for encoding in encodings], np.int32)
    return ids, lengths
