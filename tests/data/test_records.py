import shutil
import subprocess
import sys

import pytest

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.errors import DataError


def test_a_data_set_is_found_by_its_folder_and_by_any_parent(numbered, tmp_path):
    for folder in (numbered, numbered.parent, numbered.parent.parent):
        assert open_dataset(folder).folder == numbered
    shutil.copytree(numbered, tmp_path / "pictures" / "incomplete.AB12_1.0.0")
    with pytest.raises(DataError, match="no prepared data set here"):
        open_dataset(tmp_path)
    shutil.copytree(numbered, tmp_path / "pictures" / "1.0.0")
    assert open_dataset(tmp_path).folder == tmp_path / "pictures" / "1.0.0"
    shutil.copytree(numbered, tmp_path / "other" / "1.0.0")
    with pytest.raises(DataError, match=r"2 data sets; name one of .*other/1\.0\.0, .*pictures/1\.0\.0"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_dataset(tmp_path / "missing")


def test_another_feature_width_than_the_models_is_refused_with_both(numbered):
    dataset = open_dataset(numbered)
    assert Split(dataset, "train", feature_dim=4).feature_dim == 4
    with pytest.raises(DataError, match=r"have 4 features, the model takes 2054; .*python -m convert\.coco_ir"):
        Split(dataset, "train", feature_dim=2054)


def test_an_unknown_split_is_refused_with_those_there_are(numbered):
    with pytest.raises(DataError, match="no split 'dev'; there are train"):
        Split(open_dataset(numbered), "dev")


def test_unknown_and_repeated_image_ids_are_refused_with_the_first_few_and_their_number(numbered):
    split = Split(open_dataset(numbered), "train")
    assert split.select(["image-3", "image-1"]).tolist() == [3, 1]
    with pytest.raises(DataError, match=r"6 of 7 image ids are not in train: x0, x1, x2, x3, x4, \.\.\."):
        split.select(["image-1", *(f"x{number}" for number in range(6))])
    with pytest.raises(DataError, match="1 image ids come more than once: image-1"):
        split.select(["image-1", "image-1"])


@pytest.mark.parametrize(
    ("describe", "message"),
    [
        (lambda metadata: {}, r"metadata\.json does not describe split 'train'"),
        (lambda metadata: _train(metadata, ids=["image-0"]), "1 ids but 7 caption counts"),
        (
            lambda metadata: _train(metadata, ids=["a"], caption_counts=[1]),
            "7 records in train, .* lists 1",
        ),
    ],
)
def test_metadata_that_does_not_fit_is_refused(tmp_path, write_dataset, numbered_records, describe, message):
    path = write_dataset(tmp_path, {"train": numbered_records()}, feature_dim=4, describe=describe)
    with pytest.raises(DataError, match=message):
        Split(open_dataset(path), "train")


def _train(metadata, **changes):
    return metadata | {"splits": {"train": metadata["splits"]["train"] | changes}}


def test_a_record_that_is_not_what_the_metadata_says_is_refused_on_reading(tmp_path, write_dataset, numbered_records):
    counts = [1, 3, 0, 7, 2, 5, 2]  # the last image has one
    path = write_dataset(
        tmp_path,
        {"train": numbered_records()},
        feature_dim=4,
        describe=lambda metadata: _train(metadata, caption_counts=counts),
    )
    with pytest.raises(DataError, match=r"record 6 has .*'image-6', 1, 4.*, metadata\.json says .*'image-6', 2, 4"):
        Split(open_dataset(path), "train").read(6)


def test_an_image_without_regions_is_refused_by_name(tmp_path, write_dataset, numbered_records):
    path = write_dataset(tmp_path, {"train": numbered_records(regions=0)}, feature_dim=4)
    with pytest.raises(DataError, match="image image-0: train record 0 has no region"):
        Split(open_dataset(path), "train").read(0)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("dataset_info.json", "not JSON that can be read"),
        ("features.json", "not JSON that can be read"),
        ("metadata.json", "not JSON that can be read"),
        ("pictures-train.array_record-00000-of-00001", "image image-0: train record 0 cannot be read"),
    ],
)
def test_a_damaged_file_ends_in_one_line_that_names_the_folder(numbered, tmp_path, file, message):
    copy = shutil.copytree(numbered, tmp_path / "1.0.0")
    (copy / file).write_bytes((copy / file).read_bytes()[:40])
    with pytest.raises(DataError, match=message) as error:
        Split(open_dataset(copy), "train").read(0)
    assert str(error.value).startswith(str(copy))
    assert "\n" not in str(error.value)


def test_reading_leaves_tensorflow_and_tfds_out(numbered):
    # TensorFlow would take the accelerator's memory, and 4 s of each start; a bare GPU machine has neither.
    program = (
        "import sys; from aladin_jax.data import dataset, pipeline, records\n"
        f"records.Split(dataset.open_dataset({str(numbered)!r}), 'train').read(3)\n"
        "sys.exit('tensorflow' in sys.modules or 'tensorflow_datasets' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
