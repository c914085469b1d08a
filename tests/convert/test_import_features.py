import json

import numpy as np
import pytest
import torch

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from convert.coco_ir import main as coco_ir
from convert.features import main
from convert.importing.recognise import FEATURE_FORMATS
from tests.convert import own_features as own
from tests.processes import stop_at

CAPTIONS = own.captions()
GOLDEN = own.all_golden()
IMAGE = "473681"  # has 6 regions


@pytest.fixture(scope="module")
def karpathy(tmp_path_factory):
    return own.write_karpathy(tmp_path_factory.mktemp("captions") / "dataset_coco.json", CAPTIONS)


def folder_of(kind, folder):
    """The golden features in a format: what the command's options are for it."""
    folder.mkdir(exist_ok=True)
    if kind == "npz":
        for image, (regions, tags) in GOLDEN.items():
            own.write_npz(folder / "npz", own.coco_name(image), regions, tags)
        return ["--format", "npz", "--features", folder / "npz"]
    if kind == "npy":
        for image, (regions, tags) in GOLDEN.items():
            own.write_npy(folder / "npy", f"{int(image):012}", regions, tags)
        return ["--format", "npy", "--features", folder / "npy"]
    if kind == "oscar_pt":
        regions = {int(image): torch.tensor(own.oscar_order(d.regions)) for image, d in GOLDEN.items()}
        own.save(regions, folder / "feats.pt", _use_new_zipfile_serialization=False)
        own.save({int(image): " ".join(d.tags) for image, d in GOLDEN.items()}, folder / "labels.pt")
        return ["--format", "oscar_pt", "--features", folder / "feats.pt", "--labels", folder / "labels.pt"]
    rows = [own.oscar_tsv_row(image, own.oscar_order(d.regions)) for image, d in GOLDEN.items()]
    files = [own.write_tsv(folder / f"{n}.feature.tsv", rows[n::2]) for n in range(2)]
    labels = [[image, json.dumps([{"class": tag} for tag in d.tags])] for image, d in GOLDEN.items()]
    labels = own.write_tsv(folder / "label.tsv", labels)
    return ["--format", "oscar_tsv", "--features", *files, "--labels", labels]


def run(arguments, capsys):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err.replace("\r", "\n").splitlines()


@pytest.mark.parametrize("kind", ["npz", "npy", "oscar_pt", "oscar_tsv"])
def test_imported_records_are_those_of_vinvls_files(tmp_path, karpathy, capsys, kind):
    options = folder_of(kind, tmp_path / "in")
    status, out, err = run([*options, "--captions", karpathy, "--output", tmp_path / "out"], capsys)
    assert status == 0, err
    assert "regions have 2054 numbers" in out
    exact = kind.startswith("oscar")
    for name, captions in CAPTIONS.items():
        split = Split(open_dataset(tmp_path / "out"), name, feature_dim=2054)
        assert split.ids == list(captions)
        for index, image in enumerate(captions):
            record = split.read(index)
            assert record.captions == captions[image]
            assert " ".join(record.tags) == " ".join(GOLDEN[image].tags)
            np.testing.assert_array_equal(record.regions[:, :-6], GOLDEN[image].regions[:, :-6])
            # Where boxes were in pixels, the encoding was computed anew.
            np.testing.assert_allclose(record.regions[:, -6:], GOLDEN[image].regions[:, -6:], atol=0 if exact else 3e-7)


def test_the_command_says_by_which_name_it_found_the_features(tmp_path, karpathy, capsys):
    options = folder_of("npz", tmp_path / "in")
    _, _, err = run([*options, "--captions", karpathy, "--output", tmp_path / "out"], capsys)
    image = next(iter(CAPTIONS["train"]))
    said = "note: features of 70 images are found by the name without its ending, such as {0} for {0}.jpg"
    assert said.format(own.coco_name(image)) in err
    assert "note: the features have no scores" in err


def test_features_of_another_width_become_records_of_another_width(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images = list(CAPTIONS["minival"])
    for image in images:
        regions = np.concatenate([rng.normal(size=(4, 256)), GOLDEN[image].regions[:4, -6:]], 1)[:, -262:]
        own.write_npz(tmp_path / "npz", image, regions.astype(np.float32), ["cat"] * len(regions))
    captions = own.write_coco(tmp_path / "captions.json", CAPTIONS["minival"])
    arguments = ["--format", "npz", "--features", tmp_path / "npz", "--captions", f"minival={captions}"]
    arguments += ["--captions_format", "coco", "--output", tmp_path / "out", "--float16"]
    status, out, err = run(arguments, capsys)
    assert status == 0, err
    assert "regions have 262 numbers" in out
    split = Split(open_dataset(tmp_path / "out"), "minival")
    assert split.feature_dim == 262
    assert split.ids == images
    assert split.read(0).regions.dtype == np.float16


def test_run_again_the_command_finds_the_data_set_and_a_killed_one_leaves_none(tmp_path, karpathy, capsys):
    arguments = [*folder_of("npy", tmp_path / "in"), "--captions", karpathy, "--output", tmp_path / "out"]
    stop_at("os.rename", r"_1\.0\.0", "convert.features", *arguments, log=tmp_path / "log")
    folder = tmp_path / "out" / "coco_ir" / "default" / "1.0.0"
    assert not folder.exists()
    assert run(arguments, capsys)[0] == 0
    assert folder.exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == [".1.0.0.lock", "1.0.0"]
    assert "is there already" in run(arguments, capsys)[1]


def test_images_without_features_are_refused_or_left_out_and_counted(tmp_path, karpathy, capsys):
    options = folder_of("npz", tmp_path / "in")
    gone = list(CAPTIONS["test"])[3:5]
    for image in gone:
        (tmp_path / "in" / "npz" / f"{own.coco_name(image)}.npz").unlink()
    arguments = [*options, "--captions", karpathy, "--output", tmp_path / "out"]
    status, out, err = run(arguments, capsys)
    assert (status, out) == (1, "")
    assert err[-1].startswith(f"error: {karpathy}, image {gone[0]}: 2 of 56 images in test, this one first, have no ")
    assert f"sought as COCO_val2014_{int(gone[0]):012}.jpg or {gone[0]}; " in err[-1]
    assert not (tmp_path / "out").exists()
    status, out, err = run([*arguments, "--skip_missing"], capsys)
    assert status == 0
    assert f"note: left out 2 of 56 images in test, which have no features, such as {gone[0]}" in err
    assert Split(open_dataset(tmp_path / "out"), "test").ids == [i for i in CAPTIONS["test"] if i not in gone]


def test_an_image_of_another_width_is_refused_and_nothing_is_left(tmp_path, karpathy, capsys):
    options = folder_of("npz", tmp_path / "in")
    image = list(CAPTIONS["test"])[-1]
    own.write_npz(tmp_path / "in" / "npz", own.coco_name(image), GOLDEN[image].regions[:, 1:], GOLDEN[image].tags)
    status, out, err = run([*options, "--captions", karpathy, "--output", tmp_path / "out"], capsys)
    assert (status, out) == (1, "")
    assert f"image {image}: regions have 2053 numbers, those of the first image 2054" in err[-1]
    assert "Traceback" not in "\n".join(err)
    assert [path.name for path in (tmp_path / "out" / "coco_ir" / "default").iterdir()] == [".1.0.0.lock"]


@pytest.mark.parametrize(
    ("more", "found"),
    [
        (["--labels", "x"], "--labels is for oscar_pt and oscar_tsv, not for npz"),
        (["--class_names", "nowhere"], "nowhere: no such file"),
        (["--split_list", "x"], "--split_list x: no split; write SPLIT=FILE"),
        (["--split_list", "dev=x"], "dev=x: 'dev' is no split; write one of train, minival, test"),
    ],
)
def test_an_option_that_does_not_fit_is_refused(tmp_path, karpathy, capsys, more, found):
    own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE])
    arguments = [
        "--format",
        "npz",
        "--features",
        tmp_path / "npz",
        "--captions",
        karpathy,
        "--output",
        tmp_path / "out",
    ]
    status, _, err = run([*arguments, *more], capsys)
    assert status == 1
    assert err[-1].startswith(f"error: {found}")


def test_records_keep_the_ids_of_captions_whose_file_has_them(tmp_path, capsys):
    options = folder_of("oscar_tsv", tmp_path / "in")
    texts = CAPTIONS["test"][IMAGE]
    annotations = [{"image_id": int(IMAGE), "id": 90 - k, "caption": text} for k, text in enumerate(texts)]
    captions = tmp_path / "captions_val2014.json"
    captions.write_text(json.dumps({"images": [{"id": int(IMAGE)}], "annotations": annotations}))
    status, _, err = run([*options, "--captions", f"test={captions}", "--output", tmp_path / "out"], capsys)
    assert status == 0, err
    record = Split(open_dataset(tmp_path / "out"), "test").read(0)
    assert record.captions == texts
    assert record.caption_ids == [str(90 - k) for k in range(len(texts))]


@pytest.mark.parametrize("given", [f for f in FEATURE_FORMATS if f != "npz"])
def test_a_folder_of_another_format_than_was_said_is_named_as_what_it_is(tmp_path, capsys, given):
    folder_of("npz", tmp_path)
    status, _, err = run(["--format", given, "--features", tmp_path / "npz", "--output", tmp_path / "out"], capsys)
    assert status == 1
    assert err == [f"error: {tmp_path}/npz: features in the format npz, not {given}; "
                   "python -m convert.features --format npz takes them"]  # fmt: skip


def test_what_takes_vinvls_files_alone_names_another_format(tmp_path, capsys):
    folder_of("npz", tmp_path)
    assert coco_ir(["--img_feat_file", str(tmp_path / "npz"), "--output", str(tmp_path / "out")]) == 1
    assert "in the format npz, not vinvl" in capsys.readouterr().err
