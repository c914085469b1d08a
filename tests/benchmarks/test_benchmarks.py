"""What every benchmark promises: turns that alternate, ratios within a turn, one JSON line last."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

from benchmarks import interleaved, quantization, scoring


def test_ways_take_turns_after_one_untimed_run_each():
    calls = []
    seconds = interleaved.time_in_turns(
        {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), jnp.zeros(1))}, runs=2
    )
    assert calls == ["a", "b"] * 3
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_ratios_compare_runs_of_the_same_turn():
    assert interleaved.ratios([4.0, 10.0, 9.0], [2.0, 1.0, 3.0]) == {"min": 2.0, "median": 3.0, "max": 10.0}


def test_scoring_ends_with_one_json_line_of_ratios_hardware_versions_and_lengths(capsys):
    small = ["--images", "3", "--baseline_images", "1", "--batch_size", "4", "--runs", "1", "--sizes", "2"]
    scoring.main([*small, "--candidates", "3"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["lengths"]["all_pairs"]["captions"] == 15
    assert {"jax", "numpy", "torch"} <= report["versions"].keys()
    for results, name in (("all_pairs", "ratio"), ("all_pairs", "gemm_fraction"), ("alignment_loss", "ratio")):
        assert report[results][name]["median"] > 0
    assert [(row["candidates"], row["dtype"]) for row in report["re_ranking"]] == [(3, "float32"), (3, "float16")]
    assert all(row["ratio"]["torch_einsum"]["median"] > 0 for row in report["re_ranking"])
    assert [row["captions"] for row in report["growth"]] == [10]
    assert report["growth"][0]["peak_memory_bytes"] > 10_000_000


def test_int8_keeps_most_of_the_first_and_all_of_vectors_that_are_its_steps(capsys):
    quantization.main(["--drawn", "300", "--queries", "20", "--width", "32"])
    kept = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 80 < kept["recall@10"] <= kept["recall@10 among the first 100"] <= 100
    steps = np.random.default_rng(0).integers(0, quantization.STEPS + 1, (200, 8)) / quantization.STEPS
    np.testing.assert_allclose(quantization.rounded(steps, 0.0, 1.0), steps, atol=1e-6)
    assert quantization.rounded(np.array([[-5.0, 5.0]]), 0.0, 1.0).tolist() == [[0.0, 1.0]]
