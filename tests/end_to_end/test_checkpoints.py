"""Checkpoints at bad moments: stopped while one is written, validated again before one is, configured anew."""

import contextlib
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from aladin_jax.evaluation.report import evaluate
from aladin_jax.model_folder import flatten
from aladin_jax.training.checkpoint import RunCheckpoints
from aladin_jax.training.loop import train
from aladin_jax.weights import BEST, LATEST, newest_step, restore_host
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE, command
from tests.processes import stop_at

REGIME = "alignment_and_matching_distill"

# Five batches an epoch, all of one size; the second epoch has another loss. Little to compute: saving is what counts.
SMALL = LITTLE_TO_COMPUTE | {
    "batch_size": 10,
    "activate_distillation_after": 1,
    "data.shuffle": True,
    "model.dropout": 0.1,
    "model.backbone_dropout": 0.1,
}


@pytest.fixture(scope="module")
def small(small_run):
    return lambda **changes: small_run(REGIME, **SMALL | changes)


def saved(workdir, kind=LATEST):
    """The newest checkpoint of a kind: its step, and all its arrays by path."""
    step = newest_step(workdir / kind)
    item = "state" if kind == LATEST else "default"
    tree = restore_host(workdir / kind / str(step) / item)
    return step, {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def steps_of(folder):
    return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()) if folder.is_dir() else []


def rsums(found):
    """What decides which validation was the best, by step."""
    return {step: rsum + found["minival/alignment/rsum"][step] for step, rsum in found["minival/matching/rsum"].items()}


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    """A workdir of eight steps, saved after each of them, and validated after each."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    train(small(num_steps=8, checkpoint_every=1, eval_every=1), workdir)
    return workdir


def test_what_is_saved_in_the_background_is_the_state_of_its_step(small, uninterrupted, tmp_path):
    # Step 8 was computed, and the parameters of step 7 given up to it, while those were being written.
    train(small(num_steps=7, checkpoint_every=100), tmp_path)
    _, expected = saved(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "7")
    shutil.copytree(uninterrupted / "checkpoints" / "7", tmp_path / "checkpoints" / "7")
    step, found = saved(tmp_path)
    assert step == found["step"] == 7
    assert_same(found, expected)


def test_the_best_of_validations_in_quick_succession_is_kept(uninterrupted, scalars):
    sums = rsums(scalars(uninterrupted))
    assert sorted(sums) == list(range(1, 9))
    assert steps_of(uninterrupted / "best") == [max(sums, key=lambda step: (sums[step], -step))]


# The signal, what is about to get its name as it comes, and how often the run saves and validates. One follows on the
# other: nothing is saved yet; the best one is, and steps go on meanwhile; some of the next one is written.
MOMENTS = [
    (signal.SIGKILL, r"checkpoints/8\.[^/]*$", {"checkpoint_every": 100, "eval_every": 0}),
    (signal.SIGTERM, r"best/3\.[^/]*$", {"checkpoint_every": 100, "eval_every": 3}),
    (signal.SIGKILL, r"checkpoints/\d\.[^/]*/state", {"checkpoint_every": 3, "eval_every": 3}),
]


def test_a_run_stopped_again_and_again_amid_saving_goes_on_to_the_bits_of_an_uninterrupted_one(
    small, uninterrupted, scalars, tmp_path
):
    workdir, log = tmp_path / "run", tmp_path / "log"
    steps = []
    for number, pattern, every in MOMENTS:
        config = small(num_steps=8, **every)
        stop_at("os.rename", pattern, *command(REGIME, workdir, config), number=number, log=log)
        if number == signal.SIGTERM:
            [stopped] = steps = steps_of(workdir / "checkpoints")
            assert 3 < stopped < 8
            assert f"Saved step {stopped};" in log.read_text()
        assert steps_of(workdir / "checkpoints") == steps
    assert f"Going on from step {stopped}" in log.read_text()
    train(config, workdir)
    assert saved(workdir)[0] == 8
    assert_same(saved(workdir)[1], saved(uninterrupted)[1])
    assert not [entry for entry in os.listdir(workdir / "checkpoints") if not entry.isdecimal()]
    sums = rsums(scalars(uninterrupted))
    assert newest_step(workdir / "best") == max((3, 6, 8), key=lambda step: (sums[step], -step))


def test_a_first_start_that_failed_over_a_wrong_path_can_be_put_right(small, tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        train(small(num_steps=1, **{"data.dir": str(tmp_path / "nowhere")}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("events.*"))  # TensorBoard would show a run that never was
    train(small(num_steps=1), tmp_path / "run")
    with pytest.raises(ValueError, match=r"data\.dir was .*, is '.*nowhere'"):
        train(small(num_steps=2, **{"data.dir": str(tmp_path / "nowhere")}), tmp_path / "run")


def test_a_run_that_is_done_stays_as_it_is(small, uninterrupted):
    kept = lambda: [*(uninterrupted / "checkpoints").rglob("*"), *uninterrupted.glob("events.*")]  # noqa: E731
    before = {path: path.stat().st_mtime_ns for path in kept()}
    train(small(num_steps=8, checkpoint_every=1, eval_every=1), uninterrupted)
    assert {path: path.stat().st_mtime_ns for path in kept()} == before


@pytest.fixture(scope="module")
def trained_on(small, uninterrupted, tmp_path_factory):
    """The same after two more steps without a validation: the latest checkpoint is not the best."""
    workdir = tmp_path_factory.mktemp("trained_on") / "run"
    shutil.copytree(uninterrupted, workdir)
    train(small(num_steps=10), workdir)
    assert newest_step(workdir / "checkpoints") == 10 > newest_step(workdir / "best")
    return workdir


def test_evaluation_takes_the_best_checkpoint_and_not_the_latest(small, trained_on, scalars):
    found, [best] = scalars(trained_on), steps_of(trained_on / "best")
    report = evaluate(small(init_from="", **{"eval.split": "minival"}), trained_on)
    for head, metrics in report["minival"].items():
        for metric, value in metrics.items():
            if metric.endswith(("/low", "/high")):  # of the report alone
                continue
            assert found[f"minival/{head}/{metric}"][best] == pytest.approx(value), (head, metric)
    shutil.rmtree(trained_on / "best")
    assert evaluate(small(init_from="", **{"eval.split": "minival"}), trained_on) != report


def test_a_run_starts_from_the_best_checkpoint_of_another_workdir(small_run, uninterrupted, tmp_path):
    changes = {"init_from": str(uninterrupted), "num_steps": 1, "learning_rate": 0.0, "activate_distillation_after": 0}
    train(small_run("matching_distill_finetune", **SMALL | changes), tmp_path)
    _, started = saved(tmp_path)
    _, best = saved(uninterrupted, BEST)
    assert_same({name.removeprefix("params/"): a for name, a in started.items() if name.startswith("params/")}, best)
    assert (tmp_path / "vocab.txt").read_bytes() == (uninterrupted / "vocab.txt").read_bytes()


def test_evaluation_without_anything_trained_or_to_start_from_says_so(small, tmp_path):
    with pytest.raises(ValueError, match="nothing trained there; train first, or set init_from"):
        evaluate(small(init_from=""), tmp_path)


def test_the_random_key_and_the_optimizer_are_saved(uninterrupted):
    _, state = saved(uninterrupted)
    groups = {name.split("/")[0] for name in state}
    assert groups == {"step", "params", "opt_state", "rng"}
    np.testing.assert_array_equal(state["rng"], jax.random.key_data(jax.random.key(88)))


def test_a_step_that_is_validated_again_is_not_saved_again(tmp_path):
    params = {"backbone": {"w": np.zeros(2, np.float32)}}
    with contextlib.closing(RunCheckpoints(tmp_path)) as kept:
        assert kept.save_if_best(3, params, rsum=1.0)
        assert not kept.save_if_best(3, params, rsum=1.0)
        assert not kept.save_if_best(3, params, rsum=2.0)
    assert newest_step(tmp_path / BEST) == 3
