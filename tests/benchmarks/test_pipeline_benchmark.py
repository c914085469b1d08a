"""The benchmark of the input runs from the command line and ends with its JSON line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

REPOSITORY = Path(__file__).parents[2]


def test_pipeline_ends_with_one_json_line_of_examples_a_second_and_ratios():
    options = ["--images", "8", "--batches", "2", "--runs", "2", "--workers", "1"]
    command = [sys.executable, "-m", "benchmarks.pipeline", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["lengths"] == {"images": 8, "batch_size": 32, "examples": 64, "workers": 1}
    assert report["examples_per_second"].keys() == {"original", "original_with_workers", "ours"}
    assert len(report["examples_per_core_second"]) == 4
    assert report["examples_per_second_with_workers"].keys() == {"float32, 1", "float16, 1"}
    for values in (*report["examples_per_second"].values(), report["ratio"], report["ratio_with_workers"]):
        assert values["min"] > 0
