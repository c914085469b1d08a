"""What TFDS wrote is read without it, and what it would not have written is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from aladin_jax.data.dataset import Dataset, open_dataset
from aladin_jax.errors import DataError
from benchmarks.made_up_records import write_made_up
from convert.dataset import coco_ir

E2E = Path(__file__).parent.parent / "golden" / "e2e"


@pytest.fixture(scope="module", params=[False, True], ids=["float32", "float16"])
def golden_folder(tmp_path_factory, request):
    features = E2E / "model_0060000" / "features.tsv"
    return coco_ir.prepare(E2E / "coco_ir", features, tmp_path_factory.mktemp("out"), float16=request.param).folder


def assert_as_tfds_reads_it(folder):
    dataset, builder = open_dataset(folder), tfds.builder_from_directory(folder)
    info: Any = builder.info
    assert {name: sum(lengths) for name, lengths in dataset.splits.items()} == {
        name: split.num_examples for name, split in info.splits.items()
    }
    assert dataset.dtype == info.features["regions"].np_dtype
    assert dataset.metadata == info.metadata
    for name in dataset.splits:
        ours, theirs = dataset.source(name), builder.as_data_source(name)
        assert len(ours) == len(theirs)
        for index in range(len(ours)):
            record, other = dataset.record(ours[index]), theirs[index]
            assert record.id == other["id"].decode()
            assert record.regions.dtype == other["regions"].dtype
            np.testing.assert_array_equal(record.regions, other["regions"])
            assert record.tags == [tag.decode() for tag in other["tags"]]
            assert record.captions == [caption.decode() for caption in other["captions"]]


def test_description_and_records_are_read_as_tfds_reads_them(golden_folder):
    assert_as_tfds_reads_it(golden_folder)


def test_made_up_records_are_read_as_tfds_reads_them(tmp_path):
    made = write_made_up(tmp_path, images=3, dtype="float16")
    assert_as_tfds_reads_it(made.folder)


def test_prepared_records_are_stored_one_by_one_and_uncompressed(golden_folder):
    for file in golden_folder.glob("*.array_record-*"):
        reader = ArrayRecordReader(str(file))
        options = reader.writer_options_string()
        reader.close()
        assert "group_size:1," in options
        assert "uncompressed" in options


def changed(folder, target, file, change):
    copy = shutil.copytree(folder, target / "1.0.0")
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    return copy


def set_regions(**values):
    return lambda content: content["featuresDict"]["features"]["regions"]["tensor"].update(values)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("features.json", set_regions(dtype="int64"), r"regions are 'int64' \[-1, 4\]"),
        ("features.json", set_regions(encoding="zlib"), "as 'zlib', expected"),
        ("features.json", set_regions(shape={"dimensions": ["-1"]}), "does not describe regions"),
        ("features.json", lambda content: content["featuresDict"]["features"].pop("tags"), "have no tags"),
        ("features.json", lambda content: content.pop("featuresDict"), "describes no features"),
        ("dataset_info.json", lambda content: content.update(fileFormat="tfrecord"), "not stored as ArrayRecord"),
        ("dataset_info.json", lambda content: content.update(name="../elsewhere"), "'../elsewhere' is no name"),
        ("dataset_info.json", lambda content: content["splits"][0].update(name="a/b"), "'a/b' is no name"),
        ("dataset_info.json", lambda content: content["splits"][0].update(shardLengths=["-1"]), "less than no record"),
        ("dataset_info.json", lambda content: content["splits"][0].update(filepathTemplate="x"), "files are named 'x'"),
    ],
)
def test_a_description_of_something_else_is_refused(numbered, tmp_path, file, change, message):
    with pytest.raises(DataError, match=message):
        Dataset(changed(numbered, tmp_path, file, change))


def test_a_file_of_records_that_is_missing_is_named(numbered, tmp_path):
    copy = shutil.copytree(numbered, tmp_path / "1.0.0")
    [file] = copy.glob("*.array_record-*")
    file.unlink()
    with pytest.raises(DataError, match=f"{file.name}: no such file"):
        Dataset(copy).source("train")
