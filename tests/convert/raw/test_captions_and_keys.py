import collections
import json
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from aladin_jax.data.records import read_image_keys
from aladin_jax.errors import DataError
from convert.raw.vinvl_files import check_image_keys, read_captions
from tests.convert.raw.raw_vinvl import E2E


def save(path, content, legacy=True):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def captions_refusal(path):
    with pytest.raises(DataError) as caught:
        read_captions(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("split", ["train", "minival", "test"])
def test_captions_are_the_golden_ones_in_the_files_order(split):
    path = E2E / "coco_ir" / f"{split}_captions.pt"
    golden = torch.load(path, weights_only=True)
    captions = read_captions(path)
    assert list(captions) == [str(image) for image in golden]
    assert list(captions.values()) == [json.loads(v) if isinstance(v, str) else v for v in golden.values()]


@pytest.mark.parametrize("legacy", [True, False])
def test_captions_come_in_either_torch_format_with_any_number_of_them(tmp_path, legacy):
    content = {7: ["one"], "an-image.8": json.dumps(["ä", "b", "c"])}
    path = save(tmp_path / "test_captions.pt", content, legacy)
    assert read_captions(path) == {"7": ["one"], "an-image.8": ["ä", "b", "c"]}


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_names_code_is_refused_by_that_name_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    message = captions_refusal(save(tmp_path / "x.pt", {1: Attack()}, legacy))
    assert message.endswith(": refused: its pickle names posix.system; only tensors and plain data are read")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_captions_file_cut_short_is_refused(tmp_path, legacy, share):
    path = save(tmp_path / "x.pt", {image: ["a caption"] for image in range(100)}, legacy)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert re.search("damaged|truncated|not a file that torch.save wrote", captions_refusal(path))


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({1: ["a"]}, protocol=4))
    assert "not a file that torch.save wrote" in captions_refusal(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, ": holds nothing, expected a dict"),
        (["a"], ": holds a value of type list, expected a dict"),
        ({5: []}, ", image 5: no caption; "),
        ({5: "[]"}, ", image 5: no caption; "),
        ({5: "a caption"}, ", image 5: not JSON that can be read"),
        ({5: "[" * 100_000}, ", image 5: not JSON that can be read (nested too deeply)"),
        ({5: '{"a": 1}'}, ", image 5: captions are a value of type dict, expected a list"),
        ({5: None}, ", image 5: captions are a value of type NoneType, expected a list"),
        ({5: ["a", 6]}, ", image 5: caption 1 is 6, expected a text"),
        ({5: '["\\ud800"]'}, ", image 5: caption 0 has half of a surrogate pair"),
        ({5: ["a"], "5": ["b"]}, ", image 5: the id stands there as a number and as text"),
        ({"../5": ["a"]}, ": '../5' is no image id"),
        ({".5": ["a"]}, ": '.5' is no image id"),
        ({"5\n": ["a"]}, r": '5\n' is no image id"),
        ({"5" * 129: ["a"]}, " is no image id"),
        ({"": ["a"]}, ": '' is no image id"),
        ({True: ["a"]}, ": True is no image id"),
        ({5.0: ["a"]}, ": refused: a dict of its pickle has a float as key"),
        ({10**200: ["a"]}, ": refused: a dict of its pickle has a number that is too large as key"),
        (collections.OrderedDict({5: torch.zeros(2)}), ", image 5: captions are a value of type Tensor"),
    ],
)
def test_bad_captions_are_refused(tmp_path, content, found):
    assert found in captions_refusal(save(tmp_path / "x.pt", content))


def test_image_keys_give_the_order_in_which_the_original_evaluates():
    keys = read_image_keys(E2E / "coco_ir" / "test_img_keys_1k.tsv")
    with np.load(E2E / "examples.npz") as examples:
        evaluated = list(dict.fromkeys(str(image) for image in examples["50_50_34/test/image_id"]))
    assert len(keys) == 50
    assert evaluated == keys[: len(evaluated)]
    assert evaluated != list(read_captions(E2E / "coco_ir" / "test_captions.pt"))[: len(evaluated)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no image id in it; write one a line"),
        ("1\n\n2\n", "row 1 (line 2): '' is no image id"),
        ("1\n2\n1\n", "row 2 (line 3), image 1: row 0 is this image too"),
        ("1\n../2\n", "row 1 (line 2): '../2' is no image id"),
        ("1\n" + "2" * 1_000_000, "row 1 (line 2): '222"),
    ],
)
def test_bad_image_keys_are_refused(tmp_path, text, found):
    path = tmp_path / "keys.tsv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_image_keys(path)
    assert str(caught.value).startswith(str(path))
    assert found in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf1\r\n2\r\n",
        "1\r\n2\r\n\r\n".encode("utf-16"),
        b"\xfe\xff" + "1\n2".encode("utf-16-be"),
        b"1\r2\r",
        b"1\n2\n\n\n",
    ],
    ids=["byte order mark", "UTF-16", "UTF-16 of the other order", "line ends of old", "empty lines at the end"],
)
def test_image_keys_may_come_from_any_editor(tmp_path, content):
    path = tmp_path / "keys.tsv"
    path.write_bytes(content)
    assert read_image_keys(path) == ["1", "2"]


def test_a_key_of_an_unknown_image_is_refused(tmp_path):
    path = tmp_path / "keys.tsv"
    path.write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"keys\.tsv, row 2 \(line 3\), image 3: an image without captions"):
        check_image_keys(path, {"1", "2"})
