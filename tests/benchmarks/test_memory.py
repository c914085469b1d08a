"""The memory that is reported is one device's share, and grows with images x words, not with x regions too."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAIRS, WIDTH = 128, 16


def run(*arguments):
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def test_memory_ends_with_one_json_line_of_bytes_on_each_device():
    done = run("--batch_size", str(PAIRS), "--hidden_size", str(WIDTH), "--limit_gb", "0.003")
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    report = json.loads(last)
    assert report["lengths"] == {"pairs": PAIRS, "devices": 8, "regions": 34, "tokens": 50, "hidden_size": WIDTH}
    assert report["hardware"]["devices"] == ["cpu"] * 8
    assert [line.split()[0] for line in table[1:]] == list(report["cases"])
    similarities = PAIRS * PAIRS * 33 * 47 * 4 / 8
    for name, case in report["cases"].items():
        sizes = case["bytes_per_device"]
        assert sizes["total"] == sizes["argument"] + sizes["output"] + sizes["temp"]
        assert 0 < sizes["temp"] < similarities / 2, name
        assert case["fits"] == (sizes["total"] <= 3e6)
        assert ("DOES NOT FIT" in done.stdout.partition(f"\n{name} ")[2].partition("\n")[0]) != case["fits"]
    embeddings = report["cases"]["alignment_and_distillation"]["bytes_per_device"]["argument"]
    assert embeddings == PAIRS // 8 * ((34 + 50 + 1 + 1) * WIDTH + 2) * 4


def test_a_batch_that_eight_devices_cannot_share_is_refused():
    done = run("--batch_size", "12")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("--batch_size 12: must be a multiple of 8, the number of devices")
