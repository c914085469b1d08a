import io
import json
import logging
import math

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from aladin_jax.evaluation.figure import save_recall_figure
from aladin_jax.evaluation.recall import retrieval_report
from aladin_jax.evaluation.table import print_reports, report_scalars, write_report
from aladin_jax.training.metrics import TrainMetrics
from aladin_jax.training.writers import create_profile, create_progress, create_writer, log_parameters


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


@pytest.fixture(scope="module")
def reports():
    image_of_caption = np.repeat(np.arange(20), 3)
    scores = np.random.default_rng(0).normal(size=(2, 20, 60)) + 2 * (np.arange(20)[:, None] == image_of_caption)
    heads = zip(("matching", "alignment"), scores, strict=True)
    return {"test": {head: retrieval_report(values, image_of_caption) for head, values in heads}}


def flat_report(recall):
    return {
        f"{direction}/{name}": recall
        for direction in ("i2t", "t2i")
        for name in ("R@1", "R@5", "R@10", "medr", "meanr")
    } | {"rsum": 6 * recall}


def step(loss, learning_rate=1e-5):
    return {"loss": jnp.float32(loss), "learning_rate": jnp.float32(learning_rate)}


def read_scalars(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {
        tag: [(event.step, float(make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        for tag in events.Tags()["tensors"]
    }


# --- training scalars


def test_training_scalars_are_averaged_over_the_steps_since_the_last_flush(clock):
    metrics = TrainMetrics(["loss", "learning_rate"], clock)
    for losses, mean in (((8.0, 4.0, 3.0), 5.0), ((2.0,), 2.0)):
        for loss in losses:
            metrics.update(step(loss), num_examples=32)
        clock.now += 1
        scalars = metrics.flush()
        assert scalars["train/loss"] == mean
        assert scalars["train/learning_rate"] == pytest.approx(1e-5)
        assert all(type(value) is float for value in scalars.values())


def test_the_rate_counts_pairs_of_smaller_batches_and_leaves_pauses_out(clock):
    metrics = TrainMetrics(["loss", "learning_rate"], clock)
    metrics.update(step(1.0), num_examples=32)
    clock.now += 3
    with metrics.paused():
        clock.now += 1000
    metrics.update(step(1.0), num_examples=8)
    clock.now += 2
    assert metrics.flush()["train/examples_per_second"] == pytest.approx(40 / 5)
    metrics.update(step(1.0), num_examples=10)
    clock.now += 1
    assert metrics.flush()["train/examples_per_second"] == pytest.approx(10)


def test_an_update_does_not_read_the_values_of_the_step():
    metrics = TrainMetrics(["loss"])

    @jax.jit
    def trace(loss):  # while it is traced, a value has no number yet: reading it would be an error
        metrics.update({"loss": loss}, num_examples=1)

    trace(jnp.float32(1.0))


def test_an_interval_without_steps_has_nothing_to_report(clock):
    assert TrainMetrics(["loss"], clock).flush() == {}


def test_a_loss_that_is_not_finite_is_not_averaged_away(clock):
    metrics = TrainMetrics(["loss", "learning_rate"], clock)
    metrics.update(step(1.0), num_examples=1)
    metrics.update(step(math.nan), num_examples=1)
    clock.now += 1
    assert math.isnan(metrics.flush()["train/loss"])


@pytest.mark.parametrize("values", [{"loss": 1.0}, {"loss": 1.0, "learning_rate": 1.0, "loss_matching": 1.0}])
def test_a_step_with_other_scalars_than_announced_is_an_error(values, unchecked):
    with pytest.raises(ValueError, match=r"step metrics: got .* expected \['learning_rate', 'loss'\]"):
        TrainMetrics(["loss", "learning_rate"]).update(values, num_examples=1)


# --- writers and periodic actions


def test_scalars_are_in_tensorboards_files_after_a_flush_and_in_the_log(tmp_path, log):
    writer = create_writer(tmp_path / "run")
    writer.write_scalars(10, {"train/loss": 0.5, "train/examples_per_second": 123.0})
    writer.write_scalars(20, {"train/loss": 0.25})
    writer.flush()
    assert read_scalars(tmp_path / "run") == {
        "train/loss": [(10, 0.5), (20, 0.25)],
        "train/examples_per_second": [(10, 123.0)],
    }
    writer.close()
    assert "[10] train/examples_per_second=123, train/loss=0.5" in log.text


def test_progress_shows_the_share_done_and_the_time_left(tmp_path, log):
    writer = create_writer(tmp_path)
    progress = create_progress(writer, num_steps=12, every_steps=5)
    for number in range(1, 13):
        progress(number)
    writer.close()
    notes = [record.message for record in log.records if "ETA: 0m" in record.message]
    assert [note.split(", ")[1] for note in notes] == ["41.7% (5/12)", "83.3% (10/12)", "100.0% (12/12)"]
    assert [number for number, _ in read_scalars(tmp_path)["steps_per_sec"]] == [5, 10, 12]


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


# --- the report of an evaluation


def test_the_table_shows_every_number_of_both_heads_within_80_columns(reports):
    reports = {"test [5 folds]": {"matching": flat_report(100.0), "alignment": reports["test"]["alignment"]}}
    screen = io.StringIO()
    print_reports(reports, Console(file=screen, width=80))
    lines = [line.split() for line in screen.getvalue().splitlines() if line.strip()]
    assert lines[0] == ["test", "[5", "folds]"]
    assert lines[1] == ["head", "direction", "R@1", "R@5", "R@10", "medr", "meanr", "rsum"]
    assert ["matching", "image", "to", "text", *["100.0"] * 5, "600.0"] in lines
    alignment = [f"{value:.1f}" for value in reports["test [5 folds]"]["alignment"].values()]
    assert ["alignment", "image", "to", "text", *alignment[:5], alignment[-1]] in lines
    assert ["text", "to", "image", *alignment[5:10]] in lines


def test_the_report_file_holds_the_reports(tmp_path, reports):
    write_report(reports, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == reports


def test_a_report_that_cannot_be_written_leaves_the_earlier_file_alone(tmp_path, reports):
    write_report(reports, tmp_path / "report.json")
    with pytest.raises(ValueError, match="Out of range float values"):
        write_report({"test": {"matching": {"rsum": math.nan}}}, tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == reports
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_file_that_cannot_take_its_place_leaves_nothing_half_written(tmp_path, reports):
    (tmp_path / "report.json" / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_report(reports, tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_tensorboards_names_are_report_head_and_metric(reports):
    scalars = report_scalars(reports)
    assert scalars["test/matching/i2t/R@1"] == reports["test"]["matching"]["i2t/R@1"]
    assert scalars["test/alignment/rsum"] == reports["test"]["alignment"]["rsum"]
    assert len(scalars) == 2 * 11


def test_bars_are_as_long_as_the_recalls(tmp_path):
    path = tmp_path / "recall.png"
    save_recall_figure({"test": {"matching": flat_report(80.0), "alignment": flat_report(40.0)}}, path)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    matching, alignment = ((pixels == colour).all(-1).sum() for colour in ([0, 114, 178], [213, 94, 0]))
    assert matching / alignment == pytest.approx(2, rel=0.05)


def test_a_figure_grows_with_its_reports_and_leaves_pyplot_alone(tmp_path, reports):
    backend = matplotlib.get_backend(auto_select=False)
    save_recall_figure(reports, tmp_path / "one.png")
    save_recall_figure(dict.fromkeys(("test_1k", "test", "folds"), reports["test"]), tmp_path / "three.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "three.png") as three:
        assert one.width == three.width
        assert three.height > 2 * one.height
    assert pyplot.get_fignums() == []
    assert matplotlib.get_backend(auto_select=False) == backend
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "three.png"]


def test_a_figure_of_no_reports_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no reports"):
        save_recall_figure({}, tmp_path / "recall.png")
