import io
import pickle
import zipfile

import numpy as np
import pytest

from convert.importing.arrays import NpyFiles, NpzFiles
from convert.importing.bottom_up import BottomUpTsv
from tests.convert import own_features as own
from tests.convert.own_features import refusal

GOLDEN = own.all_golden()
IMAGE = "473681"  # has 6 regions


def test_regions_are_stored_by_falling_score(tmp_path):
    regions, tags = GOLDEN[IMAGE]
    scores = np.array([0.1, 0.9, 0.5, 0.5, 0.95, 0.2])
    own.write_npz(tmp_path / "npz", IMAGE, regions, tags, scores=scores)
    found = NpzFiles(tmp_path / "npz").detections(IMAGE)
    order = [4, 1, 2, 3, 5, 0]
    np.testing.assert_array_equal(found.regions[:, :-6], regions[order, :-6])
    assert found.tags == [tags[k] for k in order]


def test_classes_by_number_are_named(tmp_path):
    regions, _ = GOLDEN[IMAGE]
    own.write_npz(tmp_path / "npz", IMAGE, regions, [], classes=np.array([0, 2, 1, 1, 0, 2]))
    found = NpzFiles(tmp_path / "npz", ["cat", "dog", "tree"]).detections(IMAGE)
    assert found.tags == ["cat", "tree", "dog", "dog", "cat", "tree"]


def test_an_image_without_regions_is_one_in_any_format(tmp_path):
    nothing = GOLDEN[IMAGE].regions[:0]
    own.write_npz(tmp_path / "npz", IMAGE, nothing, [])
    assert NpzFiles(tmp_path / "npz").detections(IMAGE).regions.shape == (0, 2054)
    own.write_npy(tmp_path / "npy", IMAGE, nothing, [])
    assert NpyFiles(tmp_path / "npy").detections(IMAGE).regions.shape == (0, 2054)
    rows = [own.bottom_up_row("1", GOLDEN[IMAGE].regions), own.bottom_up_row("2", nothing)]
    files = BottomUpTsv([own.write_tsv(tmp_path / "a.tsv", rows)])
    assert len(files.detections("2").regions) == 0


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"boxes": None}, "there is no boxes; there is classes, features, height, width; see docs/features.md"),
        ({"width": None, "height": None}, "there is no width, height"),
        ({"width": 0}, "a picture of 0 x 480 pixels"),
        ({"width": 64}, "outside the picture of 64 x 480 pixels; boxes and size have to be of the same picture"),
        ({"width": "640"}, "width and height are of type <U3, expected numbers"),
        ({"width": [640, 480]}, "width and height are [640, 480, 480], expected two whole numbers"),
        ({"boxes": np.zeros((5, 4))}, "5 boxes for 6 regions"),
        ({"boxes": np.zeros((6, 5))}, "boxes have shape [6, 5], expected [regions, 4]"),
        ({"classes": np.array(["cat"])}, "1 classes for 6 regions"),
        ({"classes": np.zeros((6, 1))}, "classes have shape [6, 1], expected [regions]"),
        ({"classes": np.arange(6)}, "classes are numbers; pass --class_names"),
        ({"classes": np.array([b"\xff"] * 6)}, "classes hold text that is damaged"),
        ({"classes": np.array([["cat"]] * 6, object)[:, 0]}, "classes holds Python objects"),
        ({"scores": np.zeros(7)}, "7 scores for 6 regions"),
        ({"scores": np.full(6, np.nan)}, "scores: nan in region 0"),
        ({"features": np.full((6, 8), np.inf)}, "features: inf in region 0, column 0"),
        ({"features": np.full((6, 8), 1e300)}, "features: 1e+300 in region 0, column 0 is too large for float32"),
        ({"features": np.zeros((6, 0))}, "6 regions of 0 features, expected at most 1000 of 1 to 16384"),
        ({"features": np.zeros(6)}, "features have shape [6], expected [regions, width]"),
        ({"features": np.zeros((1001, 1))}, "1001 regions of 1 features, expected at most 1000"),
        ({"features": np.zeros((6, 8), np.complex64)}, "features are of type complex64, expected numbers"),
    ],
)
def test_a_bad_array_is_refused_naming_file_and_image(tmp_path, change, found):
    path = own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE], **change)
    message = refusal(NpzFiles(tmp_path / "npz").detections, IMAGE)
    assert message.startswith(f"{path}, image {IMAGE}: ")
    assert found in message


def npy_of(header, content=b""):
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "features is no .npy array"),
        (b"\x93NUMPY\x09\x00", "features is no .npy array"),
        (npy_of("{"), "features is no .npy array"),
        (npy_of("(" * 3000), "features is no .npy array"),
        (
            npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 2048), }\n"),
            "features is no .npy array",
        ),
        (npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-6, 8), }\n"), "features is no .npy array"),
        (npy_of("{'descr': '<U0', 'fortran_order': False, 'shape': (6, 8), }\n"), "features is no array of numbers"),
        (
            npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }\n", bytes(100)),
            "features is no .npy array",
        ),
        (
            npy_of("{'descr': '<f4', 'fortran_order': False, 'shape': (6, 8), }\n", bytes(200)),
            "has 270 bytes, its shape",
        ),
        (npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (6, 8), }\n"), "features holds Python objects"),
        (pickle.dumps([1.0]), "features is no .npy array"),
    ],
)
def test_a_damaged_npy_is_refused_before_memory_is_taken(tmp_path, content, found):
    own.write_npy(tmp_path / "npy", IMAGE, *GOLDEN[IMAGE])
    path = tmp_path / "npy" / "features" / f"{IMAGE}.npy"
    path.write_bytes(content)
    message = refusal(NpyFiles(tmp_path / "npy").detections, IMAGE)
    assert message.startswith(f"{path}, image {IMAGE}: ")
    assert found in message


def test_an_npy_that_is_missing_is_named(tmp_path):
    own.write_npy(tmp_path / "npy", IMAGE, *GOLDEN[IMAGE])
    path = tmp_path / "npy" / "boxes" / f"{IMAGE}.npy"
    path.unlink()
    assert refusal(NpyFiles(tmp_path / "npy").detections, IMAGE).startswith(f"{path}, image {IMAGE}: no such file; ")


def rewrite(path, change):
    """Writes a zip archive anew with `change(name, content)` for each member."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE])
    rewrite(path, lambda name, content: content + bytes(2 * 10**8) if name == "features.npy" else content)
    assert path.stat().st_size < 10**6
    assert "features is said to take 200," in refusal(NpzFiles(tmp_path / "npz").detections, IMAGE)


def test_an_unusual_compression_is_refused(tmp_path):
    path = own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_LZMA) as archive:
        archive.writestr("more.npy", b"")
    assert "compressed in an unusual way" in refusal(NpzFiles(tmp_path / "npz").detections, IMAGE)


def test_a_zip_archive_of_very_many_members_is_refused(tmp_path):
    (tmp_path / "npz").mkdir()
    with zipfile.ZipFile(tmp_path / "npz" / "1.npz", "w") as archive:
        for number in range(2000):
            archive.writestr(f"{number}.npy", b"")
    assert "too many members" in refusal(NpzFiles(tmp_path / "npz").detections, "1")


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    path = own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE])
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((6, 4)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("boxes", buffer.getvalue())
    assert "an array is in it twice" in refusal(NpzFiles(tmp_path / "npz").detections, IMAGE)


def test_images_with_other_arrays_than_the_first_are_refused(tmp_path):
    own.write_npz(tmp_path / "npz", "1", *GOLDEN[IMAGE])
    own.write_npz(tmp_path / "npz", "2", *GOLDEN[IMAGE], classes=None)
    files = NpzFiles(tmp_path / "npz")
    files.detections("1")
    assert "image 2: has neither classes nor scores, another image has classes" in refusal(files.detections, "2")


@pytest.mark.parametrize("read", [NpzFiles, NpyFiles])
def test_a_folder_without_features_is_refused(tmp_path, read):
    assert refusal(read, tmp_path / "nowhere").startswith(f"{tmp_path}/nowhere: no such folder")
    (tmp_path / "features").mkdir()
    (tmp_path / "boxes").mkdir()
    (tmp_path / "size").mkdir()
    assert ": no .np" in refusal(read, tmp_path)
