import posixpath
import re
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aladin_jax.errors import DataError
from aladin_jax.image_names import Found, NameIndex, coco_number, find_files, image_id, image_ids, is_picture
from aladin_jax.untrusted import check_image_id


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat.jpg", "cat"),
        ("cat", "cat"),
        ("cat.v2.JPEG", "cat.v2"),
        ("1000268201_693b08cb0e.jpg", "1000268201_693b08cb0e"),
        ("COCO_val2014_000000391895.jpg", "COCO_val2014_000000391895"),
        ("more/cat.jpg", "more~cat"),
        ("./more//cat.jpg", "more~cat"),
        ("../cat.jpg", "cat"),
        ("/data/cat.jpg", "data~cat"),
        ("C:\\data\\cat.jpg", "data~cat"),
        ("my cat.jpg", "my_cat-8077c58e2983"),
        ("東京.jpg", "_-130016b2599b"),
        ("大阪.jpg", "_-6df977461d52"),
        ("my cats/cat.jpg", "my_cats-9b42497288e1~cat"),
        (".cat.jpg", "_cat-0dc6f7c1c41c"),
    ],
)
def test_an_id_is_made_of_the_name_alone_and_stays_as_it_is(name, expected):
    assert image_id(name) == expected


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=300))
@example("a" * 300)
@example("~")
@example("a~b")
@example("...")
@settings(max_examples=300, deadline=None)
def test_any_name_has_an_id_that_is_safe(name):
    try:
        image = image_id(name)
    except DataError:
        assert not re.sub(r"[./\\\s]|^[A-Za-z]:", "", name), name
        return
    assert check_image_id(image) == image
    assert "/" not in image


@given(st.lists(st.text(st.sampled_from("aB._-~ 東/é"), min_size=1, max_size=6), min_size=2, max_size=2, unique=True))
@settings(max_examples=500, deadline=None)
def test_two_names_that_are_not_one_path_have_two_ids(names):
    paths = {posixpath.normpath("/" + unicodedata.normalize("NFC", name).strip(" /")).strip() for name in names}
    if len(paths) == 2 and not paths & {"/", "//"}:
        assert image_id(names[0]) != image_id(names[1])


def test_letters_that_are_composed_otherwise_are_the_same_name():
    assert image_id("caf\u00e9.jpg") == image_id("cafe\u0301.jpg")


def test_two_names_of_one_id_are_an_error(tmp_path):
    assert image_ids(["a.jpg", "b/a.jpg"], tmp_path) == {"a": "a.jpg", "b~a": "b/a.jpg"}
    with pytest.raises(DataError, match=r"image a: 'a.jpg' and 'a.png' make one id; rename one"):
        image_ids(["a.jpg", "a.png"], tmp_path)


def test_features_that_are_called_by_ids_keep_them(tmp_path):
    ids = [image_id(name) for name in ("two/b.jpg", "b.jpg", "my cats/cat.jpg", "東京.jpg")]
    assert image_ids(ids, tmp_path) == {image: image for image in ids}
    assert list(image_ids(["a~b.jpg"], tmp_path)) == [image_id("a~b.jpg")] != ["a~b"]


@pytest.mark.parametrize("name", ["", "  ", "/", "./", ".."])
def test_nothing_is_no_name(name):
    with pytest.raises(DataError, match="is no name of an image"):
        image_id(name)


WAYS = [
    ("cat.jpg", "cat.jpg", "as they are called"),
    ("cat.jpg", "cat", "by the name without its ending"),
    ("cat", "cat.jpg", "by the name without its ending"),
    ("my cat.jpg", image_id("my cat.jpg"), "by the id that is made of the name"),
    ("a/my cat.jpg", image_id("a/my cat.jpg"), "by the id that is made of the name"),
    ("my cat.jpg", image_id("a/my cat.jpg"), "by the name without its folder"),
    ("a/cat.jpg", "cat", "by the name without its folder"),
    ("cat.jpg", "a/b/cat.jpg", "by the name without its folder"),
    ("b/cat.jpg", "a/b/cat.jpg", "by the name without its folder"),
    ("CAT.jpg", "a/cat", "by the name in capital or small letters"),
    ("COCO_val2014_000000000017.jpg", "17", "by the number in the name"),
    ("17", "coco_train2014_000000000017", "by the number in the name"),
    ("17.jpg", "flickr30k_000000017", "by the number in the name"),
    ("flickr30k_17.jpg", "000017", "by the number in the name"),
    ("000000000017.jpg", "17", "by the number in the name"),
]


@pytest.mark.parametrize(("sought", "there", "how"), WAYS)
def test_a_name_is_found_whichever_way_it_is_written(sought, there, how):
    assert NameIndex(["other", there]).find(sought) == Found(there, how)


@pytest.mark.parametrize(
    ("sought", "there"),
    [
        ("cat.jpg", ["cats", "a/cats.jpg"]),
        ("a/cat.jpg", ["b/cat.jpg"]),
        ("dog_17.jpg", ["cat_17"]),
        ("b17.jpg", ["17"]),
        ("170.jpg", ["17"]),
        ("17_1.jpg", ["17"]),
    ],
)
def test_another_name_is_not_found(sought, there):
    assert NameIndex(there).find(sought) is None


def test_the_strictest_way_counts():
    names = NameIndex(["a/17.jpg", "17.jpg", "17", "0017", "coco_val2014_000000000017"])
    assert names.find("17.jpg") == Found("17.jpg", "as they are called")
    assert names.find("17") == Found("17", "as they are called")
    assert names.find("0017.jpg") == Found("0017", "by the name without its ending")


def test_a_number_beside_the_name_finds_what_the_name_does_not():
    names = NameIndex(["17", "000018"])
    assert names.find("photo.jpg", "17") == Found("17", "by the name without its ending")
    assert names.find("photo.jpg", "18") == Found("000018", "by the number in the name")
    with pytest.raises(DataError, match=r"'17.jpg' \(number 18\) may be"):
        NameIndex(["17", "18"]).find("17.jpg", "18")


@pytest.mark.parametrize(
    ("name", "number"), [("val2014/COCO_val2014_000000391895.jpg", "391895"), ("391895.jpg", None), ("coco_1", None)]
)
def test_cocos_own_names_tell_their_number(name, number):
    assert coco_number(name) == number


def test_pictures_are_found_in_folders_whatever_the_case_of_their_endings(tmp_path):
    for name in ("b.JPG", "a/c.tiff", "a/.hidden.jpg", ".d/e.jpg", "notes.txt", "f.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert list(filter(is_picture, find_files(tmp_path))) == ["b.JPG", "f.heic", "a/c.tiff"]
