"""A report is of the run: its settings, its weights, its images, and the heads that it trained."""

import json
import shutil

import pytest

from aladin_jax.evaluation.report import evaluate
from aladin_jax.training.loop import train
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE
from tests.golden_data import E2E

KEYS = str(E2E / "coco_ir" / "test_img_keys_1k.tsv")


@pytest.fixture(scope="module")
def run(small_run, golden_folder, tmp_path_factory):
    """A workdir that was trained with other lengths than the original's, and the configuration that did not say so."""
    folder = tmp_path_factory.mktemp("run")
    train(small_run("alignment_triplet", num_steps=2, **LITTLE_TO_COMPUTE), folder)
    return folder


def test_evaluation_takes_the_runs_settings_and_keeps_a_report_of_each_protocol(run, small_run):
    whole = evaluate(small_run("alignment_triplet", pooling="symm"), run)  # as of another configuration file
    keys = evaluate(small_run("alignment_triplet", **{"eval.image_keys": KEYS}), run)
    assert json.loads((run / "report.json").read_text()) == keys  # the newest
    kept = {path.stem: json.loads(path.read_text()) for path in (run / "reports").glob("*.json")}
    assert kept["test"]["report"] == whole
    assert kept["test-test_img_keys_1k"]["report"] == keys
    of = kept["test"]["of"]
    assert (of["images"], of["captions"], of["step"], of["image_keys"]) == (56, 280, 2, "")
    expected = {name.removeprefix("data."): value for name, value in LITTLE_TO_COMPUTE.items()} | {"pooling": "MrSw"}
    assert expected.items() <= of["settings"].items()
    assert of["trained_with"] == {}


def test_other_settings_are_refused_unless_asked_for_and_leave_the_runs_report_alone(run, small_run):
    evaluate(small_run("alignment_triplet"), run)
    before = (run / "report.json").read_bytes()
    with pytest.raises(ValueError, match=r"trained with other settings \(pooling is MwSr, was MrSw\)"):
        evaluate(small_run("alignment_triplet", pooling="MwSr"), run, given=["pooling"])
    other = evaluate(small_run("alignment_triplet", pooling="MwSr", **{"eval.override": True}), run, given=["pooling"])
    assert (run / "report.json").read_bytes() == before
    kept = json.loads((run / "reports" / "test-pooling=MwSr.json").read_text())
    assert (kept["report"], kept["of"]["trained_with"]) == (other, {"pooling": "MrSw"})


def test_other_weights_than_the_workdirs_are_refused(run, small_run, golden_folder):
    with pytest.raises(ValueError, match="its own weights are evaluated, not"):
        evaluate(small_run("alignment_triplet", init_from=str(golden_folder / "data")), run)


def test_a_run_goes_on_with_the_same_data_elsewhere_and_keeps_its_new_length(run, small_run, golden_folder, tmp_path):
    shutil.copytree(golden_folder / "data", tmp_path / "scratch")
    settings = {**LITTLE_TO_COMPUTE, "data.dir": str(tmp_path / "scratch")}
    train(small_run("alignment_triplet", num_steps=3, **settings), run)
    kept = json.loads((run / "config.json").read_text())
    assert (kept["num_steps"], kept["data"]["dir"]) == (3, str(tmp_path / "scratch"))
    [metadata] = (tmp_path / "scratch").rglob("1.0.0/metadata.json")
    metadata.write_text(metadata.read_text().replace("473681", "473682"))
    with pytest.raises(ValueError, match=r"data\.dir held other data"):
        train(small_run("alignment_triplet", num_steps=4, **settings), run)
