"""Checkpoints as people have them, each test named after what a user brings; see also test_original_runs.py."""

import json
import shutil

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aladin_jax.model_folder import flatten, load_model_folder, load_run_state, read_provenance
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.resume import resume
from aladin_jax.training.step import init_state
from convert import export
from convert.names import entries
from convert.torch_files import load_torch
from tests.golden_data import E2E, UNIT

AS_SAVED = E2E / "checkpoint_as_saved.pth.tar"


@pytest.fixture
def saved():
    """The content of a checkpoint as the original's train.py saves it; its tensors can be changed."""
    return load_torch(AS_SAVED)


@pytest.fixture
def folder(tmp_path):
    """A VinVL folder of the golden data that can be changed."""
    return shutil.copytree(E2E / "vinvl", tmp_path / "vinvl", copy_function=shutil.copyfile)


@pytest.fixture
def convert_checkpoint(tmp_path, run):
    """Converts a checkpoint of this content; gives the report, or the error after checking that nothing was written."""

    def convert_checkpoint(content, name="checkpoint.pth.tar", expected=0):
        path, output = tmp_path / name, tmp_path / "out"
        save_file(content, path) if name.endswith(".safetensors") else torch.save(content, path)
        status, report, errors = run("--vinvl", E2E / "vinvl", "--checkpoint", path, "--output", output)
        assert status == expected, errors
        if expected:
            assert errors.count("\n") == 1
            assert not output.exists()
        return report or errors

    return convert_checkpoint


@pytest.fixture
def same_model(tmp_path, saved):
    """Checks that the converted tensors are those of the golden checkpoint."""

    def same_model(path=tmp_path / "out"):
        params, config, _ = load_model_folder(path)
        assert config.matching_head.num_layers == 2
        check_tensors(params, config, saved["model"])

    return same_model


def check_tensors(params, config, expected):
    flat = flatten(params)
    for entry in entries(config):
        for name, tensor in entry.to_tensors(np.asarray(flat[entry.parameter])).items():
            prefix = "img_txt_enc.oscar_model." if name.startswith("bert.") else "img_txt_enc."
            np.testing.assert_array_equal(tensor, expected[prefix + name].numpy(), err_msg=name)


def renamed(state, rename):
    return {rename(name): tensor.clone() for name, tensor in state.items()}


# Row 1


def test_a_checkpoint_as_train_py_saves_it(tmp_path, convert_checkpoint, saved, same_model):
    report = convert_checkpoint(saved)
    same_model()
    assert "ignored: 22 tensors" in report
    ignored = read_provenance(tmp_path / "out")["tensors"]["ignored"]
    assert {name for name in ignored if "clip_" in name or "detic" in name} == {
        name for name in saved["model"] if "clip_" in name or "detic" in name
    }
    assert read_provenance(tmp_path / "out")["checkpoint"]["opt"]["device"] == "cuda"
    # Adam's state is that of each tensor, by the same way as the tensor itself.
    state = load_run_state(tmp_path / "out")
    _, config, _ = load_model_folder(tmp_path / "out")
    for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        moments = {name: saved["optimizer"]["state"].get(n, {}).get(theirs) for n, name in enumerate(saved["model"])}
        check_tensors({group: of_group[ours] for group, of_group in state.adam.items()}, config, moments)
    assert state.progress == {
        "epoch": 1,
        "iterations": 7,
        "learning_rate": 1e-5,
        "lr_step_epochs": 15,
        "lr_gamma": 0.1,
    }


@pytest.mark.parametrize("place", ["config", "opt"])
@pytest.mark.parametrize(
    ("option", "value"), [("enable_clip_labels", True), ("enable_clip_captions", True), ("detection_type", "detic")]
)
def test_a_checkpoint_that_was_trained_with_clip_or_detic(convert_checkpoint, saved, place, option, value):
    if place == "config":
        saved["config"][option] = value
    else:
        setattr(saved["opt"], option, value)
        del saved["config"][option]
    error = convert_checkpoint(saved, expected=1)
    assert f"trained with {option} = {value!r}; only" in error


@pytest.mark.parametrize(
    ("part", "option"),
    [
        ("detic_to_oscar_img.0.weight", "detection_type"),
        ("clip_local_to_oscar_embeddings.2.bias", "enable_clip_labels"),
    ],
)
def test_a_checkpoint_without_its_config_whose_detic_or_clip_weights_are_in_use(
    convert_checkpoint, saved, part, option
):
    [(number, tensor)] = [(n, t) for n, (name, t) in enumerate(saved["model"].items()) if name.endswith(part)]
    moved = {"step": torch.tensor(7.0), "exp_avg": tensor * 0, "exp_avg_sq": torch.ones_like(tensor)}
    saved["optimizer"]["state"][number] = moved
    del saved["config"], saved["opt"]
    error = convert_checkpoint(saved, expected=1)
    assert f"trained with {option}" in error
    assert part in error


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda o: o["param_groups"][0].update(weight_decay=0.05), "weight_decay is 0.05; only 0 is supported"),
        (lambda o: o["param_groups"][0]["params"].pop(), "it is of 102 parameters, the model has 103"),
        (lambda o: o["state"].pop(8), "within the backbone Adam has done 0 and 7 steps"),
        (lambda o: o["state"][8].update(exp_avg=torch.ones(3)), "has the shape [3]"),
        (lambda o: o["state"][8]["exp_avg_sq"].neg_(), "holds NaN, infinity or a negative square"),
        (lambda o: o["param_groups"][0].update(betas=[0.9, 0.99]), "betas is [0.9, 0.99]; only (0.9, 0.999) is"),
        (lambda o: o.clear(), "it is no Adam's (KeyError)"),
    ],
)
def test_an_optimizer_that_cannot_go_on_here_is_left_out_and_the_weights_are_converted(
    tmp_path, convert_checkpoint, saved, same_model, change, cause
):
    saved["optimizer"]["state"] = {
        number: {name: tensor.clone() for name, tensor in state.items()}
        for number, state in saved["optimizer"]["state"].items()
    }
    change(saved["optimizer"])
    report = convert_checkpoint(saved)
    assert "left out: the optimizer's state, so the run cannot be resumed" in report
    assert cause in report
    same_model()
    with pytest.raises(ValueError, match="holds no optimizer's state to resume from"):
        load_run_state(tmp_path / "out")


@pytest.mark.parametrize("rate", [float("inf"), float("nan"), -1.0])
def test_a_learning_rate_that_is_none_is_left_out_with_the_optimizer(tmp_path, convert_checkpoint, saved, rate):
    saved["scheduler"]["base_lrs"] = [rate]
    assert f"cannot be resumed: learning_rate is {rate}" in convert_checkpoint(saved)
    assert not (tmp_path / "out/progress.json").exists()


def test_a_head_that_had_no_gradient_yet_has_no_state_of_adam(tmp_path, convert_checkpoint, saved):
    head = [n for n, name in enumerate(saved["model"]) if "final_projection_net" in name]
    for number in head:
        del saved["optimizer"]["state"][number]
    convert_checkpoint(saved)
    assert load_run_state(tmp_path / "out").adam.keys() == {"backbone"}


def test_scales_of_infonce_that_were_trained_go_on_too(tmp_path, convert_checkpoint, saved):
    names = list(saved["model"])
    saved["model"]["alignment_criterion.logit_scale"] = torch.tensor(2.5)
    saved["optimizer"]["state"][names.index("alignment_criterion.logit_scale")] = {
        "step": torch.tensor(7.0),
        "exp_avg": torch.tensor(0.5),
        "exp_avg_sq": torch.tensor(0.25),
    }
    convert_checkpoint(saved)
    params = load_model_folder(tmp_path / "out")[0]
    run_state = load_run_state(tmp_path / "out")
    for ranking_loss in ("info_nce", "hinge"):
        fresh = init_state(params, Objective(alignment=1.0, ranking_loss=ranking_loss), optim.adam(), (), seed=0)
        state = resume(fresh, run_state, steps_per_epoch=10, num_steps=20, source="it")
        assert int(state.step) == 10
        assert int(state.opt_state["backbone"].count) == 7
        assert jax.tree.structure(state) == jax.tree.structure(fresh)
        if ranking_loss == "info_nce":
            found = state.opt_state["alignment_loss"]
            assert float(state.params["alignment_loss"]["log_scale"]) == 2.5
            assert (int(found.count), float(found.mu["log_scale"]), float(found.nu["log_scale"])) == (7, 0.5, 0.25)


def test_adams_state_of_another_width_of_regions_is_refused(tmp_path, convert_checkpoint, saved):
    convert_checkpoint(saved)
    params = load_model_folder(tmp_path / "out")[0]
    params["backbone"]["region_projection"]["kernel"] = np.zeros((100, 64), np.float32)
    fresh = init_state(params, Objective(alignment=1.0), optim.adam(), (), seed=0)
    with pytest.raises(ValueError, match="Adam's state is of another model than this data asks for"):
        resume(fresh, load_run_state(tmp_path / "out"), steps_per_epoch=7, num_steps=20, source="it")


def test_a_damaged_state_of_adam_is_refused(tmp_path, convert_checkpoint, saved):
    convert_checkpoint(saved)
    file = max((tmp_path / "out/optimizer").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    file.write_bytes(file.read_bytes()[:-9] + bytes(9))
    load_model_folder(tmp_path / "out")  # the weights are whole
    with pytest.raises(ValueError, match=r"optimizer: damaged: its files differ from optimizer\.sha256"):
        load_run_state(tmp_path / "out")


def test_a_checkpoint_as_train_py_saves_it_is_verified(tmp_path, run):
    arguments = ("--vinvl", E2E / "vinvl", "--checkpoint", AS_SAVED, "--output", tmp_path / "out", "--verify")
    status, report, errors = run(*arguments)
    assert status == 0, errors
    assert "verified: text stream against transformers' BertModel" in report


# Row 2


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.module.{name}",
        lambda name: f"model.{name}",
        lambda name: f"lightning_module.net.{name}",
        lambda name: name.replace("img_txt_enc.", "img_txt_enc.module."),
        lambda name: name.replace(".layer.", ".layer._orig_mod.").replace("layers.", "layers._fsdp_wrapped_module."),
        lambda name: name.replace("img_txt_enc.oscar_model.", "").replace("img_txt_enc.", "student.head."),
    ],
    ids=["DataParallel", "compiled", "Lightning", "nested", "a part of it", "layers", "taken apart"],
)  # fmt: skip
def test_a_checkpoint_with_a_wrappers_prefix(convert_checkpoint, saved, same_model, rename):
    report = convert_checkpoint({**saved, "model": renamed(saved["model"], rename)})
    assert "note: names of the model's tensors are given without" in report
    same_model()


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "encoder.", ""])
def test_a_vinvl_folder_with_a_wrappers_prefix(tmp_path, run, folder, prefix):
    state = load_torch(folder / "pytorch_model.bin")
    torch.save(renamed(state, lambda name: prefix + name), folder / "pytorch_model.bin")
    status, report, errors = run("--vinvl", folder, "--output", tmp_path / "out")
    assert status == 0, errors
    assert ("note: names of the model's tensors are given without" in report) == bool(prefix)
    word = load_model_folder(tmp_path / "out")[0]["backbone"]["embeddings"]["word"]
    np.testing.assert_array_equal(word, state["bert.embeddings.word_embeddings.weight"])


def test_a_checkpoint_of_two_models_is_refused_with_both_names(convert_checkpoint, saved):
    both = renamed(saved["model"], lambda name: f"teacher.{name}") | renamed(saved["model"], lambda n: f"student.{n}")
    error = convert_checkpoint({"model": both}, expected=1)
    assert "has several backbones, with names that begin 'student.img_txt_enc.oscar_model.bert.', 'teacher." in error


# Row 3


@pytest.mark.parametrize(
    "extra",
    [
        {"classifier.0.weight": (128, 128), "classifier.0.bias": (128,), "classifier.2.weight": (2, 128)},
        {"linear.weight": (128, 64)},
        {"cls.seq_relationship.weight": (2, 64), "bert.embeddings.token_type_ids": (1, 8)},
    ],
    ids=["NLVR2", "ColBERT", "pre-training"],
)
def test_a_vinvl_folder_of_another_task(tmp_path, run, folder, extra):
    state = load_torch(folder / "pytorch_model.bin")
    state = {name: tensor for name, tensor in state.items() if not name.startswith("classifier")}
    torch.save(state | {name: torch.ones(shape) for name, shape in extra.items()}, folder / "pytorch_model.bin")
    status, _, errors = run("--vinvl", folder, "--output", tmp_path / "out")
    assert status == 0, errors
    ignored = read_provenance(tmp_path / "out")["tensors"]["ignored"]
    assert extra.keys() <= ignored.keys()
    assert all(ignored.values())


def test_a_tensor_inside_of_the_backbone_or_the_head_that_no_table_knows_is_refused(convert_checkpoint, saved):
    for name in ("oscar_model.bert.encoder.layer.0.adapter.weight", "final_projection_net.layers.0.norm3.weight"):
        error = convert_checkpoint(
            {**saved, "model": {**saved["model"], f"img_txt_enc.{name}": torch.ones(2)}}, expected=1
        )
        assert f"unknown tensors: img_txt_enc.{name}" in error


# Row 4


def test_a_checkpoint_that_also_holds_numpys_numbers(tmp_path, convert_checkpoint, saved, same_model):
    saved |= {"best_rsum": np.float64(431.5), "rng": np.random.RandomState(0).get_state(), "ranks": np.arange(3)}
    convert_checkpoint(saved)
    same_model()
    told = read_provenance(tmp_path / "out")["checkpoint"]
    assert (told["best_rsum"], told["ranks"]) == (431.5, "array [3]")


# Row 5


def test_a_bare_state_dict_as_checkpoint(convert_checkpoint, saved, same_model):
    report = convert_checkpoint(dict(saved["model"]))
    assert "the checkpoint has no config: 2 matching layers as it holds" in report
    assert "(CLIP, Detic) cannot be told" in report
    same_model()


def test_a_bare_state_dict_in_safetensors(convert_checkpoint, saved, same_model):
    convert_checkpoint(renamed(saved["model"], str), name="weights.safetensors")
    same_model()


@pytest.mark.parametrize("entry", ["state_dict", "model_state_dict", "net"])
def test_a_checkpoint_whose_model_is_under_another_entry(convert_checkpoint, saved, same_model, entry):
    content = {entry: {**saved["model"], "num_updates": 3}, "epoch": 3, "hyper_parameters": {"lr": 1e-5}}
    report = convert_checkpoint(content)
    assert f"the weights are those of the entry '{entry}'" in report
    assert f"left out: num_updates of the entry '{entry}', which are no tensors" in report
    same_model()


# Row 6


@pytest.mark.parametrize("rows", [2096, 2112, 2180])
def test_a_word_embedding_padded_beyond_the_vocabulary(tmp_path, run, folder, rows):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": rows}))
    state = load_torch(folder / "pytorch_model.bin")
    word = "bert.embeddings.word_embeddings.weight"
    state[word] = torch.cat([state[word], torch.ones(rows - 2090, 64)])
    torch.save(state, folder / "pytorch_model.bin")
    status, report, errors = run("--vinvl", folder, "--output", tmp_path / "out", "--verify")
    assert status == 0, errors
    assert f"vocab.txt has 2090 tokens, the model room for {rows}" in report


def test_a_vocabulary_that_is_cut_short_is_refused(tmp_path, run, folder):
    words = (folder / "vocab.txt").read_text().splitlines(keepends=True)
    (folder / "vocab.txt").write_text("".join(words[:1500]))
    status, _, errors = run("--vinvl", folder, "--output", tmp_path / "out")
    assert (status, "1500 tokens, but the model's vocab_size is 2090" in errors) == (1, True)


# Row 7


def test_bert_config_json_in_place_of_config_json(tmp_path, run, folder):
    (folder / "config.json").rename(folder / "bert_config.json")
    assert run("--vinvl", folder, "--output", tmp_path / "out")[0] == 0
    assert load_model_folder(tmp_path / "out")[1].backbone.hidden_size == 64


@pytest.mark.parametrize("option", ["--vinvl", "--bert"])
@pytest.mark.parametrize(
    ("files", "what"),
    [
        (
            ["bert_config.json", "bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"],
            "a TensorFlow checkpoint",
        ),
        (["config.json", "model.ckpt-1000.index", "checkpoint"], "a TensorFlow checkpoint"),
        (["config.json", "tf_model.h5"], "a TensorFlow model"),
        (["config.json", "flax_model.msgpack"], "a Flax model"),
    ],
)
def test_weights_of_another_program(tmp_path, run, folder, option, files, what):
    (folder / "pytorch_model.bin").unlink()
    (folder / "config.json").rename(folder / files[0])
    for name in files[1:]:
        (folder / name).write_bytes(b"x")
    status, _, errors = run(option, folder, "--output", tmp_path / "out")
    assert (status, errors.count("\n")) == (1, 1)
    assert f"{what}; only PyTorch's weights are read" in errors


@pytest.mark.parametrize("option", ["--vinvl", "--bert"])
@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"model_type": "distilbert", "dim": 768, "n_layers": 6, "n_heads": 12},
            "model_type is 'distilbert'; only 'bert'",
        ),
        ({"dim": 768, "n_layers": 6, "n_heads": 12, "vocab_size": 30522}, "it looks like a DistilBERT or XLM"),
    ],
)
def test_a_distilbert(tmp_path, run, folder, option, config, what):
    (folder / "config.json").write_text(json.dumps(config))
    status, _, errors = run(option, folder, "--output", tmp_path / "out")
    assert (status, what in errors) == (1, True), errors


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5, as TensorFlow and Keras write"),
        (b"<!DOCTYPE html><html></html>", "a web page: the download failed"),
    ],
)
def test_another_file_in_the_place_of_a_checkpoint(tmp_path, run, content, what):
    (tmp_path / "checkpoint.pth.tar").write_bytes(content)
    arguments = ("--vinvl", E2E / "vinvl", "--checkpoint", tmp_path / "checkpoint.pth.tar")
    status, _, errors = run(*arguments, "--output", tmp_path / "out")
    assert (status, what in errors) == (1, True), errors


# Row 8


def test_a_byte_order_mark_before_config_json_and_the_vocabulary(tmp_path, run, folder):
    for name in ("config.json", "vocab.txt"):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
    assert run("--vinvl", folder, "--output", tmp_path / "out")[0] == 0
    assert load_model_folder(tmp_path / "out")[1].backbone.hidden_size == 64


# Row 9


@pytest.mark.parametrize("option", ["--checkpoint", "--vinvl", "--bert"])
def test_our_own_folder_of_safetensors(tmp_path, run, convert_checkpoint, saved, same_model, option):
    convert_checkpoint(saved)
    arguments = ["--workdir", str(tmp_path / "out"), "--output", str(tmp_path / "exported"), "--format", "safetensors"]
    assert export.main(arguments) == 0
    status, _, errors = run(option, tmp_path / "exported", "--output", tmp_path / "again")
    assert status == 0, errors
    same_model(tmp_path / "again")
    assert load_model_folder(tmp_path / "again")[1] == load_model_folder(tmp_path / "out")[1]
    assert load_model_folder(tmp_path / "again")[2] is not None
    first, second = (load_model_folder(tmp_path / name)[0] for name in ("out", "again"))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_our_own_folder_of_safetensors_with_a_tensor_missing(tmp_path, run, convert_checkpoint, saved):
    convert_checkpoint(saved)
    arguments = ["--workdir", str(tmp_path / "out"), "--output", str(tmp_path / "exported"), "--format", "safetensors"]
    assert export.main(arguments) == 0
    state = {n: t.clone() for n, t in saved["model"].items() if "norm2.weight" not in n}
    save_file(state, tmp_path / "exported/model.safetensors")
    status, _, errors = run("--checkpoint", tmp_path / "exported", "--output", tmp_path / "again")
    assert (status, "matching_head/layers/output_norm/scale" in errors) == (1, True)


def test_a_smaller_model_with_its_vocabulary_elsewhere_still_converts(tmp_path, run):
    arguments = ("--vinvl", UNIT / "vinvl", "--checkpoint", UNIT / "checkpoint.pth.tar")
    assert run(*arguments, "--output", tmp_path / "out")[0] == 0
