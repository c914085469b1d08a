"""What of a query counts: the vocabulary's words, in the form of the training captions; the rest is said."""

import json

import pytest

from aladin_jax.data.tokenization import CaptionTokenizer, read_vocabulary
from aladin_jax.model_folder import MODEL_JSON, read_caption_ending
from aladin_jax.pretrained import load
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from aladin_jax.search.indexing import Contents, create_index
from aladin_jax.search.query import Searcher
from aladin_jax.search.query_text import QueryReader
from tests.search.conftest import SCENES_SETTINGS

ENGLISH = "a red square dog in the park cafe two ##s . , ! ' fi in"
# ruff: noqa: RUF001
LETTERS = "s o x b c ##o ##x с о б а к ##о ##б ##а ##к в п р ##р ##е 図 片 か ##わ ##い α ᄀ ##ᅡ"
CHINESE = [chr(0x4E00 + k) for k in range(1200)]


def reader(tmp_path, words=f"{ENGLISH} {LETTERS}", *, ending=".", length=20):
    tokens = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words.split()]))
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = CaptionTokenizer(tmp_path / "vocab.txt", max_caption_len=length, max_labels_len=5)
    return QueryReader(tokenizer, list(read_vocabulary(tmp_path / "vocab.txt")), ending)


@pytest.mark.parametrize("typed", ["a red square", "a red square.", "a red square!", "A RED  square . "])
def test_a_text_gets_the_ending_of_the_training_captions_and_nothing_is_said(tmp_path, typed):
    read = reader(tmp_path).read(typed)
    assert read.text.lower().split()[:2] == ["a", "red"]
    assert read.text.replace(" ", "").endswith("square.")
    assert (read.left_out, read.notes) == ((), ())


@pytest.mark.parametrize("ending", ["", None])
def test_a_text_stays_as_it_is_where_captions_have_no_ending_or_nobody_knows(tmp_path, ending):
    assert reader(tmp_path, ending=ending).read("a red dog").text == "a red dog"


@pytest.mark.parametrize(
    ("typed", "kept", "lost"),
    [
        ("a red 🐕 square", "a red square", ["🐕"]),
        ("a red square🐕", "a red square", ["🐕"]),
        ("a dog 👨‍👩‍👧 in the park", "a dog in the park", ["👨‍👩‍👧"]),
        ("a собака in the park", "a in the park", ["собака"]),  # falls into letters that the vocabulary has
        ("a dog в парке", "a dog", ["в", "парке"]),
        ("a 図片 dog", "a dog", ["図片"]),
        ("かわい dog", "dog", ["かわい"]),
        ("가 dog", "dog", ["가"]),
        ("a dog qqq", "a dog", ["qqq"]),
        ("a dog [UNK]", "a dog", ["[UNK]"]),
    ],
)
def test_words_that_the_vocabulary_lacks_are_left_out_and_named(tmp_path, typed, kept, lost):
    read = reader(tmp_path).read(typed)
    assert read.text.removesuffix(".").split() == kept.split()
    assert "".join(piece.text for piece in read.left_out) == "".join(lost)
    [note] = read.notes
    assert all(word in note for word in lost)


def test_english_words_that_fall_into_pieces_or_letters_count(tmp_path):
    read = reader(tmp_path).read("two dogs in sox")
    assert (read.text, read.notes) == ("two dogs in sox.", ())


@pytest.mark.parametrize(
    "typed",
    [
        "a cafe\u0301 dog",
        "a caf\u00e9 dog",
        "\uff41 \uff32\uff45\uff44 dog",
        "\u200ba\u200d red\ufeff dog",
        "\ufb01 dog",
    ],
)
def test_unicode_is_read_as_the_vocabulary_has_it(tmp_path, typed):
    read = reader(tmp_path).read(typed)
    assert (read.left_out, read.notes) == ((), ())


@pytest.mark.parametrize(
    ("typed", "what"),
    [("\u200b\u200d\ufeff", "no word"), ("🐕 🐈", "🐕"), ("собака", "собака"), ("?! .", ""), ("図片", "図片")],
)
def test_a_text_of_which_nothing_is_left_is_an_empty_query(tmp_path, typed, what):
    with pytest.raises(ValueError, match="the query is empty") as error:
        reader(tmp_path).read(typed)
    assert what in str(error.value)


def test_the_characters_of_a_chinese_vocabulary_are_words(tmp_path):
    read = reader(tmp_path, " ".join([*ENGLISH.split(), *CHINESE]), ending="。").read("一丁七")
    assert (read.text, read.notes) == ("一丁七。", ())


def test_what_does_not_fit_the_model_is_said(tmp_path):
    typed = "a red dog in the park, two dogs in the park"
    read = reader(tmp_path, length=10).read(typed)
    assert read.left_out[-1].text == "dogs in the park."
    [note] = read.notes
    assert "8 word pieces of 14" in note
    assert "“dogs in the park.”" in note


def test_the_ending_makes_the_last_word_count(golden_folder, golden_index, golden_model):
    searcher = Searcher(Index(golden_index), golden_model)
    assert searcher.queries.words("a man on a train") != searcher.queries.words("a man on a train.")
    typed, whole = (searcher.find_images(f"a man on a train{end}", k=56, rerank="all") for end in ("", "."))
    assert [hit.id for hit in typed.hits] == [hit.id for hit in whole.hits]
    assert [hit.alignment for hit in typed.hits] == [hit.alignment for hit in whole.hits]


def test_a_models_own_texts_are_encoded_as_they_are(golden_model):
    one, other = (golden_model.encode_texts([text]).parts.vectors for text in ("a man on a train", "a man on a train."))
    assert len(other) == len(one) + 1


def test_an_index_carries_the_ending_and_info_shows_it(scenes_folder, tmp_path, capsys):
    model = load(scenes_folder / "model", SCENES_SETTINGS)
    model.caption_ending = "!"
    create_index(tmp_path / "index", model, Contents(scenes_folder / "data", "minival"))
    assert Index(tmp_path / "index").model().caption_ending == "!"
    assert main(["info", "--index", str(tmp_path / "index"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["caption_ending"] == "!"


def test_what_was_not_understood_is_in_json_and_in_the_terminal(scenes_index, capsys):
    query = ["query", "--index", str(scenes_index), "a red собака square 🐕"]
    assert main([*query, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [piece["text"] for piece in found["left_out"]] == ["собака", "🐕"]
    assert "собака" in found["note"]
    assert main(query) == 0
    assert found["note"] in capsys.readouterr().out
    assert main([*query[:-1], "собака 🐕"]) == 1
    assert "the query is empty" in capsys.readouterr().err


def test_a_converted_checkpoint_is_taken_to_have_the_originals_period(golden_folder, tmp_path):
    assert read_caption_ending(golden_folder / "model") == "."
    (tmp_path / MODEL_JSON).write_text((golden_folder / "model" / MODEL_JSON).read_text().replace('"."', '"?!"'))
    with pytest.raises(ValueError, match="caption_ending"):
        read_caption_ending(tmp_path)


def test_a_workdir_that_does_not_say_gives_no_ending(tmp_path):
    (tmp_path / MODEL_JSON).write_text("{}")
    assert read_caption_ending(tmp_path) is None
