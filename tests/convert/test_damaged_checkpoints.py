"""Damages to each file of a checkpoint: what is converted is what stands there, and all else is refused in one line."""

import argparse
import dataclasses
import json
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aladin_jax.model_folder import load_model_folder, read_provenance
from aladin_jax.models.backbone import BackboneConfig
from convert.original import original_tensors
from convert.sources import plain
from tests.convert.conftest import draw_tensors, write_shards
from tests.corruption import Outcomes, damages

CASES = 20
CONFIG = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 8,
    "max_position_embeddings": 6,
    "type_vocab_size": 2,
    "img_feature_dim": 7,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "use_img_layernorm": 0,
}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{n}" for n in range(25))]
ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
WARNS = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # of what the comparison loads


@pytest.fixture(autouse=True)
def as_for_users(unchecked):
    """Without type checks, as in a user's program: a damaged file must not end in one either."""


@pytest.fixture
def vinvl(tmp_path):
    """A VinVL folder of one layer."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS))
    torch.save(argparse.Namespace(do_lower_case=True, drop_out=0.1), folder / "training_args.bin")
    torch.save(draw_tensors(CONFIG), folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def aladin(vinvl):
    """An ALADIN checkpoint beside it."""
    layer = torch.nn.TransformerEncoderLayer(d_model=8, nhead=4, dim_feedforward=8)
    model = {f"img_txt_enc.oscar_model.{name}": tensor for name, tensor in draw_tensors(CONFIG, seed=1).items()}
    model |= {f"img_txt_enc.final_projection_net.layers.0.{name}": t for name, t in layer.state_dict().items()}
    path = vinvl / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "model": model, "config": {"model": {"tern-layers": 1, "dropout": 0.1}}}, path)
    return path


@pytest.fixture
def bert(vinvl):
    """A plain BERT folder."""
    values = {name: value for name, value in CONFIG.items() if "img" not in name}
    (vinvl / "config.json").write_text(json.dumps({"model_type": "bert", **values}))
    for name in ("pytorch_model.bin", "training_args.bin"):
        (vinvl / name).unlink()
    return vinvl


@pytest.fixture
def convert_damaged(tmp_path, run):
    """Converts with every damage to a file; `check(params' tensors, configuration, folder)` looks at what came out."""

    def convert_damaged(path, arguments, check):
        before = sorted(tmp_path.rglob("*"))
        outcomes = Outcomes()

        def convert():
            status, _, errors = run(*arguments, "--output", tmp_path / "out")
            if status:
                assert status == 1
                assert sorted(tmp_path.rglob("*")) == before
                assert errors.startswith("error: ")
                raise ValueError(errors.removesuffix("\n"))
            params, config, vocabulary = load_model_folder(tmp_path / "out")
            assert vocabulary.read_bytes() == (path.parent / "vocab.txt").read_bytes()
            found = {name.removeprefix("img_txt_enc."): t for name, t in original_tensors(params, config).items()}
            check(found, config, tmp_path / "out")
            shutil.rmtree(tmp_path / "out")

        whole = path.read_bytes()
        convert()
        for what, content in damages(whole, CASES, seed=zlib.crc32(path.name.encode()) + len(whole)):
            path.write_bytes(content)
            with outcomes.sort(what, "converted as it stands", tmp_path):
                convert()
        outcomes.check(CASES)

    return convert_damaged


def check_tensors(found, expected):
    """All tensors of the model, bit for bit."""
    for name, tensor in found.items():
        name = name.removeprefix("oscar_model.")
        if name in expected:
            assert tensor.numpy().tobytes() == expected[name].float().numpy().tobytes(), name
    used = {name for name in expected if "pooler" not in name}
    assert used <= {name.removeprefix("oscar_model.") for name in found}


@ZIP_AND_LEGACY
@WARNS
def test_a_damaged_pytorch_model(vinvl, convert_damaged, zipped):
    path = vinvl / "pytorch_model.bin"
    torch.save(torch.load(path), path, _use_new_zipfile_serialization=zipped)

    def check(found, config, folder):
        check_tensors(found, torch.load(path, map_location="cpu", weights_only=True))

    convert_damaged(path, ("--vinvl", vinvl), check)


@ZIP_AND_LEGACY
@WARNS
def test_a_damaged_aladin_checkpoint(vinvl, aladin, convert_damaged, zipped):
    torch.save(torch.load(aladin), aladin, _use_new_zipfile_serialization=zipped)

    def check(found, config, folder):
        content = torch.load(aladin, map_location="cpu", weights_only=True)
        prefix = "img_txt_enc."
        [entry] = [n for n, v in content.items() if isinstance(v, dict) and any("word_embeddings" in key for key in v)]
        expected = {n.removeprefix(prefix).removeprefix("oscar_model."): t for n, t in content[entry].items()}
        check_tensors(found, expected)
        head = content.get("config", {}).get("model", {})
        assert config.matching_head.dropout == head.get("dropout", 0.1)
        told = read_provenance(folder)["checkpoint"]
        assert told == {n: v for n, v in content.items() if n != entry}

    convert_damaged(aladin, ("--vinvl", vinvl, "--checkpoint", aladin), check)


def check_config(path, config, **defaults):
    """All fields, as the file or else the defaults say."""
    defaults = dataclasses.asdict(BackboneConfig()) | defaults
    values = {**defaults, **json.loads(path.read_text())}
    assert dataclasses.asdict(config.backbone) == {name: values[name] for name in defaults}


def test_a_damaged_configuration(vinvl, aladin, convert_damaged):
    path = vinvl / "config.json"
    expected = torch.load(aladin)["model"]

    def check(found, config, folder):
        check_config(path, config, use_img_layernorm=0)
        assert all(torch.equal(tensor, expected[f"img_txt_enc.{name}"]) for name, tensor in found.items())

    convert_damaged(path, ("--vinvl", vinvl, "--checkpoint", aladin), check)


def test_a_damaged_vocabulary(vinvl, aladin, convert_damaged):
    path = vinvl / "vocab.txt"

    def check(found, config, folder):
        words = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
        assert len(set(words)) == len(words)
        assert 0 <= config.backbone.vocab_size - len(words) <= 7  # the last rows of a word embedding may be padding

    convert_damaged(path, ("--vinvl", vinvl, "--checkpoint", aladin), check)


@ZIP_AND_LEGACY
@WARNS
def test_damaged_training_arguments(vinvl, aladin, convert_damaged, zipped):
    path = vinvl / "training_args.bin"
    torch.save(argparse.Namespace(do_lower_case=True, drop_out=0.1), path, _use_new_zipfile_serialization=zipped)

    def check(found, config, folder):
        with torch.serialization.safe_globals([argparse.Namespace]):
            arguments = torch.load(path, map_location="cpu", weights_only=True)
        assert read_provenance(folder)["training_args"] == plain(arguments, "")
        assert arguments.do_lower_case or not hasattr(arguments, "do_lower_case")

    convert_damaged(path, ("--vinvl", vinvl, "--checkpoint", aladin), check)


def read_safetensors(path):
    """Tensors by name, as the bytes say."""
    content = path.read_bytes()
    [length] = struct.unpack("<Q", content[:8])
    tensors = {}
    for name, about in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            dtype = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}[about["dtype"]]
            start, end = (8 + length + offset for offset in about["data_offsets"])
            tensors[name] = torch.from_numpy(np.frombuffer(content[start:end], dtype).reshape(about["shape"]).copy())
    return tensors


def test_damaged_safetensors(bert, convert_damaged):
    path = bert / "model.safetensors"
    save_file({name: tensor for name, tensor in draw_tensors(CONFIG).items() if "img" not in name}, path)
    convert_damaged(path, ("--bert", bert), lambda found, config, folder: check_tensors(found, read_safetensors(path)))


@WARNS
def test_a_damaged_bin_of_a_plain_bert(bert, convert_damaged):
    path = bert / "pytorch_model.bin"
    tensors = {name.removeprefix("bert."): t for name, t in draw_tensors(CONFIG).items() if "img" not in name}
    torch.save(tensors, path)

    def check(found, config, folder):
        read = torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(found, {f"bert.{name}": tensor for name, tensor in read.items()})

    convert_damaged(path, ("--bert", bert), check)


def test_a_damaged_configuration_of_a_plain_bert(bert, convert_damaged):
    save_file({n: t for n, t in draw_tensors(CONFIG).items() if "img" not in n}, bert / "model.safetensors")
    path = bert / "config.json"
    convert_damaged(path, ("--bert", bert), lambda found, config, folder: check_config(path, config))


def test_a_damaged_index_of_shards(bert, convert_damaged):
    tensors = {name: tensor for name, tensor in draw_tensors(CONFIG).items() if "img" not in name}
    path = write_shards(bert, tensors, 2)

    def check(found, config, folder):
        assert json.loads(path.read_text())["weight_map"].keys() == tensors.keys()
        check_tensors(found, tensors)

    convert_damaged(path, ("--bert", bert), check)
