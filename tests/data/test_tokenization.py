import json
import string
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aladin_jax.data.tokenization import CaptionTokenizer, check_vocabulary_size, read_vocabulary

E2E = Path(__file__).parent.parent / "golden" / "e2e"
VOCAB = E2E / "vinvl" / "vocab.txt"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@pytest.fixture(scope="module")
def examples():
    with np.load(E2E / "examples.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tags():
    found = {}
    for line in (E2E / "model_0060000" / "predictions.tsv").read_text().splitlines():
        image_id, detections = line.split("\t")
        detections = json.loads(detections)
        objects = detections["objects"] if isinstance(detections, dict) else detections
        found[int(image_id)] = [detection["class"] for detection in objects]
    return found


def captions_of(split):
    captions = torch.load(E2E / "coco_ir" / f"{split}_captions.pt", weights_only=True)
    captions = {image: json.loads(some) if isinstance(some, str) else some for image, some in captions.items()}
    if split == "test":
        keys = (E2E / "coco_ir" / "test_img_keys_1k.tsv").read_text().split()
        captions = {int(key): captions[int(key)] for key in keys}
    return captions


def tokenizer(max_caption_len=12, max_labels_len=10, vocab_file=VOCAB):
    return CaptionTokenizer(vocab_file, max_caption_len=max_caption_len, max_labels_len=max_labels_len)


def write_vocabulary(folder, tokens):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return path


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("max_caption_len", "max_labels_len", "max_regions"), [(50, 50, 34), (12, 10, 5)])
def test_captions_and_tags_become_the_originals_ids_masks_and_types(
    examples, tags, split, max_caption_len, max_labels_len, max_regions
):
    golden = {
        key.split("/")[2]: value
        for key, value in examples.items()
        if key.startswith(f"{max_caption_len}_{max_labels_len}_{max_regions}/{split}/")
    }
    pairs = [(image, caption) for image, some in captions_of(split).items() for caption in some]
    pairs = pairs[: len(golden["image_id"])]
    assert [image for image, _ in pairs] == golden["image_id"].tolist()
    ours = tokenizer(max_caption_len, max_labels_len)
    caption_ids, caption_len = ours.tokenize_captions([caption for _, caption in pairs])
    label_ids, label_len = ours.tokenize_tags([tags[image] for image, _ in pairs])

    np.testing.assert_array_equal(caption_ids, golden["caption_ids"])
    np.testing.assert_array_equal(caption_len, golden["caption_len"])
    positions = np.arange(max_caption_len)
    np.testing.assert_array_equal(positions < caption_len[:, None], golden["caption_mask"])
    assert not golden["caption_type"].any()
    np.testing.assert_array_equal(label_ids, golden["label_ids"])
    positions = np.arange(max_labels_len)
    real = positions < label_len[:, None]
    np.testing.assert_array_equal(real, golden["image_mask"][:, :max_labels_len])
    np.testing.assert_array_equal(real & (positions > 0), golden["label_type"])
    assert caption_ids.dtype == label_ids.dtype == caption_len.dtype == label_len.dtype == np.int32


def test_a_literal_special_token_is_that_token_and_any_other_spelling_is_not(tmp_path):
    path = write_vocabulary(tmp_path, [*SPECIAL, "cat", "[", "]", "sep", "##s", "mask"])
    ids, lengths = tokenizer(vocab_file=path).tokenize_captions(["cat[SEP]cats [PAD]", "[sep]", "[MASK]"])
    assert ids[0, : lengths[0]].tolist() == [2, 4, 3, 4, 8, 0, 3]
    assert ids[1, : lengths[1]].tolist() == [2, 5, 7, 6, 3]
    assert ids[2, : lengths[2]].tolist() == [2, 5, 9, 6, 3]  # not in this vocabulary, so no token of its own


def test_images_without_tags_and_empty_captions_are_just_the_special_tokens():
    ids, lengths = tokenizer().tokenize_tags([[], ["  "]])
    assert ids[:, :3].tolist() == [[100, 102, 0]] * 2
    assert lengths.tolist() == [2, 2]
    ids, lengths = tokenizer().tokenize_captions([""])
    assert ids[0, :3].tolist() == [101, 102, 0]
    ids, lengths = tokenizer().tokenize_captions([])
    assert ids.shape == (0, 12)
    assert lengths.shape == (0,)


def is_control(character):
    return character not in "\t\n\r" and unicodedata.category(character).startswith("C")


def is_punctuation(character):
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def plain_wordpieces(text, vocabulary):
    """BERT's uncased tokenisation as its paper's code describes it, one character at a time."""
    words = [""]
    for character in unicodedata.normalize("NFD", text).lower():
        if is_control(character) or character == "\ufffd" or unicodedata.category(character) == "Mn":
            continue
        alone = is_punctuation(character) or "\u4e00" <= character <= "\u9fff"
        if character.isspace() or alone:
            words += [character, ""] if alone else [""]
        else:
            words[-1] += character
    pieces = []
    for word in filter(None, words):
        start, found = 0, []
        while start < len(word):
            ends = range(len(word), start, -1)
            fitting = [end for end in ends if ("##" * (start > 0) + word[start:end]) in vocabulary]
            if not fitting or len(word) > 100:
                found = ["[UNK]"]
                break
            found.append("##" * (start > 0) + word[start : fitting[0]])
            start = fitting[0]
        pieces += found
    return [vocabulary[piece] for piece in pieces]


SPACES = " \t\n\N{NO-BREAK SPACE}\N{IDEOGRAPHIC SPACE}"
LETTERS = "abcdeCAFÉéèñÅß12日本語\N{FULLWIDTH LATIN SMALL LETTER W}"
MARKS = "'-.,!?#&/\N{EN DASH}\N{RIGHT SINGLE QUOTATION MARK}\N{LEFT DOUBLE QUOTATION MARK}"
UNSEEN = "\N{COMBINING ACUTE ACCENT}\N{COMBINING DIAERESIS}\N{ZERO WIDTH SPACE}\N{REPLACEMENT CHARACTER}\x00\x07"

WORDS = (" giraffes ", " Hydrant", "skateboard", " T-shirt ", " a", "a" * 100)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from([*SPACES, *LETTERS, *MARKS, *UNSEEN, *WORDS]), max_size=60))
def test_wordpieces_are_those_of_berts_uncased_rules(parts):
    text = "".join(parts)
    vocabulary = read_vocabulary(VOCAB)
    expected = plain_wordpieces(text, vocabulary)[:48]
    ids, lengths = tokenizer(50, 50).tokenize_captions([text])
    assert ids[0, : lengths[0]].tolist() == [vocabulary["[CLS]"], *expected, vocabulary["[SEP]"]]
    assert not ids[0, lengths[0] :].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the vocabulary is empty"),
        (b"[PAD]\n\xff\xfe\n", "not UTF-8 text"),
        (b"[PAD]\n[UNK]\n[CLS]\n", r"the vocabulary of 3 tokens lacks \[SEP\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\ncat\ncat\n", "line 6 repeats 'cat' of line 5"),
        (b"[PAD]\n[UNK]\n\n[CLS]\n[SEP]\n", "line 3 is blank"),
        (b"[UNK]\n[CLS]\n[SEP]\n[PAD]\n", r"\[PAD\] stands on line 4"),
    ],
)
def test_a_bad_vocabulary_ends_in_one_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer(vocab_file=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_vocabulary_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"vocab\.txt: no such file"):
        tokenizer(vocab_file=tmp_path / "vocab.txt")


def test_windows_line_ends_and_a_byte_order_mark_do_not_change_the_vocabulary(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"\xef\xbb\xbf" + VOCAB.read_bytes().replace(b"\n", b"\r\n"))
    assert read_vocabulary(path) == read_vocabulary(VOCAB)


def test_lengths_without_room_for_a_wordpiece_are_refused():
    with pytest.raises(ValueError, match="max_labels_len is 2"):
        tokenizer(max_labels_len=2)


def test_another_models_vocabulary_is_refused_with_both_sizes():
    check_vocabulary_size(tokenizer().vocab_size, 2090, VOCAB)
    with pytest.raises(ValueError, match="2090 tokens, but the model's vocab_size is 30522"):
        check_vocabulary_size(tokenizer().vocab_size, 30522, VOCAB)
