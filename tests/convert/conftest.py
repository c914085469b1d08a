import argparse
import json

import pytest
import torch
from safetensors.torch import save_file

from convert import checkpoint

CONFIG = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 12,
    "num_attention_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "img_feature_dim": 7,
    "hidden_act": "gelu",
    "use_img_layernorm": 0,
}


@pytest.fixture
def run(capsys):
    """Runs `convert.checkpoint`, or another command's `main`; gives its status, output and errors."""

    def run(*arguments, main=checkpoint.main):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def config():
    """A VinVL config.json: 12 tiny layers, no LayerNorm of regions."""
    return CONFIG.copy()


@pytest.fixture
def tensors():
    """The backbone's tensors for `config`."""
    return draw_tensors(CONFIG)


@pytest.fixture
def draw():
    """Draws a backbone's tensors for any config."""
    return draw_tensors


def draw_tensors(config, seed=0):
    """A VinVL backbone's tensors, written down apart from the table that is tested."""
    d, f = config["hidden_size"], config["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], d),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], d),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], d),
        "embeddings.LayerNorm.weight": (d,),
        "embeddings.LayerNorm.bias": (d,),
        "img_embedding.weight": (d, config["img_feature_dim"]),
        "img_embedding.bias": (d,),
        "pooler.dense.weight": (d, d),
        "pooler.dense.bias": (d,),
    }
    if config["use_img_layernorm"]:
        shapes |= {"LayerNorm.weight": (d,), "LayerNorm.bias": (d,)}
    for n in range(config["num_hidden_layers"]):
        for name, out, into in [
            ("attention.self.query", d, d),
            ("attention.self.key", d, d),
            ("attention.self.value", d, d),
            ("attention.output.dense", d, d),
            ("intermediate.dense", f, d),
            ("output.dense", d, f),
        ]:
            shapes |= {f"encoder.layer.{n}.{name}.weight": (out, into), f"encoder.layer.{n}.{name}.bias": (out,)}
        for name in ("attention.output", "output"):
            shapes |= {f"encoder.layer.{n}.{name}.LayerNorm.{kind}": (d,) for kind in ("weight", "bias")}
    generator = torch.Generator().manual_seed(seed)
    return {f"bert.{name}": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_shards(folder, tensors, count, name="model.safetensors"):
    """Writes tensors as Hugging Face does those of a large model; gives the index."""
    stem, ending = name.split(".")
    save = save_file if ending == "safetensors" else torch.save
    shard_of = {key: f"{stem}-{n % count + 1:05}-of-{count:05}.{ending}" for n, key in enumerate(tensors)}
    for shard in set(shard_of.values()):
        save({key: tensor for key, tensor in tensors.items() if shard_of[key] == shard}, folder / shard)
    index = folder / f"{name}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": shard_of}))
    return index


@pytest.fixture
def vinvl(tmp_path):
    """Writes a VinVL folder."""

    def write(tensors, config=CONFIG, **training_args):
        folder = tmp_path / "vinvl"
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config))
        torch.save(tensors, folder / "pytorch_model.bin")
        torch.save(argparse.Namespace(**{"do_lower_case": True, **training_args}), folder / "training_args.bin")
        return folder

    return write
