import functools
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertModel

from aladin_jax.config import Config
from aladin_jax.model_folder import flatten, load_model_folder, save_model_folder, write_description
from aladin_jax.training import checkpoint, optim
from aladin_jax.training.setup import make_objective
from aladin_jax.training.step import init_state
from configs import alignment_and_matching_triplet_distill
from convert import export

E2E = Path(__file__).parents[1] / "golden/e2e"
HEAD = "img_txt_enc.final_projection_net."
BERT = "img_txt_enc.oscar_model.bert."


@pytest.fixture
def export_command(run):
    return functools.partial(run, main=export.main)


@pytest.fixture
def original():
    """The golden checkpoint as PyTorch reads it."""
    return torch.load(E2E / "checkpoint.pth.tar", weights_only=False)


@pytest.fixture
def converted(tmp_path, run):
    arguments = ("--vinvl", E2E / "vinvl", "--checkpoint", E2E / "checkpoint.pth.tar")
    assert run(*arguments, "--output", tmp_path / "converted")[0] == 0
    return tmp_path / "converted"


@pytest.fixture
def workdir(tmp_path, converted):
    """A workdir as a run leaves it: best at step 20, stopped at step 23, 50 pairs in batches of 8."""
    config = alignment_and_matching_triplet_distill.get_config()
    config.update(batch_size=8, learning_rate=3e-4, warmup_steps=5, init_from="/home/somebody/converted")
    config.update(data={"dir": "/home/somebody/data/coco_ir/default/1.0.0"})
    params = load_model_folder(converted)[0]
    return write_run(tmp_path / "run", converted, config, params, jax.tree.map(lambda x: x + 1, params))


def write_run(workdir, converted, config, best, latest):
    workdir.mkdir()
    checkpoint.check_config(workdir, config.to_dict())
    _, model_config, vocabulary = load_model_folder(converted)
    write_description(workdir, model_config, vocabulary)
    checkpoints = checkpoint.RunCheckpoints(workdir)
    checkpoints.save_if_best(20, best, rsum=1.0)
    state = init_state(latest, make_objective(Config.from_dict(config.to_dict())), optim.adam(), (), seed=0)
    state = state._replace(step=np.int32(23), params={**state.params, **latest})
    order = {"num_pairs": 50, "batch_size": 8, "seed": 88, "shuffle": True}
    checkpoints.save(jax.device_put(state), {"next_batch": 23, **order})
    checkpoints.close()
    return workdir


def test_conversion_then_export_gives_every_converted_tensor_back_bit_for_bit(
    tmp_path, converted, export_command, original
):
    status, output, _ = export_command("--workdir", converted, "--output", tmp_path / "new.pth.tar")
    assert status == 0
    assert "81 tensors" in output
    exported = torch.load(tmp_path / "new.pth.tar", weights_only=True)
    assert exported.keys() == original.keys()
    for name in ("epoch", "Eiters", "config"):
        assert exported[name] == original[name]
    lost = original["model"].keys() - exported["model"].keys()
    unused = ("pooler", "classifier", "img_proj", "cap_proj", "logit_scale")
    assert all(any(word in name for word in unused) for name in lost)
    for name, tensor in exported["model"].items():
        assert tensor.dtype == torch.float32
        assert tensor.numpy().tobytes() == original["model"][name].numpy().tobytes(), name


def test_what_is_exported_can_be_converted_again(tmp_path, converted, export_command, run):
    export_command("--workdir", converted, "--output", tmp_path / "new.pth.tar")
    arguments = ("--vinvl", E2E / "vinvl", "--checkpoint", tmp_path / "new.pth.tar")
    assert run(*arguments, "--output", tmp_path / "again")[0] == 0
    first, second = load_model_folder(converted), load_model_folder(tmp_path / "again")
    assert first[1] == second[1]
    jax.tree.map(np.testing.assert_array_equal, first[0], second[0])


def test_pytorchs_own_modules_take_the_exported_tensors(tmp_path, converted, export_command):
    export_command("--workdir", converted, "--output", tmp_path / "new.pth.tar")
    tensors = torch.load(tmp_path / "new.pth.tar", weights_only=True)["model"]

    layer = torch.nn.TransformerEncoderLayer(d_model=64, nhead=4, dim_feedforward=64)
    head = torch.nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
    head.load_state_dict({n.removeprefix(HEAD): t for n, t in tensors.items() if n.startswith(HEAD)}, strict=True)

    config = json.loads((E2E / "vinvl/config.json").read_text())
    sizes = {k: v for k, v in config.items() if k.endswith(("_size", "_embeddings")) or k.startswith("num_")}
    bert = BertModel(BertConfig(**sizes), add_pooling_layer=False)
    region_names = ("img_embedding.", "LayerNorm.")
    text = {n.removeprefix(BERT): t for n, t in tensors.items() if n.startswith(BERT)}
    bert.load_state_dict({n: t for n, t in text.items() if not n.startswith(region_names)}, strict=True)


def test_a_runs_best_checkpoint_is_exported_with_its_settings(tmp_path, workdir, export_command, original):
    status, output, _ = export_command("--workdir", workdir, "--output", tmp_path / "new.pth.tar")
    assert status == 0
    assert "step 20" in output
    exported = torch.load(tmp_path / "new.pth.tar", weights_only=True)
    assert all(torch.equal(tensor, original["model"][name]) for name, tensor in exported["model"].items())
    assert exported["Eiters"] == 20
    assert exported["epoch"] == 3  # 7 steps an epoch
    training, model = exported["config"]["training"], exported["config"]["model"]
    assert exported["config"].keys() == original["config"].keys()
    assert training.keys() == original["config"]["training"].keys()
    assert model.keys() == original["config"]["model"].keys()
    assert (training["loss-type"], training["loss-weights"]) == ("alignment-matching-distillation", [1.0, 0.1, 1.0])
    assert (training["bs"], training["lr"], training["warmup"], training["warmup-period"]) == (8, 3e-4, "linear", 5)
    assert (model["tern-layers"], model["embed-size"], model["freeze-teran"]) == (2, 64, False)


def test_without_a_validation_the_latest_checkpoint_is_exported(tmp_path, workdir, export_command, original):
    shutil.rmtree(workdir / "best")
    assert export_command("--workdir", workdir, "--output", tmp_path / "new.pth.tar")[0] == 0
    exported = torch.load(tmp_path / "new.pth.tar", weights_only=True)
    assert (exported["Eiters"], exported["epoch"]) == (23, 4)
    assert all(torch.equal(tensor, original["model"][name] + 1) for name, tensor in exported["model"].items())


@pytest.mark.parametrize("kept", ["best", "latest"])
def test_learned_scales_of_info_nce_are_exported_where_the_original_has_them(
    tmp_path, converted, export_command, original, run, kept
):
    config = alignment_and_matching_triplet_distill.get_config()
    config.update(ranking_loss="info_nce", learned_loss_weights=True, distillation_mode="mse")
    params = load_model_folder(converted)[0] | make_objective(Config.from_dict(config.to_dict())).init_params()
    params["alignment_loss"]["log_scale"], params["matching_loss"]["log_scale"] = np.float32(2.75), np.float32(1.5)
    workdir = write_run(tmp_path / "run", converted, config, params, params)
    if kept == "latest":
        shutil.rmtree(workdir / "best")
    assert export_command("--workdir", workdir, "--output", tmp_path / "new.pth.tar")[0] == 0
    model = torch.load(tmp_path / "new.pth.tar", weights_only=True)["model"]
    scales = {"alignment_criterion.logit_scale": 2.75, "matching_criterion.logit_scale": 1.5}
    assert {name: tensor.item() for name, tensor in model.items() if not name.startswith("img_txt_enc.")} == scales
    assert all(model[name].shape == original["model"][name].shape for name in scales)
    arguments = ("--vinvl", E2E / "vinvl", "--checkpoint", tmp_path / "new.pth.tar")
    assert run(*arguments, "--output", tmp_path / "again")[0] == 0


def test_safetensors_come_with_a_card_of_data_settings_and_recalls(tmp_path, workdir, export_command, original):
    metrics = {f"{d}/{m}": 12.34 for d in ("i2t", "t2i") for m in ("R@1", "R@5", "R@10", "medr", "meanr")}
    report = {"test": {"matching": {**metrics, "rsum": 210.5}, "alignment": {**metrics, "rsum": 211.0}}}
    (workdir / "report.json").write_text(json.dumps(report))
    arguments = ("--workdir", workdir, "--output", tmp_path / "out", "--format", "safetensors")
    assert export_command(*arguments)[0] == 0
    tensors = load_file(tmp_path / "out/model.safetensors")
    assert len(tensors) == 81
    assert all(torch.equal(tensor, original["model"][name]) for name, tensor in tensors.items())
    card = (tmp_path / "out/README.md").read_text()
    assert "| matching | text to image | 12.3 | 12.3 | 12.3 | 12.3 | 12.3 |" in card
    assert "Sum of recalls: matching 210.5, alignment 211.0." in card
    assert "20 steps (epoch 3) on `coco_ir/default/1.0.0`, 50 (image, caption) pairs an epoch" in card
    assert '"learning_rate": 0.0003' in card
    assert "/home/somebody" not in card
    assert (tmp_path / "out/vocab.txt").read_bytes() == (E2E / "vinvl/vocab.txt").read_bytes()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md",
        "model.json",
        "model.safetensors",
        "vocab.txt",
    ]


def test_the_card_says_that_a_model_was_not_evaluated(tmp_path, converted, export_command):
    export_command("--workdir", converted, "--output", tmp_path / "out", "--format", "safetensors")
    card = (tmp_path / "out/README.md").read_text()
    assert "Not evaluated." in card
    assert "Converted from PyTorch; 12 iterations were recorded there." in card


@pytest.mark.parametrize("report", ["{", "[]", '{"test": 3}', '{"test": {"matching": {"rsum": 1}}}'])
def test_a_damaged_report_is_refused_and_nothing_written(tmp_path, converted, export_command, report):
    (converted / "report.json").write_text(report)
    status, _, errors = export_command("--workdir", converted, "--output", tmp_path / "out", "--format", "safetensors")
    assert (status, "report.json: " in errors, errors.count("\n")) == (1, True, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["converted"]


@pytest.mark.parametrize("form", ["pytorch", "safetensors"])
def test_only_an_earlier_export_is_replaced_and_only_on_request(tmp_path, converted, export_command, form):
    arguments = ("--workdir", converted, "--output", tmp_path / "out", "--format", form)
    assert export_command(*arguments)[0] == 0
    status, _, errors = export_command(*arguments)
    assert (status, "already exists" in errors) == (1, True)
    assert export_command(*arguments, "--overwrite")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    status, _, errors = export_command(*arguments[:3], tmp_path / "mine", *arguments[4:], "--overwrite")
    assert (status, "is no earlier export" in errors) == (1, True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["converted", "mine", "out"]


def test_what_a_killed_export_left_is_removed_and_that_is_said(tmp_path, converted, export_command):
    names = (".a.tar.99999999.tmp", f".a.tar.{os.getppid()}.tmp", ".b.tar.99999999.tmp", ".a.tar.backup.tmp")
    killed, alive, other, own = (tmp_path / name for name in names)
    for left in (killed, alive, other, own):
        left.touch()
    status, output, _ = export_command("--workdir", converted, "--output", tmp_path / "a.tar")
    assert (status, killed.exists(), alive.exists(), other.exists()) == (0, False, True, True)
    assert own.exists()
    assert f"removed {killed}, which an export that was killed had left" in output


def test_a_head_that_the_original_cannot_have_is_refused(tmp_path, converted, export_command):
    params, config, vocabulary = load_model_folder(converted)
    other = config._replace(matching_head=type(config.matching_head)(num_layers=2, num_heads=8))
    save_model_folder(tmp_path / "other", params, other, vocabulary, {})
    status, _, errors = export_command("--workdir", tmp_path / "other", "--output", tmp_path / "out")
    assert (status, "has 8 attention heads, the original's has 4" in errors) == (1, True)


def test_a_folder_without_a_model_is_refused(tmp_path, export_command, workdir):
    status, _, errors = export_command("--workdir", tmp_path / "none", "--output", tmp_path / "out")
    assert (status, "none: no such folder" in errors) == (1, True)
    shutil.rmtree(workdir / "checkpoints")
    status, _, errors = export_command("--workdir", workdir, "--output", tmp_path / "out")
    assert (status, "there is no checkpoints/" in errors) == (1, True)


def test_a_converted_backbone_is_exported_with_the_settings_of_the_main_regime(tmp_path, run, export_command):
    run("--vinvl", E2E / "vinvl", "--output", tmp_path / "converted")
    assert export_command("--workdir", tmp_path / "converted", "--output", tmp_path / "new.pth.tar")[0] == 0
    exported = torch.load(tmp_path / "new.pth.tar", weights_only=True)
    assert (exported["epoch"], exported["Eiters"]) == (0, 0)
    assert exported["config"]["training"]["loss-type"] == "alignment-distillation"
    params, _, _ = load_model_folder(tmp_path / "converted")
    kernel = flatten(params)["matching_head/layers/qkv/kernel"]
    np.testing.assert_array_equal(exported["model"][f"{HEAD}layers.1.self_attn.in_proj_weight"].numpy(), kernel[1].T)
