"""The memory that is reported is one device's share, and grows with images x words, not with x regions too."""

import json

from tests.processes import run

PAIRS, WIDTH = 128, 16


def test_memory_ends_with_one_json_line_of_bytes_on_each_device(tmp_path):
    options = ["--batch_size", PAIRS, "--hidden_size", WIDTH, "--limit_gb", "0.003"]
    assert run("benchmarks.memory", *options, log=tmp_path / "log") == 0
    told = (tmp_path / "log").read_text()
    *table, last = told.splitlines()
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
        assert ("DOES NOT FIT" in told.partition(f"\n{name} ")[2].partition("\n")[0]) != case["fits"]
    embeddings = report["cases"]["alignment_and_distillation"]["bytes_per_device"]["argument"]
    assert embeddings == PAIRS // 8 * ((34 + 50 + 1 + 1) * WIDTH + 2) * 4


def test_a_batch_that_eight_devices_cannot_share_is_refused(tmp_path):
    assert run("benchmarks.memory", "--batch_size", "12", log=tmp_path / "log") == 2
    told = (tmp_path / "log").read_text()
    assert told.splitlines()[-1].endswith("--batch_size 12: must be a multiple of 8, the number of devices")
