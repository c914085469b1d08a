import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from aladin_jax.models.backbone import BackboneConfig

UNIT = Path(__file__).parents[1] / "golden/unit"


@pytest.fixture
def refusal(tmp_path, run):
    """Converts what has to be refused; gives the error line after checking that nothing was written."""

    def refusal(folder, *arguments):
        before = sorted(tmp_path.iterdir())
        status, output, errors = run("--vinvl", folder, *arguments, "--output", tmp_path / "out")
        assert (status, output) == (1, "")
        assert errors.startswith("error: ")
        assert errors.count("\n") == 1
        assert sorted(tmp_path.iterdir()) == before
        return errors

    return refusal


def test_unknown_tensors_and_parameters_without_a_source_are_listed(vinvl, tensors, refusal):
    tensors |= {"bert.adapter.weight": torch.ones(2), "bert.encoder.layer.12.output.dense.bias": torch.ones(8)}
    del tensors["bert.encoder.layer.7.attention.self.key.bias"], tensors["bert.img_embedding.weight"]
    error = refusal(vinvl(tensors))
    assert "unknown tensors: bert.adapter.weight, bert.encoder.layer.12.output.dense.bias" in error
    assert "backbone/layers/qkv/bias (from bert.encoder.layer.7.attention.self.key.bias)" in error
    assert "backbone/region_projection/kernel (from bert.img_embedding.weight)" in error


def test_names_in_a_file_cannot_write_to_the_terminal(tmp_path, vinvl, tensors, refusal, run):
    error = refusal(vinvl({**tensors, "bert.a\n\x1b[31m\ud800": torch.ones(1)}))
    assert r"unknown tensors: bert.a\n\x1b[31m\ud800" in error
    for verbose in ((), ("--verbose",)):
        folder = vinvl({**tensors, "a\n\x1b[31m\ud800": torch.ones(1)})
        status, output, _ = run("--vinvl", folder, "--output", tmp_path / f"out{len(verbose)}", *verbose)
        assert status == 0
        assert r"a\n\x1b[" in output
        assert all(line.isprintable() for line in output.splitlines())


def test_an_aladin_checkpoint_without_its_matching_head_is_refused(tmp_path, vinvl, tensors, refusal):
    model = {f"img_txt_enc.oscar_model.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"model": model, "config": {"model": {"tern-layers": 2}}}, tmp_path / "c.pth.tar")
    error = refusal(vinvl(tensors), "--checkpoint", tmp_path / "c.pth.tar")
    assert "matching_head/layers/qkv/kernel (from final_projection_net.layers.0.self_attn.in_proj_weight" in error


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"intermediate_size": 21}, "layer.0.intermediate.dense.bias is [20], the configuration says [21]"),
        ({"vocab_size": 10**9}, "word_embeddings.weight is [30, 8], the configuration says [1000000000, 8]"),
        ({"hidden_size": 10**9}, "the configuration says [1000000000]"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; expected a whole number from 1 to 2,147,483,647"),
        ({"img_feature_dim": 2054}, "bert.img_embedding.weight is [8, 7], the configuration says [8, 2054]"),
        ({"num_hidden_layers": 10**9}, "config.json: 1000000000 layers in the backbone"),
        ({"num_hidden_layers": 13}, "backbone/layers/output/bias (from bert.encoder.layer.12.output.dense.bias)"),
        ({"num_hidden_layers": 11}, "unknown tensors: bert.encoder.layer.11.attention.output.LayerNorm.bias"),
        ({"use_img_layernorm": 1}, "backbone/region_norm/bias (from bert.LayerNorm.bias)"),
        ({"num_attention_heads": 3}, "not a multiple of num_attention_heads 3"),
        ({"hidden_act": "relu"}, "hidden_act is 'relu'"),
        ({"hidden_size": "wide"}, "hidden_size is 'wide'"),
    ],
)
def test_weights_that_differ_from_the_configuration_are_named(vinvl, config, tensors, refusal, change, fault):
    assert fault in refusal(vinvl(tensors, config | change))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden_size": "1e999"}, "'hidden_size' is inf, not a finite number"),
        ({"hidden_size": "NaN"}, "'hidden_size' is nan, not a finite number"),
        ({"hidden_size": "1e300"}, "hidden_size is 1e+300; expected a whole number from 1 to 2,147,483,647"),
        ({"hidden_size": "9" * 5000}, "not a JSON file"),
        ({"num_attention_heads": "0"}, "num_attention_heads is 0; expected a whole number from 1"),
        ({"num_hidden_layers": "12.5"}, "num_hidden_layers is 12.5; expected a whole number"),
        ({"vocab_size": "true"}, "vocab_size is True; expected a whole number"),
        ({"layer_norm_eps": "-1e-12"}, "layer_norm_eps is -1e-12; expected a number from 0 to 1"),
        ({"layer_norm_eps": "[]"}, "layer_norm_eps is []; expected a number"),
        ({"hidden_dropout_prob": "1"}, "hidden_dropout_prob is 1.0; it must be in [0, 1)"),
        ({"use_img_layernorm": "2"}, "use_img_layernorm is 2; expected true or false"),
    ],
)
def test_an_absurd_number_in_the_configuration_is_named(vinvl, config, tensors, refusal, change, expected):
    folder = vinvl(tensors)
    [(field, text)] = change.items()
    (folder / "config.json").write_text(json.dumps({**config, field: "HERE"}).replace('"HERE"', text))
    assert expected in refusal(folder)


@pytest.mark.parametrize("number", [float("inf"), float("nan"), 10**400])
def test_an_infinite_number_given_as_a_value_is_named(number):
    with pytest.raises(ValueError, match=r"^model config: hidden_size is .*; expected a whole number from 1"):
        BackboneConfig.from_dict({"hidden_size": number})
    with pytest.raises(ValueError, match=r"^model config: layer_norm_eps is .*; expected a number from 0 to 1"):
        BackboneConfig.from_dict({"layer_norm_eps": number})


@pytest.mark.parametrize("field", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_a_size_missing_from_the_configuration_is_not_guessed(vinvl, config, tensors, refusal, field):
    del config[field]
    assert f"config.json: {field} is missing" in refusal(vinvl(tensors, config))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(vinvl, tensors, refusal, bad):
    name = "bert.encoder.layer.3.output.dense.weight"
    tensors[name][2, 1] = bad
    assert f"{name} holds NaN or infinity" in refusal(vinvl(tensors))


def test_weights_that_are_integers_are_named(vinvl, tensors, refusal):
    name = "bert.embeddings.word_embeddings.weight"
    tensors[name] = tensors[name].long()
    assert f"{name} holds torch.int64" in refusal(vinvl(tensors))


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"model": {"shared-transformer": False}}, "trained with model.shared-transformer = False"),
        ({"model": {"depth-aggregation-matching": True}}, "trained with model.depth-aggregation-matching = True"),
        ({"model": {}, "detection_type": "detic"}, "trained with detection_type = 'detic'"),
        ({"model": {"tern-layers": "two"}}, "num_layers of the matching head is 'two'"),
        ({"model": {"dropout": 1.5}}, "dropout of the matching head is 1.5"),
        ({"model": {"tern-layers": 10**9}}, "1000000000 layers in the matching_head"),
    ],
)
def test_a_checkpoint_trained_as_another_model_is_refused(tmp_path, unchecked, refusal, settings, fault):
    state = torch.load(UNIT / "checkpoint.pth.tar", weights_only=False)
    torch.save({**state, "config": settings}, tmp_path / "c.pth.tar")
    assert fault in refusal(UNIT / "vinvl", "--checkpoint", tmp_path / "c.pth.tar")


def test_a_vinvl_file_given_as_checkpoint_is_refused(refusal):
    error = refusal(UNIT / "vinvl", "--checkpoint", UNIT / "vinvl/pytorch_model.bin")
    assert "there is no matching head and it is no ALADIN checkpoint; a backbone alone is converted as pytorch" in error


@pytest.mark.parametrize("file", ["pytorch_model.bin", "training_args.bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_malicious_file_is_refused_by_the_name_it_calls(tmp_path, vinvl, tensors, refusal, file, zipped):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'trace'}",)

    folder = vinvl(tensors)
    torch.save({"x": Attack()}, folder / file, _use_new_zipfile_serialization=zipped)
    assert f"{file}: refused: its pickle names {os.system.__module__}.system" in refusal(folder)


def test_training_arguments_without_end_are_refused(vinvl, tensors, refusal):
    endless: list = []
    endless.append(endless)
    laughs: list = ["ha"]
    for _ in range(40):
        laughs = [laughs] * 10
    assert "training_args.bin: its settings are nested too deep" in refusal(vinvl(tensors, endless=endless))
    assert "training_args.bin: holds too many settings" in refusal(vinvl(tensors, laughs=laughs))


def test_a_cased_model_is_refused(vinvl, tensors, refusal):
    assert "do_lower_case is off" in refusal(vinvl(tensors, do_lower_case=False))


def test_a_vocabulary_of_another_size_is_refused(vinvl, tensors, refusal):
    folder = vinvl(tensors)
    shutil.copy(UNIT.parent / "e2e/vinvl/vocab.txt", folder)
    assert "vocab.txt: 2090 tokens, but the model's vocab_size is 30" in refusal(folder)


@pytest.mark.parametrize(
    ("missing", "fault"),
    [
        ("config.json", "config.json: no such file, nor a bert_config.json"),
        ("pytorch_model.bin", "there is no model.safetensors or pytorch_model.bin"),
    ],
)
def test_a_missing_file_is_named(vinvl, tensors, refusal, missing, fault):
    folder = vinvl(tensors)
    (folder / missing).unlink()
    assert fault in refusal(folder)


def test_a_missing_folder_is_named(tmp_path, refusal):
    assert "nowhere: no such folder" in refusal(tmp_path / "nowhere")
