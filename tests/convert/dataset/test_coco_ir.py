import base64
import fcntl
import json
import logging
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
import torch

from aladin_jax.errors import DataError
from convert.dataset import record_builder
from convert.dataset.coco_ir import prepare
from convert.raw.vinvl_files import VinvlFiles, read_captions
from tests.convert.raw.raw_vinvl import E2E

SPLITS = {"train": 10, "minival": 4, "test": 56}


class Raw:
    """A copy of the golden files, to be spoilt."""

    def __init__(self, folder):
        self.folder = folder
        self.captions = folder / "coco_ir"
        self.features = folder / "model_0060000" / "features.tsv"
        for name in ("coco_ir", "model_0060000"):
            shutil.copytree(E2E / name, folder / name)

    def prepare(self, **options):
        return prepare(self.captions, self.features, self.folder / "out", **options)

    @property
    def target(self):
        return self.folder / "out" / "coco_ir" / "default" / "1.0.0"

    def save_captions(self, split, content):
        torch.save(content, self.captions / f"{split}_captions.pt")

    def edit_features(self, edit):
        """Puts each row's count and base64 through `edit(image, count, text)` and makes the index anew."""
        rows = [row.split(b"\t") for row in self.features.read_bytes().splitlines()]
        lines = [b"\t".join([row[0], *edit(row[0].decode(), row[1], row[2])]) + b"\n" for row in rows]
        offsets = np.cumsum([0, *map(len, lines)])[:-1]
        self.features.write_bytes(b"".join(lines))
        self.features.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))

    def clear_detections(self, images):
        """Leaves nothing detected in some images."""
        self.edit_features(lambda image, count, text: (b"0", b"") if image in images else (count, text))
        predictions = self.features.with_name("predictions.tsv")
        rows = [row.split("\t", 1) for row in predictions.read_text().splitlines()]
        lines = [f"{image}\t{'[]' if image in images else text}\n" for image, text in rows]
        predictions.write_text("".join(lines))
        offsets = np.cumsum([0, *(len(line.encode()) for line in lines)])[:-1]
        predictions.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(E2E / "coco_ir", E2E / "model_0060000" / "features.tsv", tmp_path_factory.mktemp("out"))


def opened(folder) -> Any:
    return tfds.builder_from_directory(str(folder))


def source(folder, split):
    return opened(folder).as_data_source(split)


def ids(folder, split):
    return [record["id"].decode() for record in source(folder, split)]


@pytest.mark.parametrize("split", SPLITS)
def test_records_are_the_raw_files_in_the_order_of_the_captions(prepared, split):
    captions = read_captions(E2E / "coco_ir" / f"{split}_captions.pt")
    records = source(prepared.folder, split)
    assert len(records) == SPLITS[split]
    files = VinvlFiles(E2E / "model_0060000" / "features.tsv")
    for record, (image, sentences) in zip(records, captions.items(), strict=True):
        regions, tags = files.detections(image)
        assert record["id"].decode() == image
        assert record["regions"].dtype == np.float32
        np.testing.assert_array_equal(record["regions"], regions)
        assert [tag.decode() for tag in record["tags"]] == tags
        assert [sentence.decode() for sentence in record["captions"]] == sentences


@pytest.mark.parametrize("split", ["train", "test"])
def test_regions_are_those_of_the_original(prepared, split):
    records = {record["id"].decode(): record["regions"] for record in source(prepared.folder, split)}
    with np.load(E2E / "examples.npz") as examples:
        names = ("image_id", "region_feature_sum", "region_box", "region_len")
        golden = [examples[f"50_50_34/{split}/{name}"] for name in names]
    for image, sums, boxes, length in zip(*golden, strict=True):
        regions = records[str(image)]
        assert len(regions) == length
        np.testing.assert_array_equal(regions.sum(-1), sums[:length])
        np.testing.assert_array_equal(regions[:, -6:], boxes[:length])


def test_the_data_set_opens_without_this_package(prepared):
    code = (
        "import sys, tensorflow_datasets as tfds; "
        "record = tfds.builder_from_directory(sys.argv[1]).as_data_source('test')[55]; "
        "assert record['regions'].shape[1] == 2054 and len(record['captions']) == 5; "
        "sys.exit('aladin_jax' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, prepared.folder], check=True)


def test_metadata_tells_the_pairs_without_a_pass_over_the_data(prepared):
    metadata = json.loads((prepared.folder / "metadata.json").read_text())
    assert set(metadata) == {"feature_dim", "splits"}
    assert metadata["feature_dim"] == 2054
    assert list(metadata["splits"]) == list(SPLITS)
    for split, images in SPLITS.items():
        assert metadata["splits"][split] == {
            "ids": ids(prepared.folder, split),
            "caption_counts": [5] * images,
            "skipped": 0,
        }


def test_any_number_of_captions_is_kept(raw):
    content = {503044: ["one"], 118611: ["one", "two", "three", "four", "five", "six", "seven"]}
    raw.save_captions("train", content)
    folder = raw.prepare().folder
    assert [[c.decode() for c in record["captions"]] for record in source(folder, "train")] == list(content.values())
    assert opened(folder).info.metadata["splits"]["train"]["caption_counts"] == [1, 7]


def test_half_precision_is_stored_as_such_in_about_half_the_space(raw, prepared):
    small = raw.prepare(float16=True)
    for record, full in zip(source(small.folder, "test"), source(prepared.folder, "test"), strict=True):
        assert record["regions"].dtype == np.float16
        np.testing.assert_array_equal(record["regions"], full["regions"].astype(np.float16))
    raw_bytes = tfds.decode.DeserializeMethod.RAW_BYTES
    splits = [opened(p.folder).as_data_source("test", deserialize_method=raw_bytes) for p in (small, prepared)]
    num_bytes = [sum(map(len, split)) for split in splits]
    assert num_bytes[0] < 0.6 * num_bytes[1]


def test_the_order_holds_over_several_shards(raw, monkeypatch):
    monkeypatch.setattr(record_builder, "IMAGES_PER_FILE", 20)
    raw.prepare()
    assert len(list(raw.target.glob("coco_ir-test.array_record-*-of-00003"))) == 3
    assert ids(raw.target, "test") == list(read_captions(raw.captions / "test_captions.pt"))


def test_a_file_of_images_without_detections_is_passed_over(raw, monkeypatch):
    monkeypatch.setattr(record_builder, "IMAGES_PER_FILE", 2)
    captions = list(read_captions(raw.captions / "train_captions.pt"))
    raw.clear_detections(set(captions[2:5]))
    assert ids(raw.prepare().folder, "train") == captions[:2] + captions[5:]
    assert opened(raw.target).info.splits["train"].shard_lengths == [2, 0, 1, 2, 2]


def test_images_without_detections_are_skipped_and_counted(raw, caplog):
    raw.clear_detections({"342181", "317666", "280492"})
    with caplog.at_level(logging.WARNING, "absl"):
        prepared = raw.prepare()
    assert prepared.splits == {"train": (8, 40, 2), "minival": (3, 15, 1), "test": (56, 280, 0)}
    assert "train: skipped 2 of 10 images without detections" in caplog.text
    assert "minival: skipped 1 of 4 images without detections" in caplog.text
    assert "test: skipped" not in caplog.text
    captions = list(read_captions(raw.captions / "train_captions.pt"))
    assert ids(prepared.folder, "train") == [image for image in captions if image not in ("342181", "317666")]
    assert opened(prepared.folder).info.metadata["splits"]["train"]["skipped"] == 2


def test_a_split_of_images_without_any_detection_is_refused(raw):
    raw.clear_detections(set(read_captions(raw.captions / "minival_captions.pt")))
    with pytest.raises(DataError, match=r"minival_captions\.pt: nothing was detected in any of its images"):
        raw.prepare()
    assert not raw.target.exists()


def test_a_split_without_captions_is_left_out_and_said(raw, caplog):
    (raw.captions / "minival_captions.pt").unlink()
    with caplog.at_level(logging.WARNING, "absl"):
        assert list(raw.prepare().splits) == ["train", "test"]
    assert "minival_captions.pt: no such file, so there will be no split minival" in caplog.text


def test_a_folder_without_any_captions_is_refused(raw):
    for path in raw.captions.glob("*.pt"):
        path.unlink()
    with pytest.raises(DataError, match=r": none of train_captions\.pt, minival_captions\.pt, test_captions\.pt; "):
        raw.prepare()


def test_a_missing_folder_is_named(raw):
    shutil.rmtree(raw.captions)
    with pytest.raises(DataError, match="coco_ir: no such folder"):
        raw.prepare()


def test_captions_of_images_without_features_are_refused_before_anything_is_written(raw):
    raw.save_captions("test", {473681: ["a"], 1: ["b"], 2: ["c"]})
    with pytest.raises(DataError) as caught:
        raw.prepare()
    path = raw.captions / "test_captions.pt"
    assert str(caught.value).startswith(f"{path}, image 1: 2 of 3 images, this one first, are not in ")
    assert not raw.target.exists()


def test_a_keys_file_with_an_unknown_id_is_refused(raw):
    with open(raw.captions / "test_img_keys_1k.tsv", "a") as file:
        file.write("118611\n")  # of train
    with pytest.raises(DataError, match=r"test_img_keys_1k\.tsv, row 50 \(line 51\), image 118611: "):
        raw.prepare()


def test_a_bad_row_far_into_the_data_leaves_nothing_behind(raw):
    def spoil(image, count, text):
        if image != "136471":
            return count, text
        regions = np.frombuffer(base64.b64decode(text), "<f4").copy()
        regions[2054 + 3] = np.nan
        return count, base64.b64encode(regions.tobytes())

    raw.edit_features(spoil)
    with pytest.raises(DataError, match=r"features\.tsv, row .*, image 136471: features: nan in region 1, column 3"):
        raw.prepare()
    assert [path.name for path in raw.target.parent.iterdir()] == [".1.0.0.lock"]


@pytest.mark.parametrize(
    ("options", "asked"), [({"float16": True}, "2054 as float16"), ({"feature_dim": 2048}, "2048 as float32")]
)
def test_a_data_set_of_another_kind_is_not_taken_for_the_one_asked_for(raw, options, asked):
    raw.prepare()
    with pytest.raises(
        DataError, match=f"there already, with 2054 features a region as float32, not {asked}; .*--over"
    ):
        raw.prepare(**options)


def test_overwriting_replaces_what_is_there(raw):
    raw.prepare()
    raw.save_captions("test", {473681: ["a caption"]})
    for keys in raw.captions.glob("*.tsv"):
        keys.write_text("473681\n")
    with pytest.raises(DataError, match=r"made from something else \(captions/test_captions.pt had 18,257 bytes, has"):
        raw.prepare()
    assert len(source(raw.target, "test")) == 56
    prepared = raw.prepare(overwrite=True, float16=True)
    assert not prepared.was_there
    assert prepared.splits["test"] == (1, 1, 0)
    assert source(raw.target, "test")[0]["regions"].dtype == np.float16


def test_overwriting_from_bad_files_keeps_what_is_there(raw):
    raw.prepare()
    raw.save_captions("test", {1: ["a caption"]})
    with pytest.raises(DataError, match="image 1: "):
        raw.prepare(overwrite=True)
    assert len(source(raw.target, "test")) == 56


def test_a_folder_that_is_no_data_set_is_not_written_into(raw):
    raw.target.mkdir(parents=True)
    (raw.target / "thesis.txt").write_text("...")
    with pytest.raises(DataError, match=r"1\.0\.0: there, but not a data set; remove it or pass --overwrite"):
        raw.prepare()
    assert (raw.target / "thesis.txt").exists()


def test_what_a_killed_run_left_is_removed_and_that_is_said(raw, caplog):
    leftover = raw.target.parent / "incomplete.1_1.0.0"
    leftover.mkdir(parents=True)
    with caplog.at_level(logging.WARNING, "absl"):
        raw.prepare()
    assert f"{leftover}: removed, left by a run that was killed" in caplog.text
    assert sorted(path.name for path in raw.target.parent.iterdir()) == [".1.0.0.lock", "1.0.0"]


def test_two_processes_do_not_write_the_same_data_set(raw):
    raw.target.parent.mkdir(parents=True)
    with open(raw.target.parent / ".1.0.0.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"1\.0\.0: another process is writing it"):
            raw.prepare()
    assert not raw.prepare().was_there
