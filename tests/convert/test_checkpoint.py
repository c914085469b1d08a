import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aladin_jax.model_folder import flatten, load_model_folder, read_provenance
from convert.names import entries

GOLDEN = Path(__file__).parents[1] / "golden"


def tensors_of(params, config):
    """All tensors that a parameter dict amounts to, through the table's way back."""
    flat, tensors = flatten(params), {}
    for entry in entries(config):
        tensors |= entry.to_tensors(np.asarray(flat[entry.parameter]))
    return tensors


@pytest.mark.parametrize("golden", ["unit", "e2e"])
def test_a_golden_checkpoint_is_converted_bit_for_bit_and_every_tensor_accounted_for(tmp_path, run, golden):
    file = GOLDEN / golden / "checkpoint.pth.tar"
    status, _, _ = run("--vinvl", GOLDEN / golden / "vinvl", "--checkpoint", file, "--output", tmp_path / "out")
    assert status == 0
    with torch.serialization.safe_globals([argparse.Namespace]):
        original = torch.load(file, weights_only=True)
    params, config, _ = load_model_folder(tmp_path / "out")
    provenance = read_provenance(tmp_path / "out")
    converted, ignored = provenance["tensors"]["converted"], provenance["tensors"]["ignored"]

    assert converted.keys() | ignored.keys() == original["model"].keys()
    assert not converted.keys() & ignored.keys()
    unused = ("pooler", "classifier", "img_proj", "cap_proj", "detic_to_oscar_img", "logit_scale")
    assert {any(word in key for word in unused) for key in ignored} == {True}
    assert provenance["tensors"]["fresh"] == []
    found = tensors_of(params, config)
    for key, fate in converted.items():
        name = key.removeprefix("img_txt_enc.").removeprefix("oscar_model.")
        expected = original["model"][key].numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected, err_msg=key)
        assert fate["parameter"] in flatten(params)
    assert len(found) == len(converted)
    assert (config.matching_head.num_layers, config.matching_head.dropout) == (2, 0.0)
    assert provenance["checkpoint"]["config"] == original["config"]
    assert provenance["checkpoint"]["Eiters"] == original["Eiters"]


@pytest.mark.parametrize("golden", ["unit", "e2e"])
def test_a_backbone_alone_is_verified_and_leaves_the_matching_head_fresh(tmp_path, run, golden):
    folder = GOLDEN / golden / "vinvl"
    status, output, _ = run("--vinvl", folder, "--output", tmp_path / "out", "--seed", 5, "--verify")
    assert status == 0
    assert "verified: text stream against transformers' BertModel" in output
    assert "the matching head is not part of a VinVL folder: it starts from fresh weights" in output
    params, config, vocabulary = load_model_folder(tmp_path / "out")
    original = torch.load(folder / "pytorch_model.bin", weights_only=True)
    found = tensors_of(params, config)
    for name in original:
        if "pooler" not in name and "classifier" not in name:
            np.testing.assert_array_equal(found[name], original[name].numpy())
    assert (vocabulary is None) == (golden == "unit")
    assert ("vocab.txt is absent" in output) == (golden == "unit")

    # torch's TransformerEncoderLayer starts so: Xavier for q, k, v, uniform elsewhere, norms 1.
    head = params["matching_head"]["layers"]
    d = config.backbone.hidden_size
    assert np.abs(head["qkv"]["kernel"]).max() == pytest.approx((6 / (d + 3 * d)) ** 0.5, rel=0.02)
    assert np.abs(head["intermediate"]["kernel"]).max() == pytest.approx(d**-0.5, rel=0.02)
    assert (head["output_norm"]["scale"] == 1).all()
    assert read_provenance(tmp_path / "out")["tensors"]["fresh"] == [
        name for name in flatten(params) if name.startswith("matching_head/")
    ]


def test_fresh_weights_follow_the_seed(tmp_path, run, vinvl, tensors):
    folder, kernels = vinvl(tensors), []
    for number, seed in enumerate([1, 1, 2]):
        run("--vinvl", folder, "--output", tmp_path / str(number), "--seed", seed)
        kernels.append(load_model_folder(tmp_path / str(number))[0]["matching_head"]["layers"]["qkv"]["kernel"])
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[0] != kernels[2]).any()


def test_another_size_without_region_layernorm_is_converted(tmp_path, run, vinvl, tensors):
    status, output, _ = run("--vinvl", vinvl(tensors), "--output", tmp_path / "out")
    assert status == 0
    params, config, _ = load_model_folder(tmp_path / "out")
    assert "region_norm" not in params["backbone"]
    found = tensors_of(params, config)
    assert {name for name in found if name.startswith("bert.")} == {name for name in tensors if "pooler" not in name}
    for name, tensor in tensors.items():
        if "pooler" not in name:
            np.testing.assert_array_equal(found[name], tensor.numpy())
    kernel = params["backbone"]["layers"]["qkv"]["kernel"]
    for n, part in enumerate(("query", "key", "value")):
        expected = tensors[f"bert.encoder.layer.4.attention.self.{part}.weight"].numpy().T
        np.testing.assert_array_equal(kernel[4, :, n * 8 : (n + 1) * 8], expected)
    # The 12 layers take one line of the report a parameter.
    assert "36 x  bert.encoder.layer.{0..11}.attention.self.{query,key,value}.weight" in output
    assert sum("encoder.layer" in line for line in output.splitlines()) == 12


def test_verbose_lists_every_tensor(tmp_path, run, vinvl, tensors):
    _, output, _ = run("--vinvl", vinvl(tensors), "--output", tmp_path / "out", "--verbose")
    assert {line.split()[0] for line in output.splitlines() if line} >= tensors.keys()


def test_half_precision_is_widened_with_a_note(tmp_path, run, vinvl, tensors):
    name, other = "bert.embeddings.word_embeddings.weight", "bert.img_embedding.weight"
    tensors |= {name: tensors[name].half(), other: tensors[other].bfloat16()}
    status, output, _ = run("--vinvl", vinvl(tensors), "--output", tmp_path / "out")
    assert status == 0
    assert "note: 1 tensors were stored as float16: widened to float32" in output
    assert "note: 1 tensors were stored as bfloat16: widened to float32" in output
    params, config, _ = load_model_folder(tmp_path / "out")
    found = tensors_of(params, config)
    np.testing.assert_array_equal(found[name], tensors[name].float().numpy())
    np.testing.assert_array_equal(found[other], tensors[other].float().numpy())


def test_a_checkpoint_without_its_settings_has_as_many_layers_as_it_holds(tmp_path, run):
    state = torch.load(GOLDEN / "unit/checkpoint.pth.tar", weights_only=False)
    file = tmp_path / "c.pth.tar"
    torch.save({"model": state["model"]}, file)
    status, output, _ = run("--vinvl", GOLDEN / "unit/vinvl", "--checkpoint", file, "--output", tmp_path / "out")
    assert status == 0
    assert "the checkpoint has no config: 2 matching layers" in output
    assert load_model_folder(tmp_path / "out")[1].matching_head.num_layers == 2


def test_an_absent_layernorm_setting_is_taken_from_the_training_arguments(tmp_path, run, vinvl, config, draw):
    tensors = draw(config | {"use_img_layernorm": 1})
    del config["use_img_layernorm"]
    status, _, _ = run("--vinvl", vinvl(tensors, config, use_img_layernorm=1), "--output", tmp_path / "out")
    assert status == 0
    scale = load_model_folder(tmp_path / "out")[0]["backbone"]["region_norm"]["scale"]
    np.testing.assert_array_equal(scale, tensors["bert.LayerNorm.weight"])


def test_an_existing_output_is_replaced_only_on_request(tmp_path, run, vinvl, config, tensors, draw):
    arguments = ("--vinvl", vinvl(tensors), "--output", tmp_path / "out")
    assert run(*arguments)[0] == 0
    vinvl(draw(config, seed=1))
    status, _, errors = run(*arguments)
    assert (status, "already exists" in errors) == (1, True)
    assert run(*arguments, "--overwrite")[0] == 0
    expected = draw(config, seed=1)["bert.embeddings.word_embeddings.weight"].numpy()
    np.testing.assert_array_equal(load_model_folder(tmp_path / "out")[0]["backbone"]["embeddings"]["word"], expected)


def test_the_command_runs_without_warnings_and_records_its_files(tmp_path):
    folder = GOLDEN / "e2e/vinvl"
    command = [sys.executable, "-W", "error", "-m", "convert.checkpoint", "--vinvl", folder, "--output", tmp_path / "o"]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stderr) == (0, "")
    files = {Path(f["path"]).name: f for f in read_provenance(tmp_path / "o")["files"]}
    assert files.keys() == {"config.json", "pytorch_model.bin", "vocab.txt", "training_args.bin"}
    assert all(f["bytes"] == (folder / name).stat().st_size for name, f in files.items())
