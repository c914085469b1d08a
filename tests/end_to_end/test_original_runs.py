"""A checkpoint as the original's train.py saves it: evaluated, gone on with, and started from."""

import json

import numpy as np
import pytest

from aladin_jax.evaluation.report import evaluate
from aladin_jax.model_folder import load_run_state
from aladin_jax.training import loop
from aladin_jax.weights import read_weights
from convert import checkpoint, export
from convert.original import original_tensors
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE
from tests.golden_data import E2E

REGIME = "alignment_and_matching_distill"
EXPECTED = json.loads((E2E / "as_saved.json").read_text())
STEPS_PER_EPOCH = 7


@pytest.fixture(scope="module")
def as_saved(tmp_path_factory):
    """The checkpoint converted."""
    folder = tmp_path_factory.mktemp("as_saved") / "weights"
    arguments = ["--vinvl", E2E / "vinvl", "--checkpoint", E2E / "checkpoint_as_saved.pth.tar", "--output", folder]
    assert checkpoint.main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture
def train(small_run, scalars, tmp_path):
    """Trains four steps; gives the scalars by tag and step, and the weights."""

    def train(first_step, **fields):
        workdir = tmp_path / "run"
        settings = {"init_from": "", "learning_rate": 1e-5, "num_steps": first_step + 4, "lr_step_epochs": 15}
        loop.train(small_run(REGIME, **settings | fields), workdir)
        params, model_config, *_ = read_weights(workdir)
        return scalars(workdir), original_tensors(params, model_config)

    return train


def check(found, tensors, name, first_step, differences):
    expected = EXPECTED[name]
    steps = range(first_step + 1, first_step + 5)
    assert sorted(found["train/loss"]) == list(steps)
    losses = [found["train/loss"][step] for step in steps]
    differences.check("as saved: first loss", losses[0], expected["losses"][0], rtol=1e-4)
    differences.check("as saved: losses of four steps", losses, expected["losses"], rtol=2e-3)
    norms = [found["train/grad_norm"][step] for step in steps]
    differences.check("as saved: gradient norms", norms, expected["grad_norms"], rtol=1e-3)
    for tensor, values in expected["weights_after"].items():
        after = tensors[tensor].flatten()[: len(values)].numpy()
        differences.check("as saved: weights afterwards", after, values, atol=1e-6)


def test_a_run_of_the_original_is_resumed(train, as_saved, differences, caplog):
    with caplog.at_level("INFO", "absl"):
        check(*train(STEPS_PER_EPOCH, resume_from=str(as_saved)), "resume", STEPS_PER_EPOCH, differences)
    assert f"Going on from {as_saved}: epoch 1, step 7" in caplog.text


def test_a_run_starts_from_the_originals_weights_alone(train, as_saved, differences):
    check(*train(0, init_from=str(as_saved)), "load-teacher-model", 0, differences)


def test_the_two_differ(as_saved):
    """Otherwise the two tests above could not tell Adam's state from none."""
    first, second = EXPECTED["resume"]["losses"], EXPECTED["load-teacher-model"]["losses"]
    assert min(abs(a / b - 1) for a, b in zip(first[1:], second[1:], strict=True)) > 2e-3
    assert {group: int(of_group["count"]) for group, of_group in load_run_state(as_saved).adam.items()} == {
        "backbone": 7,
        "matching_head": 7,
    }


def test_a_resumed_runs_schedule_is_the_checkpoints_or_starts_anew(small_run, as_saved, scalars, tmp_path):
    settings = {"init_from": "", "resume_from": str(as_saved), "lr_step_epochs": 1, **LITTLE_TO_COMPUTE}
    with pytest.raises(ValueError, match=r"learning_rate was 1e-05, is 0\.0001; lr_step_epochs was 15, is 1"):
        loop.train(small_run(REGIME, num_steps=8, **settings), tmp_path / "run")
    settings["reinitialize_scheduler"] = True
    loop.train(small_run(REGIME, num_steps=8, **settings), tmp_path / "run")
    loop.train(small_run(REGIME, num_steps=9, **settings), tmp_path / "run")  # goes on by its own checkpoint
    settings["learning_rate"] = 1e-5
    loop.train(small_run(REGIME, num_steps=10, **settings), tmp_path / "run")  # starts anew again
    rates = scalars(tmp_path / "run")["train/learning_rate"]
    np.testing.assert_allclose([rates[8], rates[9], rates[10]], [1e-4, 1e-4, 1e-5], rtol=1e-6)


def test_what_cannot_be_resumed_is_said_in_one_line(small_run, as_saved, golden_inputs, tmp_path):
    weights_only = golden_inputs["init_from"]
    for fields, message in (
        ({"init_from": "", "resume_from": weights_only}, "holds no optimizer's state to resume from"),
        ({"resume_from": str(as_saved)}, "init_from and resume_from are both set"),
        (
            {"init_from": "", "resume_from": str(as_saved), "num_steps": 7},
            "1 epochs are done, which are 7 steps here; num_epochs and num_steps count from the run's beginning",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            loop.train(
                small_run(REGIME, **{"learning_rate": 1e-5, "num_steps": 9, "lr_step_epochs": 15, **fields}),
                tmp_path / "run",
            )


@pytest.mark.parametrize("kind", ["converted", "exported as .pth.tar", "exported as safetensors"])
def test_evaluation_gives_what_the_originals_test_py_gives(kind, small_run, as_saved, differences, tmp_path):
    weights = as_saved
    if kind != "converted":
        form = "pytorch" if kind.endswith("tar") else "safetensors"
        exported, weights = tmp_path / "exported", tmp_path / "again"
        assert export.main(["--workdir", str(as_saved), "--output", str(exported), "--format", form]) == 0
        source = ["--vinvl", str(E2E / "vinvl")] if form == "pytorch" else []
        assert checkpoint.main([*source, "--checkpoint", str(exported), "--output", str(weights)]) == 0
    found = evaluate(small_run(REGIME, init_from=str(weights)), tmp_path / "run")["test"]
    for head, expected in EXPECTED["test"].items():
        for metric, value in expected.items():
            tied = metric.endswith("meanr")  # hangs on how equal scores are ordered
            group, tolerance = ("as saved: mean ranks", 0.05) if tied else ("as saved: recalls", 1e-9)
            differences.check(group, found[head][metric], value, atol=tolerance)
