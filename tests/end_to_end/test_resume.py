"""A run that goes on: misconfigured, with another schedule, longer, or diverging; test_checkpoints.py stops some."""

import jax
import numpy as np
import pytest

from aladin_jax.training.loop import train
from aladin_jax.weights import newest_step, restore_host
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE


def state_of(workdir, step):
    """Everything that a checkpoint holds, as NumPy arrays."""
    return restore_host(workdir / "checkpoints" / str(step) / "state")


@pytest.fixture(scope="module")
def started(small_run, tmp_path_factory):
    """A workdir with a checkpoint at step 2."""
    workdir = tmp_path_factory.mktemp("started")
    train(small_run("alignment_triplet", num_steps=2), workdir)
    return workdir


def test_another_configuration_is_refused_with_the_differences(small_run, started, capfd):
    config = small_run("alignment_triplet", num_steps=4, learning_rate=3e-4, **{"data.max_regions": 20})
    with pytest.raises(ValueError, match="started with another configuration") as refusal:
        train(config, started)
    assert "data.max_regions was 34, is 20" in str(refusal.value)
    assert "learning_rate was 0.0001, is 0.0003" in str(refusal.value)
    assert newest_step(started / "checkpoints") == 2


def test_a_schedule_starts_anew_where_a_run_goes_on_and_only_once(small_run, scalars, tmp_path, caplog):
    changed = {"learning_rate": 1e-5, "lr_step_epochs": 1, "warmup_steps": 2}
    settings = LITTLE_TO_COMPUTE | {"lr_step_epochs": 0, "checkpoint_every": 2}
    train(small_run("alignment_triplet", num_steps=3, **settings), tmp_path)
    with pytest.raises(ValueError, match="or let the schedule start anew with --config"):
        train(small_run("alignment_triplet", num_steps=5, **settings | changed), tmp_path)
    anew = settings | changed | {"reinitialize_scheduler": True}
    with pytest.raises(ValueError, match=r"margin was 0\.2, is 0\.3"):  # of the schedule alone
        train(small_run("alignment_triplet", num_steps=5, **anew | {"margin": 0.3}), tmp_path)
    with caplog.at_level("INFO", "absl"):
        train(small_run("alignment_triplet", num_steps=5, **anew), tmp_path)
    assert (
        "The schedule starts anew at step 3; learning_rate was 0.0001, is 1e-05; lr_step_epochs was 0, " in caplog.text
    )
    train(small_run("alignment_triplet", num_steps=11, **anew), tmp_path)  # as after a kill: the same schedule
    # Two steps of warm-up; an epoch of seven steps later the rate drops, though the run's own epochs end elsewhere.
    expected = [1e-4] * 3 + [5e-6] + [1e-5] * 6 + [1e-6]
    found = scalars(tmp_path)["train/learning_rate"]
    np.testing.assert_allclose([found[step] for step in range(1, 12)], expected, rtol=1e-6)
    assert int(state_of(tmp_path, 11)["opt_state"]["backbone"]["count"]) == 11  # Adam's state went on

    # Without the flag the schedule goes on too; with it once more, it starts anew once more.
    train(small_run("alignment_triplet", num_steps=12, **settings | changed), tmp_path)
    train(small_run("alignment_triplet", num_steps=13, **anew), tmp_path)
    found = scalars(tmp_path)["train/learning_rate"]
    np.testing.assert_allclose([found[12], found[13]], [1e-6, 5e-6], rtol=1e-6)


def test_a_rate_that_falls_to_the_runs_end_says_how_long_the_run_is(small_run, scalars, tmp_path):
    settings = LITTLE_TO_COMPUTE | {"lr_cooldown": 0.5, "checkpoint_every": 2}
    train(small_run("alignment_triplet", num_steps=4, **settings), tmp_path)
    rates = scalars(tmp_path)["train/learning_rate"]
    np.testing.assert_allclose([rates[step] for step in range(1, 5)], [1e-4, 1e-4, 1e-4, 0.5e-4], rtol=1e-5)
    with pytest.raises(ValueError, match=r"num_steps was 4, is 6.*let the schedule start anew"):
        train(small_run("alignment_triplet", num_steps=6, **settings), tmp_path)
    train(small_run("alignment_triplet", num_steps=6, reinitialize_scheduler=True, **settings), tmp_path)
    rates = scalars(tmp_path)["train/learning_rate"]
    np.testing.assert_allclose([rates[5], rates[6]], [1e-4, 1e-4], rtol=1e-5)


def test_more_steps_are_no_other_configuration(small_run, started):
    train(small_run("alignment_triplet", num_steps=3, log_every=2), started)
    assert newest_step(started / "checkpoints") == 3


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(small_run, tmp_path):
    config = small_run("alignment_triplet", num_steps=6, learning_rate=1e30, checkpoint_every=1, log_every=6)
    with pytest.raises(FloatingPointError, match=r"step 2: (loss|grad_norm) is nan; checkpoint 1 is kept"):
        train(config, tmp_path)
    assert newest_step(tmp_path / "checkpoints") == 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state_of(tmp_path, 1)["params"]))
