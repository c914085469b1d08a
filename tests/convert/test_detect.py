import json
import os
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.errors import DataError
from aladin_jax.pictures import UnreadableError, describe_others, list_pictures, read_picture
from convert.detect import main
from convert.detection.detector import Detector
from convert.detection.run import _batches
from tests.convert import tiny_detectors
from tests.convert.tiny_detectors import PHOTOGRAPHS, photograph
from tests.processes import stop_at


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return tiny_detectors.save("detr", tmp_path_factory.mktemp("detr"))


@pytest.fixture
def images(tmp_path):
    """Real photographs, one of them in a folder of its own."""
    folder = tmp_path / "images"
    (folder / "more").mkdir(parents=True)
    for name in PHOTOGRAPHS[:4]:
        shutil.copy(photograph(name), folder / name)
    shutil.copy(photograph("rocket.jpg"), folder / "more" / "rocket.JPG")
    return folder


@pytest.fixture
def run(tmp_path, images, detector, capfd):
    """Runs the command; gives its status, output and errors."""

    def run(*more, output=tmp_path / "out"):
        status = main(arguments(images, detector, output, *more))
        captured = capfd.readouterr()
        return status, captured.out, captured.err.replace("\r", "\n").splitlines()

    return run


def arguments(images, detector, output, *more):
    options = ["--images", images, "--detector", detector, "--output", output, "--device", "cpu", *more]
    return [str(option) for option in options]


def records(output, split="test"):
    opened = Split(open_dataset(output), split)
    return {opened.ids[index]: opened.read(index) for index in range(opened.num_images)}


def write_captions(path, names):
    entries = [{"id": number, "file_name": f"{name}.png"} for number, name in enumerate(names, 1)]
    annotations = [{"image_id": number, "caption": f"a {name}"} for number, name in enumerate(names, 1)]
    path.write_text(json.dumps({"images": entries, "annotations": annotations}))
    return path


def test_records_are_what_the_detector_finds_in_each_photograph(run, images, detector, tmp_path):
    status, out, _ = run("--score_threshold", "0.3", "--max_regions", "7")
    assert status == 0
    found = records(tmp_path / "out")
    assert list(found) == ["astronaut", "camera", "chelsea", "coffee", "more~rocket"]
    assert "regions have 22 numbers" in out
    loaded = Detector(detector, "cpu")
    for name, record in found.items():
        path = images / "more" / "rocket.JPG" if name == "more~rocket" else images / f"{name}.png"
        picture = Image.open(path).convert("RGB")
        [own] = loaded.extract([loaded.prepare(picture)], threshold=0.3, max_regions=7)
        np.testing.assert_allclose(record.regions[:, :16], own.features, atol=1e-4)
        x1, y1, x2, y2 = (own.boxes / np.array([picture.width, picture.height] * 2)).T
        np.testing.assert_allclose(record.regions[:, 16:], np.stack([x1, y1, x2, y2, y2 - y1, x2 - x1], 1), atol=1e-5)
        assert record.tags == own.classes
        assert record.captions == []
    assert len({tag for record in found.values() for tag in record.tags}) > 1


def test_the_command_says_that_such_features_need_training_and_which_command_does_it(run):
    _, out, _ = run()
    assert "Features of another detector than the model's need training: python -m aladin_jax.main --config " in out


def test_pictures_that_cannot_be_read_are_listed_and_skipped(run, images, tmp_path):
    (images / "text.jpg").write_text("not a picture")
    whole = photograph("coffee.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "moving.mov").touch()
    status, out, err = run()
    assert status == 0
    assert "note: passed over: 1 files whose endings are no picture's (1 .mov): moving.mov" in err
    listed = tmp_path / "out" / "detections" / "unreadable.txt"
    assert f"note: 2 pictures cannot be read and are left out: see {listed}" in err
    lines = listed.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == [str(images / "cut.png"), str(images / "text.jpg")]
    assert list(records(tmp_path / "out")) == ["astronaut", "camera", "chelsea", "coffee", "more~rocket"]
    assert out.splitlines()[1].split() == ["test", "5", "0", "0"]  # of no detections there were none


def test_a_picture_added_later_is_refused_or_made_part_of_the_data_set(run, images, tmp_path):
    assert run()[0] == 0
    before = len(records(tmp_path / "out"))
    (images / "later.png").write_bytes(photograph("coffee.png").read_bytes())
    status, _, err = run()
    assert status == 1
    assert "made from something else (pictures/" in err[-1]
    assert "later.png is new); pass --overwrite" in err[-1]
    assert run("--overwrite")[0] == 0
    assert len(records(tmp_path / "out")) == before + 1


def test_a_photograph_lying_on_its_side_is_turned_as_its_exif_data_says(run, images, tmp_path):
    upright = Image.open(photograph("coffee.png")).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: shown, the picture is turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(images / "turned.png", exif=exif)
    upright.save(images / "upright.png")
    assert run()[0] == 0
    found = records(tmp_path / "out")
    np.testing.assert_array_equal(found["turned"].regions, found["upright"].regions)
    with np.load(tmp_path / "out" / "detections" / "turned.npz") as file:
        assert (int(file["width"]), int(file["height"])) == upright.size


def test_a_killed_run_is_taken_up_where_it_was(run, images, detector, tmp_path):
    command = ["convert.detect", *arguments(images, detector, tmp_path / "out")]
    stop_at("os.rename", r"\.npz\.", *command, times=3, log=tmp_path / "log")
    folder = tmp_path / "out" / "detections"
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert len(before) == 2
    assert not (tmp_path / "out" / "coco_ir").exists()
    assert run()[0] == 0
    assert len(records(tmp_path / "out")) == 5
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(folder.glob("*.unfinished"))
    assert "is there already" in run()[1]


def test_a_picture_that_has_changed_is_detected_in_again(run, images, tmp_path):
    run()
    path = tmp_path / "out" / "detections" / "coffee.npz"
    shutil.copy(photograph("motorcycle_left.png"), images / "coffee.png")
    later = path.stat().st_mtime + 10
    os.utime(images / "coffee.png", (later, later))
    before = path.read_bytes()
    assert run("--overwrite")[0] == 0
    assert path.read_bytes() != before


def test_other_settings_are_refused_unless_what_was_found_may_be_replaced(run, tmp_path):
    run()
    status, _, err = run("--score_threshold", "0.5")
    assert status == 1
    assert (
        "detections: made with other settings (threshold was 0.2, is 0.5); pass --overwrite to detect anew" in err[-1]
    )
    assert run("--score_threshold", "0.5", "--overwrite")[0] == 0
    with np.load(tmp_path / "out" / "detections" / "coffee.npz") as file:
        assert (file["scores"] >= 0.5).all()


def test_a_folder_that_is_something_else_is_not_written_into(run, tmp_path):
    (tmp_path / "out" / "detections").mkdir(parents=True)
    (tmp_path / "out" / "detections" / "thesis.txt").write_text("...")
    status, _, err = run("--overwrite")
    assert status == 1
    assert "detections: there, but not of a detector's run; choose another --output" in err[-1]
    assert [path.name for path in (tmp_path / "out" / "detections").iterdir()] == ["thesis.txt"]


def test_captions_become_part_of_the_records(run, tmp_path):
    captions = write_captions(tmp_path / "captions.json", ["chelsea", "coffee"])
    assert run("--captions", f"train={captions}", "--captions_format", "coco")[0] == 0
    found = records(tmp_path / "out", "train")
    assert {image: record.captions for image, record in found.items()} == {"1": ["a chelsea"], "2": ["a coffee"]}
    assert sorted(path.stem for path in (tmp_path / "out" / "detections").glob("*.npz")) == ["chelsea", "coffee"]


def test_captions_without_a_picture_are_refused_before_anything_is_detected(run, tmp_path):
    captions = write_captions(tmp_path / "captions.json", ["chelsea", "unicorn"])
    more = ["--captions", f"train={captions}", "--captions_format", "coco"]
    status, _, err = run(*more)
    assert status == 1
    assert f"error: {captions}, image 2: 1 of 2 images in train, this one first, have no features in " in err[-1]
    assert not (tmp_path / "out").exists()
    assert run(*more, "--skip_missing")[0] == 0
    assert list(records(tmp_path / "out", "train")) == ["1"]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--score_threshold", "1"], "--score_threshold 1.0: must be in [0, 1)"),
        (["--max_regions", "0"], "--max_regions 0: must be 1 to 1000"),
        (["--batch_size", "0"], "--batch_size 0: must be at least 1"),
    ],
)
def test_an_impossible_number_is_refused(images, detector, tmp_path, capsys, more, found):
    with pytest.raises(SystemExit):
        main(arguments(images, detector, tmp_path / "out", *more))
    assert found in capsys.readouterr().err


def test_an_error_is_one_line_without_a_traceback(images, detector, tmp_path, capsys):
    assert main(arguments(tmp_path / "nowhere", detector, tmp_path / "out")) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere: no such folder; check --images\n"
    assert main(arguments(images, tmp_path / "nowhere", tmp_path / "out")) == 1
    assert capsys.readouterr().err == f"error: {tmp_path}/nowhere: no such folder; check the path of the detector\n"
    damaged = shutil.copytree(detector, tmp_path / "damaged")
    (damaged / "config.json").write_text("{")
    assert main(arguments(images, damaged, tmp_path / "out")) == 1
    error = capsys.readouterr().err
    assert (error.count("\n"), error.startswith(f"error: {damaged}: no detector that can be loaded (")) == (1, True)
    assert not (tmp_path / "out").exists()


def test_pictures_of_one_name_in_two_folders_and_in_other_scripts_have_ids_that_stay(run, images, tmp_path):
    for name in ("more/coffee.png", "東京.png", "大阪.png", "my cat.png"):
        shutil.copy(photograph("coffee.png"), images / name)
    status, _, err = run()
    assert status == 0
    assert "note: 3 pictures have names that an id cannot spell: see docs/features.md" in err
    found = records(tmp_path / "out")
    same = ["more~coffee", "my_cat-8077c58e2983", "_-130016b2599b", "_-6df977461d52"]
    assert set(found) == {"astronaut", "camera", "chelsea", "coffee", "more~rocket", *same}
    assert {path.stem for path in (tmp_path / "out" / "detections").glob("*.npz")} == set(found)
    for image in same:
        np.testing.assert_array_equal(found[image].regions, found["coffee"].regions)


def test_captions_of_pictures_in_folders_and_with_running_numbers_are_theirs(run, images, tmp_path):
    shutil.copy(photograph("coffee.png"), images / "more" / "2.png")
    shutil.copy(photograph("chelsea.png"), images / "1.png")
    content = {
        "images": [
            {"id": 1, "file_name": "2.png"},
            {"id": 2, "file_name": "1.png"},
            {"id": 3, "file_name": "ROCKET.jpg"},
        ],
        "annotations": [{"image_id": k, "caption": text} for k, text in enumerate(["coffee", "cat", "rocket"], 1)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    assert run("--captions", f"train={tmp_path / 'captions.json'}")[0] == 0
    found = records(tmp_path / "out", "train")
    assert {image: record.captions for image, record in found.items()} == {
        "1": ["coffee"],
        "2": ["cat"],
        "3": ["rocket"],
    }
    assert run(output=tmp_path / "all")[0] == 0
    all_records = records(tmp_path / "all")
    np.testing.assert_array_equal(found["1"].regions, all_records["coffee"].regions)
    np.testing.assert_array_equal(found["2"].regions, all_records["chelsea"].regions)


def test_pictures_of_one_id_are_refused(tmp_path):
    (tmp_path / "cat.jpg").touch()
    (tmp_path / "cat.png").touch()
    with pytest.raises(DataError, match=r"image cat: 'cat.jpg' and 'cat.png' make one id; rename one"):
        list_pictures(tmp_path)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no picture in it; pictures end in \.avif, \.bmp"):
        list_pictures(tmp_path)


def test_files_that_are_called_otherwise_are_counted_by_ending_and_named(tmp_path):
    for name in ("b.MOV", "a.mov", "drawing.svg", "README", ".hidden.mov"):
        (tmp_path / name).touch()
    told = "4 files whose endings are no picture's (2 .mov, 1 without any, 1 .svg): README, a.mov, b.MOV, drawing.svg"
    with pytest.raises(DataError, match=re.escape(f"no picture in it, but {told}; pictures end in")):
        list_pictures(tmp_path)
    many = describe_others([f"{number}.{ending}" for ending in "abcdefg" for number in range(1_000)])
    assert many.startswith("7,000 files")
    assert many.endswith("1,000 .e, 2,000 others): 0.a, 1.a, 2.a, 3.a, 4.a, ...")


def test_a_picture_of_very_many_pixels_is_refused_before_it_is_unpacked(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 10**6
    with pytest.raises(
        UnreadableError,
        match=r"bomb\.png: .*Image size \(400000000 pixels\) exceeds limit",
    ):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_pictures_of_any_kind_are_read_as_rgb(tmp_path, mode):
    Image.new(mode, (7, 5)).save(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"))
    read = read_picture(next(tmp_path.iterdir()))
    assert (read.mode, read.size) == ("RGB", (7, 5))


def test_pictures_of_rare_shapes_do_not_wait_without_end():
    class Shaped:
        def __init__(self, shape):
            self.shape = shape

    pictures = [(str(n), Shaped((n % 7,))) for n in range(40)]
    taken = 0

    def watched():
        nonlocal taken
        for picture in pictures:
            taken += 1
            yield picture

    seen, most_waiting = [], 0
    for batch in _batches(watched(), 2):
        assert len({shaped.shape for _, shaped in batch}) == 1
        seen += [name for name, _ in batch]
        most_waiting = max(most_waiting, taken - len(seen))
    assert sorted(seen, key=int) == [name for name, _ in pictures]
    assert most_waiting <= 8
