"""Choices that no regime makes by itself, through training, a restart, validation and evaluation."""

import math

import numpy as np
import pytest

from aladin_jax.evaluation.report import evaluate
from aladin_jax.pretrained import newest_step, restore_host
from aladin_jax.training.loop import train
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE
from tests.golden_data import E2E

SMALL = LITTLE_TO_COMPUTE | {"batch_size": 10}
LEARNABLE = {
    "learned_loss_weights": True,
    "ranking_loss": "info_nce",
    "distillation_mode": "mse",
    "measure": "cosine",
    "pooling": "symm",
}


def saved(workdir):
    step = newest_step(workdir / "checkpoints")
    return restore_host(workdir / "checkpoints" / str(step) / "state")


def test_learned_losses_in_bfloat16_train_go_on_and_are_evaluated(small_run, scalars, tmp_path):
    settings = SMALL | LEARNABLE | {"model.dtype": "bfloat16", "model.dropout": 0.1, "pack_tokens": True}
    regime = "alignment_and_matching_triplet_distill"
    train(small_run(regime, num_steps=2, eval_every=2, **settings), tmp_path)
    first = saved(tmp_path)["params"]
    train(small_run(regime, num_steps=3, **settings), tmp_path)
    after = saved(tmp_path)["params"]
    assert {name: sorted(group) for name, group in after.items() if name.endswith("_loss")} == {
        "alignment_loss": ["log_scale", "log_variance"],
        "matching_loss": ["log_scale", "log_variance"],
        "distillation_loss": ["affine", "log_variance"],
    }
    for name, group in after.items():
        if name.endswith("_loss"):
            assert all(np.abs(group[leaf] - first[name][leaf]).max() > 0 for leaf in group), name
    losses = scalars(tmp_path)["train/loss"]
    assert sorted(losses) == [1, 2, 3]
    assert all(map(math.isfinite, losses.values()))
    report = evaluate(small_run(regime, **settings | {"eval.split": "minival"}), tmp_path)
    expected = scalars(tmp_path)["minival/matching/rsum"][2]
    assert report["minival"]["matching"]["rsum"] == pytest.approx(expected)


def test_the_demos_configuration_trains_random_weights_by_the_seed(small_run, scalars, tmp_path):
    backbone = {
        "vocab_size": 2090,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 24,
    }
    settings = SMALL | {f"model.backbone.{name}": value for name, value in backbone.items()}
    settings |= {"init_from": "", "model.vocabulary": str(E2E / "vinvl" / "vocab.txt"), "num_steps": 2}

    def first_losses(name, **changes):
        train(small_run("demo", **settings, **changes), tmp_path / name)
        return scalars(tmp_path / name)["train/loss"]

    losses = first_losses("one", eval_every=2)
    assert losses == first_losses("again")
    assert losses[1] != first_losses("other", seed=7)[1]
    assert losses[1] > 10  # all violations of ten pairs that are alike
    assert evaluate(small_run("demo", **settings), tmp_path / "one")["test"]["matching"]["rsum"] > 0
