"""Captions as people have them, whichever program wrote the file."""

import json

import pytest

from aladin_jax.errors import DataError
from aladin_jax.image_names import image_id
from convert.importing.caption_files import CAPTION_FORMATS, read_caption_files, recognise_captions

TEXTS = ["A dog runs .", "Two dogs , one red ."]


def read(path, split="test", caption_format=None):
    """Captions by id, of a file whose format is recognised."""
    splits = read_caption_files(caption_format, [(split, path)], {}).splits
    return {name: {key: image.captions for key, image in images.items()} for name, images in splits.items()}


def refusal(path, split="test"):
    with pytest.raises(DataError) as caught:
        read(path, split)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def write(path, content, encoding="utf-8"):
    path.write_bytes(
        (content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)).encode(encoding)
    )
    return path


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"id": 7, "file_name": "yummy/taco.jpg"}, "7"),
        ({"id": 7, "file_name": "image (1).jpg"}, "7"),
        ({"id": "1000092795", "file_name": "1000092795.jpg"}, "1000092795"),
        ({"id": 12345678901234567, "file_name": "a.jpg"}, "12345678901234567"),
        ({"id": "東京", "file_name": "東京.jpg"}, image_id("東京")),
        ({"id": 7}, "7"),
    ],
)
def test_cocos_annotations_with_any_names_and_ids(tmp_path, image, expected):
    content = {"images": [image], "annotations": [{"image_id": image["id"], "id": 1, "caption": TEXTS[0]}]}
    assert read(write(tmp_path / "captions.json", content)) == {"test": {expected: TEXTS[:1]}}


def test_ids_as_text_in_one_place_and_as_numbers_in_another_are_the_same(tmp_path):
    content = {"images": [{"id": "7", "file_name": "a.jpg"}], "annotations": [{"image_id": 7, "caption": TEXTS[0]}]}
    assert read(write(tmp_path / "captions.json", content)) == {"test": {"7": TEXTS[:1]}}


def test_files_that_number_different_images_alike_are_refused_with_both_names(tmp_path):
    for name in ("train", "test"):
        content = {"images": [{"id": 1, "file_name": f"{name}.jpg"}], "annotations": [{"image_id": 1, "caption": "a"}]}
        write(tmp_path / f"{name}.json", content)
    files = [(split, tmp_path / f"{split}.json") for split in ("train", "test")]
    with pytest.raises(
        DataError, match=r"test\.json, image 1: is 'test.jpg' here and 'train.jpg' in train; number the"
    ):
        read_caption_files(None, files, {})


ALBEF = "val2014/COCO_val2014_000000391895.jpg"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"image": ALBEF, "caption": TEXTS}], {"391895": TEXTS}),
        ([{"image": ALBEF, "caption": text, "image_id": "coco_391895"} for text in TEXTS], {"391895": TEXTS}),
        ([{"image": "flickr30k-images/1.jpg", "caption": TEXTS}], {"flickr30k-images~1": TEXTS}),
        ([{"image_id": 57870, "id": k, "caption": text} for k, text in enumerate(TEXTS)], {"57870": TEXTS}),
        ([{"image_id": "57870", "id": k, "caption": text} for k, text in enumerate(TEXTS)], {"57870": TEXTS}),
        ([{"file_name": "a.png", "captions": TEXTS}], {"a": TEXTS}),
        ([{"filename": "a.png", "sentences": [{"raw": text} for text in TEXTS]}], {"a": TEXTS}),
        ({"a.jpg": TEXTS, "b.jpg": TEXTS[:1]}, {"a": TEXTS, "b": TEXTS[:1]}),
    ],
    ids=[
        "ALBEF's of a test",
        "ALBEF's to train on",
        "Flickr30k's",
        "Oscar's",
        "Oscar's with text",
        "own",
        "raw",
        "dict",
    ],
)
def test_lists_of_captions(tmp_path, content, expected):
    path = write(tmp_path / "captions.json", content)
    assert recognise_captions(path) == "list"
    assert read(path) == {"test": expected}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], "no captions that are known here; pass --captions_format: karpathy, coco, list, flickr, coco_ir"),
        ([{"image": "a.jpg", "caption": "a"}, {"image": "a.jpg"}], "image of entry 1: no caption; it has to be one of"),
        ([{"image": "a.jpg", "caption": "a"}, {"caption": "a"}], "image of entry 1: no picture; it has to be one of"),
        ([{"image": "a.jpg", "caption": []}], "image of entry 0: no caption; add one or remove the image"),
        ([{"image": "a.jpg", "caption": ["a", 3]}], "image of entry 0: caption 1 is 3, expected a text"),
        ([{"image": None, "caption": "a"}], "image of entry 0: image is null"),
        ([{"image": 1.5, "caption": "a"}], "image of entry 0: image is 1.5, expected a whole number or a name"),
        ([{"image": "a.jpg", "caption": "a"}, {"image": "a.png", "caption": "a"}], "'a.jpg' and 'a.png' make one id"),
        ([{"image": "a.jpg", "caption": "a"}, 7], "image of entry 1: found 7, expected a JSON object"),
    ],
)
def test_a_bad_entry_of_a_list_is_named(tmp_path, content, found):
    assert found in refusal(write(tmp_path / "captions.json", content))


TABLES = {
    "Kaggle's captions.txt": 'image,caption\na.jpg,A dog runs .\na.jpg,"Two dogs , one red ."\n',
    "Kaggle's results.csv": (
        "image_name| comment_number| comment\na.jpg| 0| A dog runs .\na.jpg| 1| Two dogs , one red .\n"
    ),
    "a row that lacks a mark": (
        "image_name| comment_number| comment\na.jpg| 0| A dog runs .\na.jpg| 1   Two dogs , one red .\n"
    ),
    "a comma that is not quoted": "image,caption\na.jpg,A dog runs .\na.jpg,Two dogs , one red .\n",
    "tabs": "filename\tcaption\na.jpg\tA dog runs .\na.jpg\tTwo dogs , one red .\n",
    "Flickr30k's token file": "a.jpg#0\tA dog runs .\na.jpg#1\tTwo dogs , one red .\n",
    "Flickr8k-CN": "a.jpg#zhc#0 A dog runs .\na.jpg#zhc#1 Two dogs , one red .\n",
    "empty last lines": "a.jpg#0\tA dog runs .\na.jpg#1\tTwo dogs , one red .\n\n\r\n",
    "Windows": "image,caption\r\na.jpg,A dog runs .\r\na.jpg,Two dogs , one red .\r\n\r\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TABLES)
def test_lines_of_captions(tmp_path, name, encoding):
    path = write(tmp_path / "captions.txt", TABLES[name], encoding)
    assert recognise_captions(path) == "flickr"
    assert read(path) == {"test": {"a": TEXTS}}


def test_captions_in_other_scripts_of_pictures_in_other_scripts(tmp_path):
    path = write(tmp_path / "captions.txt", "東京.jpg#zhc#0 一只狗\n大阪.jpg#zhc#0 两只狗\n")
    assert read(path) == {"test": {image_id("東京.jpg"): ["一只狗"], image_id("大阪.jpg"): ["两只狗"]}}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("b.jpg", "row 1 (line 2): 1 fields, the first line names 2; mend the line"),
        ("", "row 1 (line 2): 0 fields, the first line names 2; mend the line"),
        ('b.jpg,"not closed', "row 1 (line 2): quotes that do not fit together"),
        (",a caption", "row 1 (line 2): the picture's name is '', expected 1 to 512 letters"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path, line, found):
    assert found in refusal(write(tmp_path / "captions.txt", f"image,caption\n{line}\na.jpg,a caption\n"))


@pytest.mark.parametrize("ending", ["tif", "gif", "JPEG", "heic", "tiff"])
def test_karpathys_file_of_pictures_with_any_ending(tmp_path, ending):
    images = [{"filename": f"airport_1.{ending}", "split": "test", "sentences": [{"raw": TEXTS[0]}]}]
    path = write(tmp_path / "dataset.json", {"images": images})
    assert read(path, split=None) == {"test": {"airport_1": TEXTS[:1]}}


def test_what_is_no_captions_is_not_taken_for_some(tmp_path):
    for content in ({"hidden_size": 8}, {}, [1], "a text", ""):
        path = write(tmp_path / "file.json", content)
        with pytest.raises(DataError, match="no captions that are known here"):
            recognise_captions(path)
    assert recognise_captions(tmp_path) in CAPTION_FORMATS
