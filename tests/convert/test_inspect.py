import json
import logging
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from aladin_jax.model_folder import load_model_folder, write_description
from aladin_jax.training import checkpoint as checkpoints
from convert import checkpoint, export
from convert.dataset.coco_ir import prepare
from convert.inspect import main
from convert.inspection.captions_folder import inspect_captions
from convert.inspection.texts import open_tokenizer
from convert.torch_files import load_torch
from tests.convert import own_features as own

CAPTIONS = own.captions()
VINVL = own.E2E / "vinvl"


@pytest.fixture
def run_inspect(capsys):
    """Runs the command; gives its status, what it prints (read as JSON if asked for) and its errors."""

    def run_inspect(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, json.loads(captured.out) if "--json" in arguments else captured.out, captured.err

    return run_inspect


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(own.E2E / "coco_ir", own.FEATURES, tmp_path_factory.mktemp("out")).folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "model"
    arguments = ["--vinvl", VINVL, "--checkpoint", own.E2E / "checkpoint.pth.tar", "--output", folder]
    assert checkpoint.main([str(argument) for argument in arguments]) == 0
    return folder


def save_captions(folder, **splits):
    folder.mkdir()
    for split, content in splits.items():
        torch.save(content, folder / f"{split}_captions.pt")
    return folder


def test_the_golden_captions_are_described_without_a_problem():
    found = inspect_captions(own.E2E / "coco_ir", open_tokenizer(VINVL, 50, 50))
    assert found["problems"] == []
    for split, images in CAPTIONS.items():
        about = found[split]
        assert (about["images"], about["captions"]) == (len(images), 5 * len(images))
        assert about["captions an image"] == {"5": len(images)}
        words = [len(text.split()) for texts in images.values() for text in texts]
        assert about["words, most"] == max(words)
        assert about["words, mean"] == pytest.approx(np.mean(words))
        assert about["tokens"]["texts"] == 5 * len(images)
    assert found["image keys"]["test_img_keys_1k.tsv"] == "50 of the 56 images of test"


def test_what_is_wrong_with_captions_is_listed(tmp_path):
    folder = save_captions(
        tmp_path / "captions", train={1: ["a cat", "a cat"], 2: [" "]}, test={2: ["a dog"], 3: ["b"]}
    )
    (folder / "test_img_keys.tsv").write_text("3\n4\n")
    (folder / "minival_img_keys.tsv").write_text("3\n")
    (folder / "train_img_keys.tsv").write_text("1\n1\n")
    found = inspect_captions(folder, None)
    assert found["minival"] == "no captions"
    assert found["train"]["tokens"] == "not counted: pass --vocab"
    assert set(found["problems"]) == {
        "captions that an image has more than once: 1 (train, image 1: 'a cat')",
        "blank captions: 1 (train, image 2)",
        "images in two splits: 1 (2 in train and test)",
        "image keys without captions: 1 (4 in test_img_keys.tsv)",
        f"files that cannot be read: 1 ({folder}/train_img_keys.tsv, row 1 (line 2), image 1: row 0 is this image too; "
        "keep one of them)",
    }
    assert found["image keys"]["minival_img_keys.tsv"] == "1 images, of a split without captions"


def test_a_damaged_captions_file_does_not_hide_the_others(tmp_path):
    folder = save_captions(tmp_path / "captions", train={1: ["a cat"]})
    (folder / "test_captions.pt").write_bytes(b"PK")
    found = inspect_captions(folder, None)
    assert found["test"] == "cannot be read"
    assert found["train"]["captions"] == 1
    assert len(found["problems"]) == 1


def test_a_data_set_is_described_as_the_files_it_was_made_of(prepared, run_inspect):
    status, [found], _ = run_inspect(prepared, "--vocab", VINVL, "--json")
    _, [raw], _ = run_inspect(own.FEATURES, "--vocab", VINVL, "--json")
    assert status == 0
    assert found["problems"] == []
    assert (found["kind"], found["name"], found["stored as"]) == ("data set", "coco_ir", "float32")
    for name in ("images", "regions", "regions an image", "numbers a region"):
        assert found[name] == raw[name]
    assert found["values"] == pytest.approx(raw["values"])
    assert found["tags"]["distinct"] == raw["tags"]["distinct"]
    assert found["tags"]["tokens"] == raw["tags"]["tokens"]
    assert found["boxes"]["last columns"] == "x1,y1,x2,y2,h,w"
    assert {split: about["captions"] for split, about in found["splits"].items()} == {
        split: 5 * len(images) for split, images in CAPTIONS.items()
    }


def test_a_data_set_is_found_from_the_folder_given_as_output(prepared, run_inspect):
    status, [found], _ = run_inspect(prepared.parents[2], "--json")
    assert (status, found["path"]) == (0, str(prepared))


def test_a_vinvl_folder_is_described(run_inspect):
    status, [found], _ = run_inspect(VINVL, "--json")
    assert status == 0
    assert found["kind"] == "VinVL backbone"
    assert found["backbone"]["img_feature_dim"] == 2054
    assert (found["backbone"]["hidden_size"], found["backbone"]["vocab_size"]) == (64, 2090)
    assert found["problems"] == []
    assert found["conversion"]["parameters made of tensors"] == 21


def test_an_aladin_checkpoint_is_described(run_inspect):
    status, [found], _ = run_inspect(own.E2E / "checkpoint.pth.tar", "--json")
    assert status == 0
    assert (found["kind"], found["epoch"], found["Eiters"]) == ("ALADIN checkpoint", 3, 12)
    assert found["sizes by the tensors"] == {
        "vocab_size": 2090,
        "hidden_size": 64,
        "img_feature_dim": 2054,
        "num_hidden_layers": 3,
        "matching layers": 2,
    }


def first_two_lines(run_inspect, path):
    status, out, errors = run_inspect(path)
    assert status == 0, errors
    return "\n".join(out.splitlines()[:2])


def test_the_first_two_lines_say_what_it_is_and_which_command_takes_it(converted, tmp_path, run_inspect, capsys):
    aladin = own.E2E / "checkpoint_as_saved.pth.tar"
    assert export.main(["--workdir", str(converted), "--output", str(tmp_path / "out"), "--format", "safetensors"]) == 0
    capsys.readouterr()
    content = load_torch(aladin)
    torch.save(content["model"], tmp_path / "weights.anything", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.ones(2)}, tmp_path / "other.bin")
    shutil.copyfile(VINVL / "pytorch_model.bin", tmp_path / "vinvl.bin")
    command = "python -m convert.checkpoint"
    for path, kind, taken_by in (
        (aladin, "ALADIN checkpoint", f"{command} --vinvl DIR --checkpoint {aladin} --output DIR"),
        (VINVL, "VinVL backbone", f"{command} --vinvl {VINVL} --output DIR"),
        (tmp_path / "vinvl.bin", "VinVL's tensors", f"{command} --vinvl DIR --output DIR, as pytorch_model.bin in DIR"),
        (tmp_path / "weights.anything", "ALADIN's tensors alone", f"{command} --vinvl DIR --checkpoint {tmp_path}"),
        (tmp_path / "out", "exported model", f"{command} --checkpoint {tmp_path / 'out'} --output DIR"),
        (converted, "converted checkpoint", f"python -m aladin_jax.main --config.init_from={converted}"),
        (tmp_path / "other.bin", "tensors by name", "no command: these are not a BERT's weights"),
    ):
        said = first_two_lines(run_inspect, path)
        assert kind in said.splitlines()[0]
        assert taken_by in said.splitlines()[1]


def test_inspect_says_whether_a_checkpoint_can_be_converted_and_resumed(tmp_path, run_inspect):
    content = load_torch(own.E2E / "checkpoint_as_saved.pth.tar")
    content["model"] = {f"module.{name}": tensor for name, tensor in content["model"].items()}
    torch.save(content, tmp_path / "a.pth.tar")
    _, [found], _ = run_inspect(tmp_path / "a.pth.tar", "--json")
    assert (found["can be resumed"], found["problems"]) == (True, [])
    assert found["sizes by the tensors"]["num_hidden_layers"] == 3
    content["config"]["detection_type"] = "detic"
    torch.save(content, tmp_path / "a.pth.tar")
    _, [found], _ = run_inspect(tmp_path / "a.pth.tar", "--json")
    assert "trained with detection_type = 'detic'" in found["problems"][0]


@pytest.mark.parametrize(
    ("config", "extra", "said"),
    [
        ("bert_config.json", "bert_model.ckpt.index", "a TensorFlow checkpoint; only PyTorch's weights are read"),
        ("", "bert_model.ckpt.index", "a TensorFlow checkpoint; only PyTorch's weights are read"),
        ("config.json", "tf_model.h5", "a TensorFlow model; only PyTorch's weights are read"),
    ],
)
def test_inspect_names_weights_of_another_program(tmp_path, run_inspect, config, extra, said):
    if config:
        shutil.copyfile(VINVL / "config.json", tmp_path / config)
    (tmp_path / extra).write_bytes(b"x")
    status, _, errors = run_inspect(tmp_path)
    assert (status, said in errors) == (1, True)


def test_weights_that_are_not_finite_are_a_problem(tmp_path, run_inspect):
    content = load_torch(own.E2E / "checkpoint.pth.tar")
    name = next(name for name in content["model"] if name.endswith("img_embedding.weight"))
    content["model"][name] = content["model"][name].clone()
    content["model"][name][3, 4] = torch.nan
    torch.save(content, tmp_path / "checkpoint.pth.tar")
    _, [found], _ = run_inspect(tmp_path / "checkpoint.pth.tar", "--json")
    assert found["problems"] == [f"tensors with NaN or infinite numbers: 1 ({name})"]


def test_a_converted_checkpoint_and_a_workdir_are_described(converted, tmp_path, run_inspect):
    status, [found], _ = run_inspect(converted, "--json")
    assert (status, found["kind"], found["problems"]) == (0, "converted checkpoint", [])
    assert found["came from"][-1] == str(own.E2E / "checkpoint.pth.tar")
    params, config, vocabulary = load_model_folder(converted)
    write_description(tmp_path, config, vocabulary)
    kept = checkpoints.RunCheckpoints(tmp_path)
    kept.save_if_best(7, params, rsum=1.0)
    kept.close()
    _, [of_run], _ = run_inspect(tmp_path, "--json")
    assert (of_run["kind"], of_run["best, step"], of_run["numbers"]) == ("workdir", 7, found["numbers"])


def test_a_folder_of_several_things_is_taken_apart_and_captions_are_held_against_features(run_inspect):
    status, found, _ = run_inspect(own.E2E, "--json")
    assert status == 0
    assert [item["kind"] for item in found] == [
        "ALADIN checkpoint",
        "ALADIN checkpoint",
        "captions",
        "region features",
        "VinVL backbone",
        "captions and features",
    ]
    assert (found[-1]["captioned images"], found[-1]["with features"]) == (70, 70)


def test_captioned_images_without_features_are_named(tmp_path, run_inspect):
    images = [(image, d.regions, d.tags) for image, d in list(own.all_golden().items())[1:]]
    missing = next(iter(own.all_golden()))
    features = own.write_vinvl(tmp_path / "features", images)
    for pair in ((own.E2E / "coco_ir", features.parent), (features, own.E2E / "coco_ir")):
        _, [found], _ = run_inspect(pair[0], "--against", pair[1], "--json")
        assert found["problems"] == [f"captioned images without features in {features}: 1 ({missing})"]


def test_the_table_has_what_the_json_has_and_bars(run_inspect):
    status, out, _ = run_inspect(own.FEATURES)
    assert status == 0
    lines = [line.split(None, 2) for line in out.splitlines()]
    assert ["images", "70"] in lines
    assert ["8-9", "12", "#" * 40] in lines
    assert "x1,y1,x2,y2,h,w" in out
    assert out.splitlines()[-1] == "no problems found"


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        ([own.E2E / "expected.json"], "expected.json: nothing known here; expected features or captions"),
        ([own.FEATURES, "--vocab", "nowhere"], "nowhere: no such file or folder; --vocab is a vocab.txt"),
        ([own.FEATURES, "--vocab", VINVL / "config.json"], "config.json: the vocabulary"),
        ([own.FEATURES, "--vocab", VINVL, "--max_caption_len", "2"], "max_caption_len is 2; two places are special"),
        ([VINVL, "--against", own.FEATURES], "vinvl: a torch folder; features, data sets and captions can be compared"),
        ([own.E2E / "coco_ir", "--against", own.E2E / "coco_ir"], "coco_ir: captions too; compare captions with"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(run_inspect, arguments, found):
    status, out, err = run_inspect(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert found in err


def test_a_refused_pickle_is_said_to_be(tmp_path, run_inspect):
    torch.save({"model": logging.Logger}, tmp_path / "checkpoint.pth.tar")
    status, _, err = run_inspect(tmp_path / "checkpoint.pth.tar")
    assert status == 1
    assert "names logging.Logger" in err


def test_features_are_described_without_importing_tensorflow_or_torch():
    code = (
        "import sys; from convert.inspect import main; main(sys.argv[1:]); "
        "sys.exit(bool({'torch', 'tensorflow', 'tensorflow_datasets'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code, own.FEATURES], check=True, capture_output=True)
