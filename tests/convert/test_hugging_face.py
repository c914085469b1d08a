import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.model_folder import flatten, load_model_folder, read_provenance
from convert.conversion import convert
from convert.hugging_face import read_bert
from convert.names import entries
from convert.verification import TOLERANCE, verify_text_stream
from tests.convert.conftest import write_shards

VOCABULARY = Path(__file__).parents[1] / "golden/e2e/vinvl/vocab.txt"
SIZES = {
    "vocab_size": 2090,
    "hidden_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 30,
    "layer_norm_eps": 1e-6,
}


@pytest.fixture(scope="module")
def state():
    """The tensors of a small BERT with pre-training head, every one of them random."""
    torch.manual_seed(0)
    state = BertForMaskedLM(BertConfig(**SIZES)).state_dict()
    return {name: 0.3 * torch.randn_like(tensor) for name, tensor in state.items()}


@pytest.fixture
def folder(tmp_path):
    """A folder without weights yet."""
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_act": "gelu", **SIZES}))
    shutil.copy(VOCABULARY, folder)
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    return folder


def without_prefix(state):
    return {n.removeprefix("bert."): t for n, t in state.items() if n.startswith("bert.")}


def with_old_names(state):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for name, tensor in state.items():
        for new, before in old.items():
            name = name.replace(new, before)
        renamed[name] = tensor
    return renamed | {"bert.embeddings.position_ids": torch.arange(30)[None]}


@pytest.mark.parametrize(
    ("file", "layout"),
    [("model.safetensors", dict), ("model.safetensors", without_prefix), ("pytorch_model.bin", with_old_names)],
)
def test_any_layout_of_a_bert_is_converted_bit_for_bit_and_verified(tmp_path, run, folder, state, file, layout):
    tensors = {name: tensor.clone() for name, tensor in layout(state).items()}
    save = save_file if file.endswith("safetensors") else torch.save
    save(tensors, folder / file)
    status, output, errors = run("--bert", folder, "--output", tmp_path / "out", "--verify")
    assert (status, errors) == (0, "")
    assert "the projection of regions (2054 numbers each) and the matching head start from fresh weights" in output
    assert "verified: text stream against transformers' BertModel, " in output

    params, config, vocabulary = load_model_folder(tmp_path / "out")
    flat = flatten(params)
    for entry in entries(config):
        if entry.parameter.startswith(("backbone/region_", "matching_head/")):
            continue
        for name, tensor in entry.to_tensors(flat[entry.parameter]).items():
            np.testing.assert_array_equal(tensor, state[name].numpy(), err_msg=name)
    assert (config.backbone.num_attention_heads, config.backbone.layer_norm_eps) == (3, 1e-6)
    assert vocabulary is not None
    assert vocabulary.read_bytes() == VOCABULARY.read_bytes()
    verified = read_provenance(tmp_path / "out")["verified"]
    assert 0 < verified["first"] < TOLERANCE
    assert 0 < verified["last"] < TOLERANCE
    assert set(read_provenance(tmp_path / "out")["tensors"]["fresh"]) == {
        name for name in flat if name.startswith(("backbone/region_", "matching_head/"))
    }
    # BERT's own initialisation of a dense layer.
    assert params["backbone"]["region_projection"]["kernel"].std() == pytest.approx(0.02, rel=0.02)
    assert (params["backbone"]["region_norm"]["scale"] == 1).all()


def test_what_transformers_saves_is_converted_with_the_vocabulary_in_its_tokenizer(tmp_path, run):
    torch.manual_seed(1)
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path / "bert")
    BertTokenizer(str(VOCABULARY)).save_pretrained(tmp_path / "bert")
    assert not (tmp_path / "bert/vocab.txt").exists()
    status, output, _ = run("--bert", tmp_path / "bert", "--output", tmp_path / "out", "--verify")
    assert status == 0
    assert "vocab.txt is taken from tokenizer.json" in output
    vocabulary = load_model_folder(tmp_path / "out")[2]
    assert vocabulary is not None
    assert vocabulary.read_bytes() == VOCABULARY.read_bytes()
    CaptionTokenizer(vocabulary, max_caption_len=9, max_labels_len=9)


@pytest.mark.parametrize("prefix", ["", "module.", "0.auto_model."])
def test_a_bert_with_a_layer_of_its_own_on_top_as_colberts(tmp_path, run, folder, state, prefix):
    tensors = {f"{prefix}{name}": tensor.clone() for name, tensor in state.items()}
    save_file(tensors | {"linear.weight": torch.ones(128, 24)}, folder / "model.safetensors")
    status, output, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, errors) == (0, "")
    assert "1 x  linear.weight" in output
    ignored = read_provenance(tmp_path / "out")["tensors"]["ignored"]
    assert ignored["linear.weight"] == "outside of the backbone and the matching head"


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_weights_in_several_shards_are_read(tmp_path, run, folder, state, name):
    index = write_shards(folder, state, 3, name)
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out", "--verify")
    assert (status, errors) == (0, "")
    params = load_model_folder(tmp_path / "out")[0]
    word = state["bert.embeddings.word_embeddings.weight"].numpy()
    np.testing.assert_array_equal(params["backbone"]["embeddings"]["word"], word)
    files = [Path(file["path"]).name for file in read_provenance(tmp_path / "out")["files"]]
    assert sorted(files[2:-1]) == sorted(set(json.loads(index.read_text())["weight_map"].values()))
    assert files[-1] == index.name


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda shards, key: shards.update({key: "../model.safetensors"}), "which is no file beside it"),
        (lambda shards, key: shards.update({key: "/etc/passwd"}), "which is no file beside it"),
        (lambda shards, key: shards.update({key: 3}), "is said to be in '3', which is no file"),
        (lambda shards, key: shards.update({key: "other.safetensors"}), "other.safetensors: no such file, but model.s"),
        (lambda shards, key: shards.update({"bert.x": shards[key]}), "whether 'bert.x' is in it"),
        (lambda shards, key: shards.pop(key), "whether 'bert.embeddings.word_embeddings.weight' is in it"),
        (lambda shards, key: shards.clear(), "there is no weight_map"),
    ],
)
def test_an_index_that_differs_from_its_shards_is_refused(tmp_path, run, folder, state, change, fault):
    index = write_shards(folder, state, 2)
    content = json.loads(index.read_text())
    change(content["weight_map"], "bert.embeddings.word_embeddings.weight")
    index.write_text(json.dumps(content))
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, errors.count("\n"), fault in errors) == (1, 1, True), errors
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_missing_is_named(tmp_path, run, folder, state):
    write_shards(folder, state, 2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, "model-00002-of-00002.safetensors: no such file, but model.safetensors.index" in errors) == (
        1,
        True,
    )


def test_parameters_in_the_wrong_order_are_not_verified(tmp_path, folder, state):
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    source = read_bert(folder, tmp_path)
    assert source.caption_ending is None  # it was trained on no captions
    params, _ = convert(source, seed=0)
    qkv = params["backbone"]["layers"]["qkv"]
    qkv["kernel"] = np.roll(qkv["kernel"], 24, axis=2)  # value, query, key
    with pytest.raises(ValueError, match="not verified: text stream against transformers"):
        verify_text_stream(source, params)


def test_a_model_that_is_not_verified_is_not_written(tmp_path, run, folder, state):
    # Hidden states of some 1e5 agree to seven digits at best, so not to 1e-4.
    large = {name: tensor.clone() for name, tensor in state.items()}
    large["bert.encoder.layer.3.output.LayerNorm.weight"] *= 1e5
    save_file(large, folder / "model.safetensors")
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out", "--verify")
    assert (status, "not verified: text stream against transformers" in errors) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "values", "fault"),
    [
        ("config.json", {"model_type": "roberta"}, "model_type is 'roberta'"),
        ("config.json", {"position_embedding_type": "relative_key"}, "position_embedding_type is 'relative_key'"),
        ("config.json", {"is_decoder": True}, "is_decoder is True"),
        ("config.json", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'"),
        (
            "config.json",
            {"hidden_size": 27},
            "hidden_size 27 of the backbone is not a multiple",
        ),
        ("tokenizer_config.json", {"do_lower_case": False}, "do_lower_case is False; only BERT's uncased tokenizer"),
        ("tokenizer_config.json", {"strip_accents": False}, "strip_accents is False"),
        ("tokenizer.json", {"normalizer": {"lowercase": False}}, "lowercase is False"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "tokenizer.json: lowercase is None"),
        ("tokenizer.json", {"normalizer": None}, "lowercase is None"),
    ],
)
def test_another_kind_of_model_is_refused(tmp_path, run, folder, state, file, values, fault):
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    before = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    (folder / file).write_text(json.dumps(before | values))
    status, output, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, output) == (1, "")
    assert fault in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ({"type": "BPE", "vocab": {"a": 0}}, "not a WordPiece tokenizer"),
        ({"type": "WordPiece", "vocab": {"[PAD]": 0, "a": 2}}, "not numbered from 0 without gaps"),
        ({"type": "WordPiece", "vocab": {"[PAD]": 0, "a\nb": 1}}, "a token has a line end in it"),
        (
            {"type": "WordPiece", "vocab": {"[PAD]": 0, "a": 1}},
            "tokenizer.json: vocabulary: the vocabulary of 2",
        ),
        ({"type": "WordPiece", "vocab": ["[PAD]"]}, "not a WordPiece tokenizer"),
    ],
)
def test_a_tokenizer_without_a_bert_vocabulary_is_refused(tmp_path, run, folder, state, model, fault):
    save_file({name: tensor.clone() for name, tensor in state.items()}, folder / "model.safetensors")
    (folder / "vocab.txt").unlink()
    (folder / "tokenizer.json").write_text(json.dumps({"normalizer": {"lowercase": True}, "model": model}))
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, fault in errors) == (1, True), errors


def test_a_vinvl_folder_given_as_bert_is_refused(tmp_path, run):
    status, _, errors = run("--bert", VOCABULARY.parent, "--output", tmp_path / "out")
    assert (status, "no plain BERT; pass its folder as --vinvl" in errors) == (1, True)


def test_damaged_and_missing_weights_are_refused_in_one_line(tmp_path, run, folder, state):
    status, _, errors = run("--bert", folder, "--output", tmp_path / "out")
    assert (status, "there is no model.safetensors or pytorch_model.bin" in errors) == (1, True)
    file = folder / "model.safetensors"
    save_file({name: tensor.clone() for name, tensor in state.items()}, file)
    content = file.read_bytes()
    for damaged in (b"", content[:5], content[:1000], content[:-1], b"\xff" * 8 + content[8:], b"{}" * 50):
        file.write_bytes(damaged)
        status, _, errors = run("--bert", folder, "--output", tmp_path / "out")
        assert (status, errors.count("\n")) == (1, 1)
        assert "model.safetensors: damaged or no safetensors file" in errors


def test_a_checkpoint_goes_with_a_vinvl_folder_only(tmp_path, run, capsys):
    with pytest.raises(SystemExit):
        run("--bert", tmp_path, "--checkpoint", tmp_path / "c", "--output", tmp_path / "out")
    assert "--checkpoint goes with --vinvl" in capsys.readouterr().err
