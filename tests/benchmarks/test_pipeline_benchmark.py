"""The benchmark of the input runs from the command line and ends with its JSON line."""

import json

import pytest

from tests.processes import run

pytest.importorskip("torch")


def test_pipeline_ends_with_one_json_line_of_examples_a_second_and_ratios(tmp_path):
    options = ["--images", "8", "--batches", "2", "--runs", "2", "--workers", "0"]
    assert run("benchmarks.pipeline", *options, log=tmp_path / "log") == 0
    report = json.loads((tmp_path / "log").read_text().splitlines()[-1])
    assert report["lengths"] == {"images": 8, "batch_size": 32, "examples": 64, "workers": 0}
    assert report["examples_per_second"].keys() == {"original", "original_with_workers", "ours"}
    assert len(report["examples_per_core_second"]) == 4
    assert report["examples_per_second_with_workers"] == {}
    for values in (*report["examples_per_second"].values(), report["ratio"], report["ratio_with_workers"]):
        assert values["min"] > 0
