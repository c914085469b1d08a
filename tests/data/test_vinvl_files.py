import base64
import collections
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aladin_jax.data.errors import DataError
from aladin_jax.data.vinvl_files import VinvlFiles, check_image_keys, read_captions, read_image_keys

E2E = Path(__file__).parents[1] / "golden" / "e2e"
GOLDEN_FEATURES = E2E / "model_0060000" / "features.tsv"


def read_rows(path, count):
    with open(path, "rb") as file:
        return [file.readline().removesuffix(b"\n").split(b"\t") for _ in range(count)]


class Raw:
    """The first four rows of the golden files, to be spoilt; row 2 is image 473681 with 6 boxes."""

    def __init__(self, folder):
        self.folder = folder
        self.features = read_rows(GOLDEN_FEATURES, 4)
        self.predictions = read_rows(GOLDEN_FEATURES.with_name("predictions.tsv"), 4)
        self.index = {row[0].decode(): number for number, row in enumerate(self.features)}

    def write(self):
        for name, rows in (("features", self.features), ("predictions", self.predictions)):
            lines = [b"\t".join(row) + b"\n" for row in rows]
            offsets = np.cumsum([0, *map(len, lines)])[:-1]
            (self.folder / f"{name}.tsv").write_bytes(b"".join(lines))
            (self.folder / f"{name}.lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
        (self.folder / "imageid2idx.json").write_text(json.dumps(self.index))
        return self.folder / "features.tsv"

    def set_objects(self, row, objects):
        self.predictions[row][1] = json.dumps(objects).encode()

    def set_regions(self, row, regions):
        self.features[row][1] = str(len(regions)).encode()
        self.features[row][2] = base64.b64encode(regions.astype("<f4").tobytes())
        self.set_objects(row, [{"class": "cat"}] * len(regions))

    def regions(self, row):
        return np.frombuffer(base64.b64decode(self.features[row][2]), "<f4").reshape(-1, 2054).copy()


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


def refusal(path, image="473681", **options):
    with pytest.raises(DataError) as caught, VinvlFiles(path, **options) as files:
        files.detections(image)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("lengths", ["50_50_34", "12_10_5"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_regions_and_boxes_are_those_of_the_original(split, lengths):
    with np.load(E2E / "examples.npz") as examples:
        golden = {
            name: examples[f"{lengths}/{split}/{name}"]
            for name in ("image_id", "region_len", "region_feature_sum", "region_box")
        }
    with VinvlFiles(GOLDEN_FEATURES) as files:
        for image, length, sums, boxes in zip(*golden.values(), strict=True):
            regions = files.detections(str(image)).regions[: len(sums)]
            assert len(regions) == length
            np.testing.assert_array_equal(regions.sum(-1), sums[:length])
            np.testing.assert_array_equal(regions[:, -6:], boxes[:length])


def test_tags_are_the_detections_classes_in_their_order_with_or_without_the_image_size():
    with VinvlFiles(GOLDEN_FEATURES) as files:
        for row in read_rows(GOLDEN_FEATURES.with_name("predictions.tsv"), 70):
            found = json.loads(row[1])
            objects = found if isinstance(found, list) else found["objects"]
            assert files.detections(row[0].decode()).tags == [item["class"] for item in objects]


def test_predictions_are_found_by_their_id_whatever_their_order(raw):
    classes = [item["class"] for item in json.loads(raw.predictions[2][1])["objects"]]
    raw.predictions.reverse()
    with VinvlFiles(raw.write()) as files:
        assert files.detections("473681").tags == classes


def test_an_image_without_detections_has_no_regions_and_no_tags(raw):
    raw.set_regions(2, np.zeros((0, 2054)))
    with VinvlFiles(raw.write()) as files:
        regions, tags = files.detections("473681")
    assert regions.shape == (0, 2054)
    assert tags == []


def test_regions_may_be_half_precision(raw):
    with VinvlFiles(raw.write(), dtype=np.float16) as files:
        regions = files.detections("473681").regions
    np.testing.assert_array_equal(regions, raw.regions(2).astype(np.float16))


def test_the_last_row_needs_no_line_end_and_lines_may_end_as_on_windows(raw):
    for row in raw.features:
        row[2] += b"\r"
    path = raw.write()
    path.write_bytes(path.read_bytes().removesuffix(b"\r\n"))
    with VinvlFiles(path) as files:
        assert len(files.detections("437534").regions) == 3
        assert len(files.detections("473681").regions) == 6


def test_reading_needs_neither_torch_nor_tensorflow():
    code = (
        "import sys; from aladin_jax.data.vinvl_files import VinvlFiles; VinvlFiles(sys.argv[1]).close(); "
        "sys.exit(bool({'torch', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, GOLDEN_FEATURES], check=True)


@pytest.mark.parametrize("name", ["features.tsv", "features.lineidx", "imageid2idx.json", "predictions.tsv"])
def test_a_missing_file_is_named(raw, name):
    path = raw.write()
    (raw.folder / name).unlink()
    assert refusal(path).startswith(f"{raw.folder / name}: no such file; ")


def test_a_truncated_tsv_is_refused_naming_the_first_row_that_is_gone(raw):
    path = raw.write()
    path.write_bytes(path.read_bytes()[:250_000])
    message = refusal(path)
    assert message.startswith(f"{raw.folder / 'features.lineidx'}, row 3 (line 4), image 437534: byte ")
    assert "past the end of features.tsv (250,000 bytes)" in message


def test_a_last_row_cut_short_is_refused(raw):
    path = raw.write()
    path.write_bytes(path.read_bytes()[:-1002])
    assert "features.tsv, row 3 (line 4), image 437534: " in refusal(path, "437534")


def test_a_file_cut_while_it_is_read_is_refused(raw):
    path = raw.write()
    with VinvlFiles(path) as files:
        path.write_bytes(path.read_bytes()[:100_000])
        with pytest.raises(DataError, match=r"tsv, row 2 \(line 3\), image 473681: .* bytes were expected, 0 are"):
            files.detections("473681")


def test_an_index_that_lacks_rows_is_refused(raw):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    index.write_text("".join(index.read_text().splitlines(True)[:2]))
    assert "imageid2idx.json, image 473681: row 2, but features.tsv has 2 rows" in refusal(path)


def test_a_row_number_below_zero_is_refused(raw):
    raw.index["473681"] = -1
    assert "imageid2idx.json, image 473681: row -1, but features.tsv has 4 rows" in refusal(raw.write())


@pytest.mark.parametrize(
    ("row", "offset", "found"),
    [
        (2, "-5", "'-5' is no byte offset"),
        (2, "1e3", "'1e3' is no byte offset"),
        (2, "9" * 1000, "is no byte offset"),
        (2, "99999999999", "byte 99,999,999,999 is past the end"),
        (2, "7", "a row cannot begin at byte 7"),
        (0, "7", "a row cannot begin at byte 7"),
    ],
)
def test_an_impossible_offset_is_refused(raw, row, offset, found):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    lines = index.read_text().splitlines()
    lines[row] = offset
    index.write_text("\n".join(lines))
    message = refusal(path)
    assert f"features.lineidx, row {row} (line {row + 1}), image {list(raw.index)[row]}: " in message
    assert found in message


@pytest.mark.parametrize("shift", [3, -7000])
def test_an_offset_that_is_not_a_line_start_is_refused(raw, shift):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    lines = index.read_text().splitlines()
    lines[3] = str(int(lines[3]) + shift)
    index.write_text("\n".join(lines))
    message = refusal(path)
    assert "features.tsv, row 2 (line 3), image 473681: by the .lineidx this row does not end where a line" in message


def test_an_index_that_skips_a_line_is_refused(raw):
    del raw.index["437534"]
    path = raw.write()
    index = raw.folder / "features.lineidx"
    index.write_text("".join(index.read_text().splitlines(True)[:3]))
    assert "row 2 (line 3), image 473681: by the .lineidx this row is several lines long" in refusal(path)


def test_an_id_that_disagrees_with_the_row_is_refused(raw):
    raw.index["473681"], raw.index["437534"] = 3, 2
    message = refusal(raw.write())
    assert "features.tsv, row 3 (line 4), image 473681: the row is that of '437534'; " in message


def test_an_image_that_is_not_there_is_refused(raw):
    message = refusal(raw.write(), "12")
    assert "image 12: 1 of 1 images, this one first, are not in " in message
    assert "imageid2idx.json; " in message


def test_an_image_without_predictions_is_refused(raw):
    del raw.predictions[2]
    message = refusal(raw.write())
    assert "image 473681: " in message
    assert "not in " in message
    assert "predictions.tsv" in message


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (b"5", "box count 5 with 49,296 bytes of features, which are 6 boxes of 2054 float32"),
        (b"0", "box count 0 with 49,296 bytes of features, which are 6 boxes of 2054 float32"),
        (b"-6", "box count '-6', expected 0 to 1000"),
        (b"1001", "box count '1001', expected 0 to 1000"),
        (b"9" * 5000, "box count '999"),
        (b"six", "box count 'six', expected 0 to 1000"),
    ],
)
def test_a_box_count_that_disagrees_is_refused(raw, count, found):
    raw.features[2][1] = count
    message = refusal(raw.write())
    assert "features.tsv, row 2 (line 3), image 473681: " in message
    assert found in message


def test_a_wrong_feature_width_is_refused_naming_the_flag_that_admits_it(raw):
    raw.set_regions(2, np.ones((6, 2048)))
    message = refusal(raw.write())
    assert "features.tsv, row 2 (line 3), image 473681: " in message
    assert "2048 features a box, expected 2054; if all rows are so wide, pass --feature_dim 2048" in message


def test_another_feature_width_is_read_when_asked_for(raw):
    raw.set_regions(2, np.ones((6, 2048)))
    with VinvlFiles(raw.write(), feature_dim=2048) as files:
        assert files.detections("473681").regions.shape == (6, 2048)


def test_features_cut_within_a_float_are_refused(raw):
    raw.features[2][2] = raw.features[2][2][:-8]
    message = refusal(raw.write())
    assert "row 2 (line 3), image 473681: box count 6 with 49,290 bytes of features, expected 49,296" in message


@pytest.mark.parametrize("text", [b"AAA", b"A*AA", b"\xff\x00"])
def test_bad_base64_is_refused(raw, text):
    raw.features[2][2] = text
    assert "features.tsv, row 2 (line 3), image 473681: the features are not base64" in refusal(raw.write())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_refused(raw, value):
    regions = raw.regions(2)
    regions[4, 17] = value
    raw.set_regions(2, regions)
    message = refusal(raw.write())
    assert f"features.tsv, row 2 (line 3), image 473681: {value} in region 4, column 17; " in message


def test_a_feature_too_large_for_half_precision_is_refused(raw):
    regions = raw.regions(2)
    regions[4, 17] = 70_000
    raw.set_regions(2, regions)
    message = refusal(raw.write(), dtype=np.float16)
    assert "row 2 (line 3), image 473681: 70000.0 in region 4, column 17 is too large for float16" in message


def test_an_absurdly_long_row_is_refused_before_it_is_read(raw):
    path = raw.write()
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # zeros that take no space on the disk, and would not fit into memory
    message = refusal(path, "437534")
    assert "features.tsv, row 3 (line 4), image 437534: 1,099,511,3" in message
    assert "more than the 10,954,922" in message


@pytest.mark.parametrize("fields", [1, 2, 4])
def test_a_row_with_too_few_or_too_many_fields_is_refused(raw, fields):
    raw.features[2] = [*raw.features[2], b"more"][:fields]
    message = refusal(raw.write())
    assert f"row 2 (line 3), image 473681: {fields} tab-separated fields, expected 3" in message


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"{", "not JSON that can be read"),
        (b"[" * 100_000, "not JSON that can be read (nested too deeply)"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        (b"7", "detections are 7, expected a list"),
        (b"{}", "detections are a value of type NoneType, expected a list"),
        (b'["cat", 3]', "class of object 1 is 3, expected a text"),
        (b'[{"class": ["cat"]}]', "class of object 0 is a value of type list"),
        (b'[{"rect": []}]', "class of object 0 is a value of type NoneType"),
        (b'[{"class": "\\ud800"}]', "class of object 0 has half of a surrogate pair"),
        (b'[{"class": "cat", "class": "dog"}]', "'class' stands in one JSON object twice"),
    ],
)
def test_bad_detections_are_refused(raw, text, found):
    raw.predictions[2][1] = text
    message = refusal(raw.write())
    assert "predictions.tsv, row 2 (line 3), image 473681: " in message
    assert found in message


def test_as_many_detections_as_boxes_are_required(raw):
    raw.set_objects(2, [{"class": "cat"}] * 5)
    message = refusal(raw.write())
    assert "predictions.tsv, row 2 (line 3), image 473681: 5 detections, but " in message
    assert "features.tsv has 6 boxes" in message


def test_an_image_with_two_rows_of_predictions_is_refused(raw):
    raw.predictions[3] = raw.predictions[2]
    assert "predictions.tsv, row 3 (line 4), image 473681: row 2 is this image's too" in refusal(raw.write())


def test_a_row_of_predictions_without_an_id_is_refused(raw):
    raw.predictions[3][0] = b"../x"
    assert "predictions.tsv, row 3 (line 4): '../x' is no image id; " in refusal(raw.write())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "imageid2idx.json: not JSON that can be read"),
        ("[" * 100_000, "imageid2idx.json: not JSON that can be read (nested too deeply)"),
        ("[]", "imageid2idx.json: holds a value of type list, expected an object"),
        ('{"473681": 2, "473681": 1}', "imageid2idx.json: '473681' stands in one JSON object twice"),
        ('{"473681": 2, "12": 2}', "imageid2idx.json, image 12: row 2 is image 473681 too"),
        ('{"473681": true}', "imageid2idx.json, image 473681: row is True, expected a whole number"),
        ('{"473681": "2"}', "imageid2idx.json, image 473681: row is '2', expected a whole number"),
        ('{"/etc/passwd": 2}', "imageid2idx.json: '/etc/passwd' is no image id"),
    ],
)
def test_a_bad_image_index_is_refused(raw, text, found):
    path = raw.write()
    (raw.folder / "imageid2idx.json").write_text(text)
    assert found in refusal(path)


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
    assert message.endswith(": refused, its pickle names posix.system; save ids and texts only")
    assert not Path("attacked").exists()


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_captions_file_cut_short_is_refused(tmp_path, legacy, share):
    path = save(tmp_path / "x.pt", {image: ["a caption"] for image in range(100)}, legacy)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "damaged, or not a torch-saved file" in captions_refusal(path)


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({1: ["a"]}, protocol=4))
    assert "damaged, or not a torch-saved file" in captions_refusal(path)


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
        ({5.0: ["a"]}, ": 5.0 is no image id"),
        ({10**200: ["a"]}, ": a value of type int is no image id"),
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
        ("", "row 0 (line 1): '' is no image id"),
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
    assert str(caught.value).startswith(f"{path}, {found}")
    assert len(str(caught.value)) < 400


def test_image_keys_may_come_from_windows(tmp_path):
    path = tmp_path / "keys.tsv"
    path.write_bytes(b"\xef\xbb\xbf1\r\n2\r\n")
    assert read_image_keys(path) == ["1", "2"]


def test_a_key_of_an_unknown_image_is_refused(tmp_path):
    path = tmp_path / "keys.tsv"
    path.write_text("1\n2\n3\n")
    with pytest.raises(DataError, match=r"keys\.tsv, row 2 \(line 3\), image 3: an image without captions"):
        check_image_keys(path, {"1", "2"})
