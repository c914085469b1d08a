import json
import logging

import pytest

from aladin_jax.errors import DataError
from convert.importing.caption_files import read_caption_files
from convert.importing.captions import read_coco, read_flickr, read_karpathy
from tests.convert import own_features

CAPTIONS = own_features.captions()
EVERY = {image: texts for some in CAPTIONS.values() for image, texts in some.items()}


def texts(splits):
    return {split: {key: image.captions for key, image in images.items()} for split, images in splits.items()}


def read(caption_format, files, lists=None, **options):
    return read_caption_files(caption_format, files, lists or {}, **options).splits


def test_karpathys_file_gives_the_three_splits(tmp_path):
    path = own_features.write_karpathy(tmp_path / "dataset_coco.json", CAPTIONS)
    splits = read("karpathy", [(None, path)])
    assert texts(splits) == CAPTIONS
    assert list(splits) == ["train", "minival", "test"]
    image = splits["test"]["473681"]
    assert (image.name, image.number) == ("COCO_val2014_000000473681.jpg", "473681")


def test_restval_is_trained_on_unless_it_is_left_out(tmp_path):
    images = list(CAPTIONS["train"])
    path = own_features.write_karpathy(
        tmp_path / "dataset_coco.json",
        {"train": CAPTIONS["train"]},
        rename=lambda image: "train" if image in images[:4] else "restval",
    )
    assert list(read("karpathy", [(None, path)])["train"]) == images
    assert list(read("karpathy", [(None, path)], restval=False)["train"]) == images[:4]


def test_a_picture_without_a_number_goes_by_its_name(tmp_path):
    content = {
        "images": [{"filename": "1000092795.jpg", "split": "val", "sentences": [{"raw": "Two men ."}], "imgid": 0}]
    }
    path = tmp_path / "dataset_flickr30k.json"
    path.write_text(json.dumps(content))
    assert texts(read("karpathy", [(None, path)])) == {"minival": {"1000092795": ["Two men ."]}}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"split": "dev"}, "image 1: split 'dev', expected one of train, restval, val, test"),
        ({"cocoid": 1.5}, "image number 0: cocoid is 1.5, expected a whole number"),
        ({"cocoid": -1}, "image number 0: cocoid is -1"),
        ({"filename": None}, "image number 0: filename is a value of type NoneType, expected a text"),
        ({"filename": "1\n.jpg"}, "image number 0: filename is '1\\n.jpg', expected 1 to 512 letters and no control"),
        ({"sentences": []}, "image 1: no sentence"),
        ({"sentences": {}}, "image 1: sentences is a value of type dict, expected a list"),
        ({"sentences": [7]}, "image 1: found 7, expected a JSON object"),
        ({"sentences": [{"tokens": ["a"]}]}, "image 1: the raw text of sentence 0 is a value of type NoneType"),
        ({"sentences": [{"raw": "\ud800"}]}, "image 1: the raw text of sentence 0 has half of a surrogate pair"),
    ],
)
def test_a_bad_image_in_karpathys_file_is_named(tmp_path, change, found):
    image = {"filename": "1.jpg", "cocoid": 1, "split": "train", "sentences": [{"raw": "a"}]} | change
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": [image]}))
    with pytest.raises(DataError) as caught:
        read_karpathy(path, restval=True)
    assert str(caught.value).startswith(f"{path}, {found}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "not JSON that can be read"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "found a value of type list, expected a JSON object"),
        ("{}", "images is a value of type NoneType, expected a list"),
        ('{"images": []}', "no image; check that it is the right file"),
        ('{"images": [1]}', "image number 0: found 1, expected a JSON object"),
    ],
)
def test_a_file_that_is_not_karpathys_is_refused(tmp_path, text, found):
    path = tmp_path / "dataset_coco.json"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_karpathy(path, restval=True)
    assert found in str(caught.value)


def test_an_image_twice_in_karpathys_file_is_refused(tmp_path):
    content = {"train": CAPTIONS["train"], "test": dict(list(CAPTIONS["train"].items())[:1])}
    path = own_features.write_karpathy(tmp_path / "dataset_coco.json", content)
    with pytest.raises(DataError, match=r"image \d+: image number 0 has this id too"):
        read_karpathy(path, restval=True)


def test_cocos_files_are_the_splits_that_the_command_says(tmp_path):
    files = [(split, own_features.write_coco(tmp_path / f"{split}.json", some)) for split, some in CAPTIONS.items()]
    assert texts(read("coco", files)) == CAPTIONS


def test_an_image_in_two_splits_is_refused(tmp_path):
    path = own_features.write_coco(tmp_path / "captions.json", CAPTIONS["test"])
    with pytest.raises(DataError, match=r"captions\.json, image \d+: is in train too; an image has one split"):
        read("coco", [("train", path), ("test", path)])


def test_cocos_images_without_captions_are_left_out_and_counted(tmp_path, caplog):
    content = dict(CAPTIONS["minival"])
    content[next(iter(content))] = []
    path = own_features.write_coco(tmp_path / "captions.json", content)
    with caplog.at_level(logging.WARNING, "absl"):
        assert len(read_coco(path)) == 3
    assert "left out 1 images without captions" in caplog.text


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 2, "caption": "a"}]},
         "annotation 0 is of image 2, which is not in the file"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "category_id": 3}]},
         "image 1: caption of annotation 0 is a value of type NoneType"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}] * 2, "annotations": []}, "image 1: the id comes twice"),
        ({"images": [{"id": True, "file_name": "1.jpg"}], "annotations": []}, "image number 0: id is True"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": []}, "no image with a caption"),
        ({"images": [{"id": 1, "file_name": "1.jpg"}]}, "annotations is a value of type NoneType, expected a list"),
    ],
)  # fmt: skip
def test_a_bad_file_of_coco_is_refused(tmp_path, content, found):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_coco(path)
    assert found in str(caught.value)


@pytest.mark.parametrize("ending", ["", ".jpg"])
def test_flickrs_token_file_is_divided_by_lists_of_images(tmp_path, caplog, ending):
    path = own_features.write_flickr(tmp_path / "results.token", EVERY)
    lists = {split: tmp_path / f"{split}.txt" for split in ("train", "test")}
    for split, file in lists.items():
        file.write_text("".join(f"{image}{ending}\n" for image in CAPTIONS[split]))
    with caplog.at_level(logging.WARNING, "absl"):
        splits = read("flickr", [(None, path)], lists)
    assert texts(splits) == {split: CAPTIONS[split] for split in lists}
    assert "4 images with captions are in no split" in caplog.text


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("a.jpg a caption", "'a.jpg a caption' is not name#number, a tab, and a caption"),
        ("a.jpg\tcaption", "is not name#number"),
        ("a.jpg#x\tcaption", "is not name#number"),
        ("\nb.jpg#2\tthree", "'' is not name#number"),
        ("\x01a.jpg#0\tcaption", "the picture's name is '\\x01a.jpg', expected 1 to 512 letters"),
        ("./b.jpg#2\tthree", "image b: 'b.jpg' and './b.jpg' make one id"),
        ("b.jpg#0\tagain", "image b: caption 0 comes twice"),
    ],
)
def test_a_bad_line_of_a_token_file_is_named(tmp_path, line, found):
    path = tmp_path / "results.token"
    path.write_text(f"b.jpg#0\tone\nb.jpg#1\ttwo\n{line}\n")
    with pytest.raises(DataError) as caught:
        read_flickr(path)
    assert str(caught.value).startswith(f"{path}, row 2 (line 3)")
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        ({"train": "a\nz\n"}, "train, row 1 (line 2), image z: has no captions in "),
        ({"train": "a\nb\n", "test": "b\n"}, "test, row 0 (line 1), image b: is in train too"),
        ({"train": "a\na.jpg\n"}, "train, row 1 (line 2), image a: comes twice"),
        ({"train": "a\n\nb\n"}, "train, row 1 (line 2): the line is ''"),
    ],
)
def test_a_list_that_does_not_fit_the_captions_is_refused(tmp_path, lists, found):
    path = own_features.write_flickr(tmp_path / "results.token", {"a": ["one"], "b": ["two"]})
    files = {split: tmp_path / split for split in lists}
    for split, text in lists.items():
        files[split].write_text(text)
    with pytest.raises(DataError) as caught:
        read("flickr", [(None, path)], files)
    assert found in str(caught.value)


def test_lines_of_a_list_may_end_as_on_windows(tmp_path):
    path = own_features.write_flickr(tmp_path / "results.token", {"a": ["one"], "b": ["two"]})
    (tmp_path / "list").write_bytes(b"a.jpg\r\nb.png\r\n\r\n")
    assert texts(read("flickr", [(None, path)], {"test": tmp_path / "list"})) == {"test": {"a": ["one"], "b": ["two"]}}


@pytest.mark.parametrize(
    ("caption_format", "split", "lists", "found"),
    [
        ("coco", None, {}, "it is not said which split it is; write --captions SPLIT=captions.json"),
        ("coco", "train", {"train": "list"}, "has a split, but there is --split_list too"),
        (
            "karpathy",
            "train",
            {},
            "captions of the format karpathy are one path, and its file says what the splits are",
        ),
        ("coco_ir", None, {"train": "list"}, "captions of the format coco_ir are one path, and its folder says"),
    ],
)
def test_splits_that_are_said_twice_or_not_at_all_are_refused(tmp_path, caption_format, split, lists, found):
    path = own_features.write_coco(tmp_path / "captions.json", CAPTIONS["test"])
    with pytest.raises(DataError, match=found):
        read(caption_format, [(split, path)], {name: tmp_path / file for name, file in lists.items()})


def test_vinvls_captions_are_read_from_their_folder():
    assert texts(read("coco_ir", [(None, own_features.E2E / "coco_ir")])) == CAPTIONS


def caption_ids(splits):
    return {key: image.caption_ids for images in splits.values() for key, image in images.items()}


@pytest.mark.parametrize(
    ("caption_format", "name", "content", "expected"),
    [
        (
            "karpathy",
            "dataset_coco.json",
            {
                "images": [
                    {
                        "filename": "a.jpg",
                        "split": "test",
                        "sentences": [{"raw": "One.", "sentid": 70}, {"raw": "Two.", "sentid": 7}],
                    }
                ]
            },
            ["70", "7"],
        ),
        (
            "coco",
            "captions.json",
            {
                "images": [{"id": 9, "file_name": "a.jpg"}],
                "annotations": [
                    {"image_id": 9, "id": 770337, "caption": "One."},
                    {"image_id": 9, "id": 3, "caption": "2"},
                ],
            },
            ["770337", "3"],
        ),
        ("list", "train_caption.json", [{"image_id": 9, "id": 12, "caption": "One."}], ["12"]),
        ("list", "list.json", [{"image": "a.jpg", "id": 12, "caption": ["One.", "Two."]}], []),
        ("flickr", "token.txt", "a.jpg#1\tOne.\na.jpg#0\tTwo.\n", ["a.jpg#1", "a.jpg#0"]),
        ("flickr", "captions.txt", "image,caption\na.jpg,One.\na.jpg,Two.\n", []),
    ],
)
def test_captions_keep_the_ids_that_their_file_gives_them(caption_format, name, content, expected, tmp_path):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    split = None if caption_format == "karpathy" else "test"
    [ids] = caption_ids(read(caption_format, [(split, path)])).values()
    assert ids == expected


@pytest.mark.parametrize(
    ("second", "problem"), [({"id": 1}, "several captions have one id"), ({}, "some captions have no id")]
)
def test_ids_that_do_not_tell_captions_apart_are_left_out_with_a_warning(second, problem, tmp_path, caplog):
    annotations = [{"image_id": 9, "caption": "One.", "id": 1}, {"image_id": 9, "caption": "Two."} | second]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": [{"id": 9}], "annotations": annotations}))
    with caplog.at_level(logging.WARNING):
        assert caption_ids(read("coco", [("test", path)])) == {"9": []}
    assert problem in caplog.text
