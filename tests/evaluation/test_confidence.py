import numpy as np
import pytest

from aladin_jax.evaluation import confidence
from aladin_jax.evaluation.recall import report_of_ranks


def test_an_interval_of_hits_is_that_of_drawing_queries_one_by_one():
    rng = np.random.default_rng(1)
    hits = (rng.random(60) < 0.3) * 100.0
    drawn = hits[rng.integers(0, len(hits), (20_000, len(hits)))].mean(axis=1)
    found = confidence.interval(confidence.resampled_means(hits, np.random.default_rng(2)))
    np.testing.assert_allclose(found, np.percentile(drawn, [2.5, 97.5]), atol=1.7)  # one query more or less


def test_intervals_hold_the_recall_in_nineteen_of_twenty_samples():
    rng = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        ranks = np.where(rng.random(400) < 0.6, 0, 50)
        found = confidence.recall_intervals({"i2t": ranks, "t2i": ranks}, seed)
        held += found["i2t/R@1/low"] <= 60 <= found["i2t/R@1/high"]
    assert 180 <= held <= 200


def test_every_recall_lies_in_its_interval_and_certain_ones_have_none_around_them():
    ranks = {"i2t": np.arange(40) % 12, "t2i": np.zeros(200, int)}
    found = confidence.recall_intervals(ranks)
    report = report_of_ranks(ranks["i2t"], ranks["t2i"])
    for name in ("i2t/R@1", "i2t/R@5", "i2t/R@10", "t2i/R@1", "rsum"):
        assert found[f"{name}/low"] <= report[name] <= found[f"{name}/high"]
    assert found["t2i/R@1/low"] == found["t2i/R@1/high"] == 100
    assert found["rsum/high"] - found["rsum/low"] > 10


def test_rsum_varies_as_its_recalls_do_together():
    """All hits of a query come together here, so rsum varies three times as much as R@1."""
    ranks = {"i2t": np.repeat([0, 99], 50), "t2i": np.zeros(10, int)}
    found = confidence.recall_intervals(ranks)
    width = found["rsum/high"] - found["rsum/low"]
    assert width == pytest.approx(3 * (found["i2t/R@1/high"] - found["i2t/R@1/low"]), rel=0.1)


def test_of_several_comparisons_each_has_a_wider_interval():
    samples = np.random.default_rng(4).normal(size=confidence.DRAWS)
    low, high = confidence.interval(samples, comparisons=10)
    assert (low, high) == pytest.approx((-2.81, 2.81), abs=0.2)  # 1 in 400 beyond each


def test_the_interval_of_a_mean_is_that_of_its_standard_error_and_holds_the_mean():
    values = np.random.default_rng(5).normal(60, 20, 900)
    low, high = confidence.mean_interval(values, np.random.default_rng(6))
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 30, rel=0.05)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.05)
    assert confidence.mean_interval(np.full(9, 33.333), np.random.default_rng(7)) == pytest.approx((33.333, 33.333))
