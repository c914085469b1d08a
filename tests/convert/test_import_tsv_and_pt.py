from pathlib import Path

import numpy as np
import pytest
import torch

from convert.importing.bottom_up import BottomUpTsv
from convert.importing.oscar import OscarPt, OscarTsv, VinvlReader
from tests.convert import own_features as own
from tests.convert.own_features import refusal

GOLDEN = own.all_golden()
IMAGE = "473681"  # has 6 regions


def test_lxmerts_columns_are_read_with_their_classes_and_scores(tmp_path):
    regions, _ = GOLDEN[IMAGE]
    scores = np.linspace(0.9, 0.3, 6)
    rows = [own.lxmert_row(IMAGE, regions, np.array([0, 1, 1, 0, 2, 2]), scores)]
    files = BottomUpTsv([own.write_tsv(tmp_path / "a.tsv", rows)], ["cat", "dog", "tree"])
    found = files.detections(IMAGE)
    np.testing.assert_allclose(found.regions, regions, atol=3e-7)
    assert found.tags == ["cat", "dog", "dog", "cat", "tree", "tree"]


def test_several_tsv_files_are_one(tmp_path):
    images = list(GOLDEN)[:4]
    rows = [own.bottom_up_row(image, GOLDEN[image].regions) for image in images]
    paths = [own.write_tsv(tmp_path / f"{n}.tsv", rows[n::2]) for n in range(2)]
    files = BottomUpTsv(paths)
    assert set(files.names()) == set(images)
    for image in images:
        np.testing.assert_allclose(files.detections(image).regions, GOLDEN[image].regions, atol=3e-7)
    assert files.notes == ["such files have no classes: images will have no tags"]


@pytest.mark.parametrize(
    ("column", "value", "found"),
    [
        (1, "0", "a picture of 0 x 480 pixels"),
        (1, "-640", "image_w is '-640', expected a whole number"),
        (3, "-6", "num_boxes is '-6', expected a whole number up to 1,000"),
        (3, "5", "boxes takes 96 bytes, which 5 boxes of float32 do not"),
        (3, "1001", "num_boxes is '1001'"),
        (4, "AAAA", "boxes takes 3 bytes, which 6 boxes of float32 do not"),
        (4, "A*A=", "boxes: not base64"),
        (5, "AAA", "features: not base64"),
        (5, "AAAA", "features takes 3 bytes, which 6 boxes"),
        (5, "", "6 regions of 0 features"),
        (5, "x\ty", "7 tab-separated fields, expected 6 or 10"),
    ],
)
def test_a_bad_row_of_a_bottom_up_tsv_is_named(tmp_path, column, value, found):
    row = own.bottom_up_row(IMAGE, GOLDEN[IMAGE].regions)
    row[column] = value
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row("1", GOLDEN[IMAGE].regions), row])
    files = BottomUpTsv([path])
    message = refusal(files.detections, IMAGE)
    assert message.startswith(f"{path}, row 1 (line 2), image {IMAGE}: ")
    assert found in message


def test_an_image_in_two_rows_that_differ_is_refused(tmp_path):
    row, other = (own.bottom_up_row(IMAGE, regions) for regions in (GOLDEN[IMAGE].regions, GOLDEN[IMAGE].regions[1:]))
    path = own.write_tsv(tmp_path / "a.tsv", [row, other])
    message = refusal(BottomUpTsv, [path])
    assert f"{path}, row 1 (line 2), image {IMAGE}: row 0 of {path} is this image's too, and differs" in message
    one, two = own.write_tsv(tmp_path / "b.tsv", [row]), own.write_tsv(tmp_path / "c.tsv", [other])
    message = refusal(BottomUpTsv, [one, two])
    assert f"{two}, row 0 (line 1), image {IMAGE}: row 0 of {one} is this image's too, and differs" in message


def test_a_tsv_without_rows_is_refused(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b"")
    assert "no row in it" in refusal(BottomUpTsv, [tmp_path / "a.tsv"])


def test_a_last_row_without_a_line_end_is_read(tmp_path):
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row(IMAGE, GOLDEN[IMAGE].regions)])
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    files = BottomUpTsv([path])
    assert len(files.detections(IMAGE).regions) == 6


@pytest.mark.parametrize(
    ("dtype", "times", "reading"),
    [
        ("<f4", 1, "float32"),
        ("<f2", 1, "float16"),
        ("<f4", 2, "float32 with num_boxes twice the number of boxes"),
    ],
)
def test_what_oscars_tsv_holds_follows_from_its_numbers(tmp_path, dtype, times, reading):
    rows = [own.oscar_tsv_row(image, own.oscar_order(d.regions), dtype, times) for image, d in GOLDEN.items()]
    files = OscarTsv([own.write_tsv(tmp_path / "a.tsv", rows)])
    assert f"features are {reading}" in files.notes
    regions = files.detections(IMAGE).regions
    expected = GOLDEN[IMAGE].regions.astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(regions, expected)


def test_features_without_boxes_are_not_taken_for_regions(tmp_path):
    rows = [own.oscar_tsv_row(image, d.regions[:, :-6]) for image, d in GOLDEN.items()]
    message = refusal(OscarTsv, [own.write_tsv(tmp_path / "a.tsv", rows)])
    assert "no known box encoding, whichever way it is read" in message


def test_boxes_in_pixels_are_not_taken_for_encodings(tmp_path):
    pixels = {image: d.regions * np.where(np.arange(2054) < 2048, 1, 480) for image, d in GOLDEN.items()}
    own.save({image: torch.tensor(r, dtype=torch.float32) for image, r in pixels.items()}, tmp_path / "a.pt")
    message = refusal(OscarPt, [tmp_path / "a.pt"])
    assert "boxes end in x1,y1,x2,y2,h,w, but are not scaled to [0, 1]" in message


def test_an_image_with_another_layout_is_refused(tmp_path):
    regions = {int(image): torch.tensor(d.regions) for image, d in GOLDEN.items()}
    regions[int(IMAGE)] = torch.tensor(own.oscar_order(GOLDEN[IMAGE].regions))
    own.save(regions, tmp_path / "a.pt")
    files = OscarPt([tmp_path / "a.pt"])
    message = refusal(files.detections, IMAGE)
    assert message.startswith(f"{tmp_path}/a.pt, image {IMAGE}: region 0 does not end in x1,y1,x2,y2,h,w")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(6), "found float32[6], expected float32 [regions, width]"),
        (torch.zeros((6, 9), dtype=torch.int64), "found int64[6, 9], expected float32"),
        (torch.zeros((1001, 9)), "found float32[1001, 9]"),
        (torch.full((6, 9), torch.nan), "features: nan in region 0, column 0"),
        ("x", "found str[], expected float32"),
    ],
)
def test_something_else_than_regions_in_oscars_file_is_refused(tmp_path, value, found):
    own.save({7: value}, tmp_path / "a.pt")
    message = refusal(OscarPt, [tmp_path / "a.pt"])
    assert f"{tmp_path}/a.pt, image 7: " in message
    assert found in message


def test_a_pickle_that_names_anything_to_run_is_refused(tmp_path):
    own.save({7: Path}, tmp_path / "a.pt")
    assert "names pathlib.Path" in refusal(OscarPt, [tmp_path / "a.pt"])


def test_vinvls_own_file_is_read_at_any_width():
    files = VinvlReader(own.FEATURES)
    np.testing.assert_array_equal(files.detections(IMAGE).regions, GOLDEN[IMAGE].regions)


def test_a_file_that_is_not_there_is_named():
    assert refusal(BottomUpTsv, [Path("nowhere.tsv")]).startswith("nowhere.tsv: no such file")
