import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from convert.raw import indexed_tsv
from convert.raw.vinvl_files import VinvlFiles
from tests.convert.raw.raw_vinvl import E2E, GOLDEN_FEATURES, Raw, read_rows, refusal


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


@pytest.mark.parametrize("lengths", ["50_50_34", "12_10_5"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_regions_and_boxes_are_those_of_the_original(split, lengths):
    with np.load(E2E / "examples.npz") as examples:
        golden = {
            name: examples[f"{lengths}/{split}/{name}"]
            for name in ("image_id", "region_len", "region_feature_sum", "region_box")
        }
    files = VinvlFiles(GOLDEN_FEATURES)
    for image, length, sums, boxes in zip(*golden.values(), strict=True):
        regions = files.detections(str(image)).regions[: len(sums)]
        assert len(regions) == length
        np.testing.assert_array_equal(regions.sum(-1), sums[:length])
        np.testing.assert_array_equal(regions[:, -6:], boxes[:length])


def test_tags_are_the_detections_classes_in_their_order_with_or_without_the_image_size():
    files = VinvlFiles(GOLDEN_FEATURES)
    for row in read_rows(GOLDEN_FEATURES.with_name("predictions.tsv"), 70):
        found = json.loads(row[1])
        objects = found if isinstance(found, list) else found["objects"]
        assert files.detections(row[0].decode()).tags == [item["class"] for item in objects]


def test_predictions_are_found_by_their_id_whatever_their_order(raw):
    classes = [item["class"] for item in json.loads(raw.predictions[2][1])["objects"]]
    raw.predictions.reverse()
    files = VinvlFiles(raw.write())
    assert files.detections("473681").tags == classes


def test_an_image_without_detections_has_no_regions_and_no_tags(raw):
    raw.set_regions(2, np.zeros((0, 2054)))
    files = VinvlFiles(raw.write())
    regions, tags = files.detections("473681")
    assert regions.shape == (0, 2054)
    assert tags == []


def test_regions_may_be_half_precision(raw):
    regions = VinvlFiles(raw.write()).detections("473681", np.float16).regions
    np.testing.assert_array_equal(regions, raw.regions(2).astype(np.float16))


def test_reading_needs_neither_torch_nor_tensorflow():
    code = (
        "import sys; from convert.raw.vinvl_files import VinvlFiles; VinvlFiles(sys.argv[1]); "
        "sys.exit(bool({'torch', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, GOLDEN_FEATURES], check=True)


def test_a_missing_file_of_features_is_named(raw):
    path = raw.write()
    path.unlink()
    assert refusal(path).startswith(f"{path}: no such file; ")


@pytest.mark.parametrize(
    "names",
    [["features.lineidx"], ["imageid2idx.json"], ["features.lineidx", "imageid2idx.json"], ["predictions.lineidx"]],
)
def test_without_its_index_files_rows_are_found_by_reading_once(raw, names):
    path = raw.write()
    path.write_bytes(path.read_bytes() + b"\n\r\n")
    if "features.lineidx" not in names:
        path.write_bytes(path.read_bytes().removesuffix(b"\n\r\n"))
    files = VinvlFiles(path)
    expected = {image: files.detections(image) for image in raw.index}
    for name in names:
        (raw.folder / name).unlink()
    files = VinvlFiles(path)
    assert set(files.names()) == set(raw.index)
    for image, (regions, tags) in expected.items():
        np.testing.assert_array_equal(files.detections(image).regions, regions)
        assert files.detections(image).tags == tags


def test_without_predictions_images_have_no_tags_and_that_is_said(raw):
    path = raw.write()
    path.with_name("predictions.tsv").unlink()
    files = VinvlFiles(path)
    assert files.notes == [f"there is no predictions.tsv beside {path}: images have no tags"]
    assert files.detections("473681").tags == []
    np.testing.assert_array_equal(files.detections("473681").regions, raw.regions(2))


def test_what_one_reader_found_no_other_has_to_look_for(raw, monkeypatch):
    path = raw.write()
    for name in ("features.lineidx", "imageid2idx.json", "predictions.lineidx"):
        (raw.folder / name).unlink()
    content = pickle.dumps(VinvlFiles(path))
    monkeypatch.setattr(indexed_tsv, "_find_offsets", None)
    found = pickle.loads(content).detections("473681")
    assert len(found.regions) == len(found.tags) == 6


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
    files = VinvlFiles(raw.write(), feature_dim=2048)
    assert files.detections("473681").regions.shape == (6, 2048)


def test_features_cut_within_a_float_are_refused(raw):
    raw.features[2][2] = raw.features[2][2][:-8]
    message = refusal(raw.write())
    assert "row 2 (line 3), image 473681: box count 6 with 49,290 bytes of features, expected 49,296" in message


@pytest.mark.parametrize("text", [b"AAA", b"A*AA", b"\xff\x00"])
def test_bad_base64_is_refused(raw, text):
    raw.features[2][2] = text
    assert "features.tsv, row 2 (line 3), image 473681: features: not base64" in refusal(raw.write())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_feature_that_is_not_finite_is_refused(raw, value):
    regions = raw.regions(2)
    regions[4, 17] = value
    raw.set_regions(2, regions)
    message = refusal(raw.write())
    assert f"features.tsv, row 2 (line 3), image 473681: features: {value} in region 4, column 17; " in message


def test_a_feature_too_large_for_half_precision_is_refused(raw):
    regions = raw.regions(2)
    regions[4, 17] = 70_000
    raw.set_regions(2, regions)
    message = refusal(raw.write(), dtype=np.float16)
    assert "row 2 (line 3), image 473681: features: 70000 in region 4, column 17 is too large for float16" in message


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
        ('{"1\\n2": 2}', "imageid2idx.json: an image's id is '1\\n2', expected 1 to 512 letters and no control"),
    ],
)
def test_a_bad_image_index_is_refused(raw, text, found):
    path = raw.write()
    (raw.folder / "imageid2idx.json").write_text(text)
    assert found in refusal(path)
