"""A report is of the run: its settings, its weights, its images, and the heads that it trained."""

import collections
import csv
import itertools
import json
import shutil

import pytest
from PIL import Image

from aladin_jax import sweep
from aladin_jax.encoding import Encoder
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


def test_a_sweep_finds_what_evaluation_finds_and_measures_what_is_missing_alone(
    run, small_run, golden_folder, tmp_path, capsys, monkeypatch
):
    encoded = collections.Counter()

    def counting(side, encode):
        def encode_and_count(*arguments):
            encoded[side] += 1
            return encode(*arguments)

        return encode_and_count

    for side in ("encode_images", "encode_captions"):
        monkeypatch.setattr(Encoder, side, counting(side, getattr(Encoder, side)))
    flags = ["--checkpoint", str(run), "--data", str(golden_folder / "data"), "--output", str(tmp_path)]
    lengths = ["--max_caption_len", "8", "24", "--max_regions", "6", "3"]
    assert sweep.main([*flags, "--split", "test", *lengths]) == 0
    assert encoded == {"encode_images": 2, "encode_captions": 2}
    with open(tmp_path / "sweep.csv", newline="") as file:
        rows = {(row["max_caption_len"], row["max_regions"], row["head"]): row for row in csv.DictReader(file)}
    assert len(rows) == 8
    assert {row["max_labels_len"] for row in rows.values()} == {"12"}  # the run's
    told = capsys.readouterr().out
    best = max(itertools.product(("8", "24"), ("3", "6")), key=lambda of: sum(
        float(rows[*of, head]["rsum"]) for head in ("matching", "alignment")))  # fmt: skip
    assert f"best of 4: max_caption_len {best[0]}, max_labels_len 12, max_regions {best[1]}; rsum" in told
    for captions, regions in (("8", "3"), ("24", "6")):
        changed = {"data.max_caption_len": int(captions), "data.max_regions": int(regions)}
        found = evaluate(small_run("alignment_triplet", **changed, **{"eval.override": True}), run, given=changed)
        for head, metrics in found["test"].items():
            row = rows[captions, regions, head]
            assert {name: float(row[name]) for name in metrics} == metrics
    with Image.open(tmp_path / "sweep.png") as picture:
        assert picture.width > 800

    encoded.clear()
    (tmp_path / "max_caption_len=24,max_labels_len=12,max_regions=3.ranks.npz").unlink()  # as if stopped before it
    assert sweep.main([*flags, "--split", "test", *lengths]) == 0
    assert encoded == {"encode_images": 1, "encode_captions": 1}
    assert capsys.readouterr().out.splitlines()[-6:] == told.splitlines()[-6:]
    assert sweep.main([*flags, "--split", "minival"]) == 1
    assert "holds a sweep of another split and images_sha256; name another --output" in capsys.readouterr().err
    assert sweep.main([*flags, "--split", "test", "--max_labels_len", "2"]) == 1
    assert "max_labels_len is 2; it must be at least 3" in capsys.readouterr().err


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
