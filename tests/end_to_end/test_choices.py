"""Choices that no regime makes by itself, through training, a restart, validation and evaluation."""

import dataclasses
import math

import numpy as np
import pytest

from aladin_jax.config import Config
from aladin_jax.evaluation.report import evaluate
from aladin_jax.training.loop import train
from aladin_jax.weights import newest_step, restore_host
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


class Reading:
    """A configuration that notes which of its fields are read."""

    def __init__(self, section, read, prefix=""):
        self._section, self._read, self._prefix = section, read, prefix

    def __getattr__(self, name):
        if name == "settings":
            return Config.settings.fget(self)
        value = getattr(self._section, name)
        if name == "to_dict":
            return value
        if dataclasses.is_dataclass(value):
            return Reading(value, self._read, f"{self._prefix}{name}.")
        self._read.add(f"{self._prefix}{name}")
        return value


def fields(section, prefix=""):
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        yield from fields(value, f"{field.name}.") if dataclasses.is_dataclass(value) else [f"{prefix}{field.name}"]


def test_the_demos_configuration_trains_random_weights_by_the_seed_and_every_field_is_read(
    small_run, scalars, tmp_path, unchecked
):
    backbone = {
        "vocab_size": 2090,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 24,
    }
    settings = SMALL | {f"model.backbone.{name}": value for name, value in backbone.items()}
    settings |= {"init_from": "", "model.vocabulary": str(E2E / "vinvl" / "vocab.txt")}
    settings |= {"batch_size": 25, "num_epochs": 1}  # two steps
    read = set()

    def first_losses(name, **changes):
        config = small_run("demo", **settings, **changes)
        train(Reading(config, read), tmp_path / name)
        return scalars(tmp_path / name)["train/loss"]

    losses = first_losses("one", eval_every=2)
    assert sorted(losses) == [1, 2]
    assert losses == first_losses("again")
    assert losses[1] != first_losses("other", seed=7)[1]
    assert losses[1] > 10  # all violations of pairs that are alike
    config = small_run("demo", **settings)
    assert evaluate(Reading(config, read), tmp_path / "one")["test"]["matching"]["rsum"] > 0
    # Asked only of a run that goes on, by way of its config.json, and where rankings are written.
    assert read | {"reinitialize_scheduler", "eval.ranking_length"} == set(fields(config))
