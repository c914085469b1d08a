"""What training tells of itself: scalars, rates, a profile, a table of parameters."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from aladin_jax.training.metrics import TrainMetrics
from aladin_jax.training.writers import create_profile, create_writer, log_parameters, log_scalars


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="absl")
    return caplog


def values(loss, **others):
    return {name: jnp.float32(x) for name, x in {"loss": loss, "grad_norm": 1.0, **others}.items()}


def read_scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


def test_training_scalars_are_averaged_over_the_steps_since_the_last_flush(clock):
    metrics = TrainMetrics(clock)
    for losses, mean in (((8.0, 4.0, 3.0), 5.0), ((2.0,), 2.0)):
        for step, loss in enumerate(losses):
            metrics.add(step, values(loss, learning_rate=1e-5), num_pairs=32)
        clock.now += 1
        scalars = metrics.flush()
        assert scalars["train/loss"] == mean
        assert scalars["train/learning_rate"] == pytest.approx(1e-5)
        assert all(type(value) is float for value in scalars.values())


def test_a_loss_that_joins_in_is_averaged_over_its_own_steps(clock):
    metrics = TrainMetrics(clock)
    metrics.add(1, values(1.0), num_pairs=1)
    metrics.add(2, values(3.0, loss_distillation=2.0), num_pairs=1)
    clock.now += 1
    scalars = metrics.flush()
    assert (scalars["train/loss"], scalars["train/loss_distillation"]) == (2.0, 2.0)


def test_the_rate_counts_pairs_of_smaller_batches_and_leaves_pauses_out(clock):
    metrics = TrainMetrics(clock)
    metrics.add(1, values(1.0), num_pairs=32)
    clock.now += 3
    with metrics.paused():
        clock.now += 1000
    metrics.add(2, values(1.0), num_pairs=8)
    clock.now += 2
    assert metrics.flush()["train/examples_per_second"] == pytest.approx(40 / 5)
    metrics.add(3, values(1.0), num_pairs=10)
    clock.now += 1
    assert metrics.flush()["train/examples_per_second"] == pytest.approx(10)


def test_adding_a_step_does_not_read_its_values():
    metrics = TrainMetrics()

    @jax.jit
    def trace(loss):  # while it is traced, a value has no number yet: reading it would be an error
        metrics.add(1, {"loss": loss}, num_pairs=1)

    trace(jnp.float32(1.0))


def test_an_interval_without_steps_has_nothing_to_report(clock):
    assert TrainMetrics(clock).flush() == {}


@pytest.mark.parametrize("bad", [{"loss": math.nan}, {"grad_norm": math.inf}], ids=["loss", "grad_norm"])
def test_the_first_number_that_is_not_finite_is_named_with_its_step(bad):
    metrics = TrainMetrics()
    metrics.add(6, values(1.0), num_pairs=1)
    metrics.check(None)
    metrics.add(7, values(**{"loss": 1.0, **bad}), num_pairs=1)
    metrics.add(8, values(math.nan), num_pairs=1)
    [(name, value)] = bad.items()
    with pytest.raises(FloatingPointError, match=rf"^step 7: {name} is {value}; checkpoint 5 is kept; try a lower"):
        metrics.flush(5)


def test_scalars_are_in_tensorboards_files_after_a_flush(tmp_path):
    writer = create_writer(tmp_path / "run")
    writer.write_scalars(10, {"train/loss": 0.5, "train/examples_per_second": 123.0})
    writer.write_scalars(20, {"train/loss": 0.25})
    writer.flush()
    assert read_scalars(tmp_path / "run") == {
        "train/loss": [(10, 0.5), (20, 0.25)],
        "train/examples_per_second": [(10, 123.0)],
    }
    writer.close()


def test_a_line_of_the_log_shows_the_scalars_the_share_done_and_the_time_left(log):
    log_scalars(5, 12, {"train/loss": 0.5, "train/examples_per_second": 123.0}, 67.2)
    assert "[5] train/examples_per_second=123, train/loss=0.5; 41.7% of 12 steps, 0:01:07 left" in log.text


def test_a_profile_is_recorded_when_its_steps_have_passed(tmp_path):
    profile = create_profile(tmp_path, first_step=2, num_profile_steps=2, num_steps=4)
    for number in range(1, 4):
        jnp.ones(3).block_until_ready()
        profile(number)
    assert not list(tmp_path.rglob("*.xplane.pb"))
    profile(4)
    assert len(list(tmp_path.rglob("*.xplane.pb"))) == 1


def test_a_profile_that_the_run_would_cut_off_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="a profile of 5 steps after step 10 does not end within 14 steps"):
        create_profile(tmp_path, first_step=10, num_profile_steps=5, num_steps=14)


def test_the_log_lists_every_parameter_and_their_total(log):
    log_parameters({"backbone": {"layers": {"kernel": jnp.zeros((12, 2, 3))}}, "scale": np.zeros(4, np.float32)})
    assert "| backbone/layers/kernel | (12, 2, 3) | float32 | 72 " in log.text
    assert "Total: 76 -- 304 bytes" in log.text
