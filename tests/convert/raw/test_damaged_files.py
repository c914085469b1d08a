"""Several hundred damages to each of a user's files: what is read is what stands there, and all else is refused."""

import base64
import json
import shutil
import sys
import zlib

import numpy as np
import pytest
import torch

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split, read_image_keys
from aladin_jax.errors import DataError
from convert.dataset.coco_ir import prepare
from convert.raw.vinvl_files import VinvlFiles, read_captions
from tests.convert.raw.raw_vinvl import E2E, Raw
from tests.corruption import Outcomes, damages

CASES = 52
FEATURES_DICT = "tensorflow_datasets.core.features.features_dict.FeaturesDict"


@pytest.fixture(autouse=True)
def as_for_users(unchecked):
    """Without type checks, as in a user's program: a damaged file must not end in one either."""


def read_by_hand(folder):
    """The images of a folder of features as its bytes say, read without the package and believing everything."""
    rows = json.loads((folder / "imageid2idx.json").read_text(encoding="utf-8-sig"))
    lines = {}
    for name in ("features", "predictions"):
        content = (folder / f"{name}.tsv").read_bytes()
        offsets = [int(line) for line in (folder / f"{name}.lineidx").read_bytes().splitlines()]
        parts = [content[a:b] for a, b in zip(offsets, [*offsets[1:], len(content)], strict=True)]
        lines[name] = [part.rstrip(b"\r\n").split(b"\t") for part in parts]
    tags_of = {fields[0].decode(): json.loads(fields[1]) for fields in lines["predictions"]}
    images = {}
    for image, row in rows.items():
        owner, count, content = lines["features"][row]
        assert owner.decode() == image
        regions = np.frombuffer(base64.b64decode(content, validate=True), "<f4").reshape(int(count), 2054)
        found = tags_of.get(image)
        objects = found["objects"] if isinstance(found, dict) else found
        images[image] = regions, None if objects is None else [item["class"] for item in objects]
    return images


@pytest.mark.parametrize(
    "name", ["features.tsv", "features.lineidx", "imageid2idx.json", "predictions.tsv", "predictions.lineidx"]
)
def test_damaged_features_are_read_as_they_stand_or_refused(tmp_path, name):
    raw = Raw(tmp_path)
    path = raw.write()
    whole = (tmp_path / name).read_bytes()

    def read_all():
        files = VinvlFiles(path)
        files.require(list(raw.index), path)
        return {image: files.detections(image) for image in raw.index}

    outcomes = Outcomes()
    assert read_all().keys() == read_by_hand(tmp_path).keys()
    for what, content in damages(whole, CASES, seed=zlib.crc32(name.encode())):
        (tmp_path / name).write_bytes(content)
        read = {}
        with outcomes.sort(what, "read as it stands", tmp_path):
            read = read_all()
        if read:
            expected = read_by_hand(tmp_path)
            for image, (regions, tags) in read.items():
                np.testing.assert_array_equal(regions, expected[image][0], err_msg=what)
                assert tags == expected[image][1], what
    outcomes.check(CASES)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # of what the comparison loads
def test_damaged_captions_are_read_as_they_stand_or_refused(tmp_path, zipped):
    path = tmp_path / "test_captions.pt"
    torch.save(torch.load(E2E / "coco_ir" / path.name), path, _use_new_zipfile_serialization=zipped)
    outcomes = Outcomes()
    for what, content in damages(path.read_bytes(), CASES, seed=int(zipped)):
        path.write_bytes(content)
        read = {}
        with outcomes.sort(what, "read as it stands", tmp_path):
            read = read_captions(path)
        if read:
            expected = {
                str(image): texts for image, texts in torch.load(path, map_location="cpu", weights_only=True).items()
            }
            expected = {i: json.loads(texts) if isinstance(texts, str) else texts for i, texts in expected.items()}
            assert read == expected, what
    outcomes.check(CASES)


def test_damaged_image_keys_are_read_as_they_stand_or_refused(tmp_path):
    path = tmp_path / "test_img_keys.tsv"
    outcomes = Outcomes()
    for what, content in damages((E2E / "coco_ir" / path.name).read_bytes(), CASES, seed=0):
        path.write_bytes(content)
        keys = []
        with outcomes.sort(what, "read as it stands", tmp_path):
            keys = read_image_keys(path)
        assert [key.encode() for key in keys] in ([], content.removesuffix(b"\n").replace(b"\r\n", b"\n").split(b"\n"))
    outcomes.check(CASES)


@pytest.fixture(scope="module")
def whole_data_set(tmp_path_factory):
    """Three images, and what their records hold."""
    folder = tmp_path_factory.mktemp("whole")
    raw = Raw(folder)
    images = list(raw.index)[:3]
    (folder / "captions").mkdir()
    captions = {image: [f"caption {k} of {image}" for k in range(2)] for image in images}
    torch.save(captions, folder / "captions" / "train_captions.pt")
    prepared = prepare(folder / "captions", raw.write(), folder / "out")
    split = Split(open_dataset(prepared.folder), "train")
    return prepared.folder, [split.read(index) for index in range(3)]


@pytest.mark.parametrize("part", ["array_record", "dataset_info.json", "features.json", "metadata.json"])
def test_damaged_data_sets_give_the_records_that_were_written_or_are_refused(tmp_path, whole_data_set, part):
    whole_folder, expected = whole_data_set
    folder = tmp_path / "1.0.0"
    shutil.copytree(whole_folder, folder)
    [path] = folder.glob(f"*{part}*")

    def read_all():
        split = Split(open_dataset(folder), "train", feature_dim=2054)
        read = [split.read(index) for index in range(split.num_images)]
        assert [record.id for record in read] == [record.id for record in expected]
        for record, whole in zip(read, expected, strict=True):
            np.testing.assert_array_equal(record.regions, whole.regions)
            assert (record.tags, record.captions) == (whole.tags, whole.captions)

    read_all()
    outcomes = Outcomes()
    for what, content in damages(path.read_bytes(), CASES, seed=zlib.crc32(part.encode())):
        path.write_bytes(content)
        with outcomes.sort(what, "read as it was written", tmp_path):
            read_all()
    outcomes.check(CASES)


@pytest.mark.parametrize(
    "description",
    [
        {"pythonClassName": "trap.Feature"},
        {"pythonClassName": ["trap.Feature"]},
        {"python_class_name": "trap.Feature"},
        {"type": "trap.Feature", "content": {}},
        {"pythonClassName": FEATURES_DICT, "featuresDict": {"features": {"id": {"pythonClassName": "trap.Feature"}}}},
        {"pythonClassName": FEATURES_DICT, "jsonFeature": {"json": '{"id": {"type": "trap.Feature", "content": {}}}'}},
    ],
)
def test_a_data_set_that_names_a_module_is_refused_and_nothing_of_it_is_imported(
    tmp_path, whole_data_set, monkeypatch, description
):
    folder = shutil.copytree(whole_data_set[0], tmp_path / "1.0.0")
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    (folder / "features.json").write_text(json.dumps(description))
    with pytest.raises(
        DataError, match=r"features\.json describes no features|its records have no tags, captions, regions"
    ):
        open_dataset(folder)
    whole = json.loads((whole_data_set[0] / "features.json").read_text())
    (folder / "features.json").write_text(json.dumps(whole | {"pythonClassName": "trap.Feature"}))
    assert Split(open_dataset(folder), "train").read(0)
    assert not (tmp_path / "trace").exists()
    assert "trap" not in sys.modules
