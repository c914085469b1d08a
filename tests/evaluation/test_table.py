import io
import json
import math

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image
from rich.console import Console

from aladin_jax.evaluation.figure import save_recall_figure
from aladin_jax.evaluation.recall import retrieval_report
from aladin_jax.evaluation.table import print_reports, report_scalars
from aladin_jax.files import write_json


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
    write_json(tmp_path / "report.json", reports)
    assert json.loads((tmp_path / "report.json").read_text()) == reports


def test_a_report_that_cannot_be_written_leaves_the_earlier_file_alone(tmp_path, reports):
    write_json(tmp_path / "report.json", reports)
    with pytest.raises(ValueError, match="Out of range float values"):
        write_json(tmp_path / "report.json", {"test": {"matching": {"rsum": math.nan}}})
    assert json.loads((tmp_path / "report.json").read_text()) == reports
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_file_that_cannot_take_its_place_leaves_nothing_half_written(tmp_path, reports):
    (tmp_path / "report.json" / "kept").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        write_json(tmp_path / "report.json", reports)
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


def test_a_head_that_was_never_trained_is_marked_in_the_table_and_pale_in_the_figure(tmp_path, reports):
    screen = io.StringIO()
    print_reports(reports, Console(file=screen, width=80), untrained=["matching"])
    assert screen.getvalue().count("untrained") == 1
    save_recall_figure(reports, tmp_path / "recall.png", title="test: 20 images", untrained=["matching"])
    pixels = np.asarray(Image.open(tmp_path / "recall.png").convert("RGB")).astype(int)
    marked, other = ((pixels == colour).all(-1).sum() for colour in ([0, 114, 178], [213, 94, 0]))
    assert marked < other / 10  # its labels alone


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
