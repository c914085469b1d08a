"""Two runs are compared query by query; runs that cannot be are refused."""

import json

import numpy as np
import pytest

from aladin_jax import compare
from aladin_jax.evaluation.query_ranks import QueryRanks, ranks_file, read_query_ranks, write_query_ranks
from aladin_jax.evaluation.retrieval import Retrieval
from tests.evaluation.conftest import make_collection


def run_of(scores):
    collection = make_collection([2] * len(scores))
    return {head: Retrieval(scores.astype(np.float32), collection) for head in ("matching", "alignment")}


def scores_of(seed, signal, num_images=60):
    noise = np.random.default_rng(seed).normal(size=(num_images, 2 * num_images))
    return noise + signal * (np.arange(num_images)[:, None] == np.repeat(np.arange(num_images), 2))


def save(retrievals, folder):
    folder.mkdir()
    report = folder / "report.json"
    report.write_text(json.dumps({}))
    write_query_ranks(retrievals, report)
    return report


def ranks(i2t, t2i):
    return QueryRanks({"matching": {"i2t": i2t, "t2i": t2i}}, [], np.zeros(0, int))


def test_ranks_are_read_as_they_were_written(small, tmp_path):
    found = read_query_ranks(save({"matching": small}, tmp_path / "run"))
    assert found.image_ids == ["10", "11", "12"]
    assert found.image_of_caption.tolist() == [0, 0, 1, 2, 2]
    assert {d: r.tolist() for d, r in found.heads["matching"].items()} == {
        direction: values.tolist() for direction, values in small.ranks.items()
    }


def test_a_difference_is_paired_so_that_a_few_queries_more_are_enough():
    """Ten of 300 queries are gained and none is lost: far inside each run's own interval, and still no chance."""
    before, after = np.repeat([0, 50], 150), np.repeat([0, 50], [160, 140])
    still = np.zeros(300, int)
    found = {of.metric: of for of in compare.compare(ranks(before, still), ranks(after, still))}
    recall = found["i2t/R@1"]
    assert (recall.first, recall.second) == (50, pytest.approx(100 * 160 / 300))
    assert 0 < recall.low < 10 / 3 < recall.high < 7
    assert recall.significant
    assert not found["t2i/R@1"].significant
    assert found["rsum"].second - found["rsum"].first == pytest.approx(10)


def test_equal_runs_differ_by_chance_alone_in_one_of_twenty_comparisons():
    rng = np.random.default_rng(0)
    calls = []
    for seed in range(100):
        a, b, c, d = (np.where(rng.random(500) < 0.5, 0, 50) for _ in range(4))
        calls.append({of.metric: of for of in compare.compare(ranks(a, b), ranks(c, d), seed)}["i2t/R@1"].significant)
    assert sum(calls) <= 14


def test_the_command_says_which_recalls_differ_significantly(tmp_path, capsys):
    weak = save(run_of(scores_of(0, 1.0)), tmp_path / "weak")
    strong = save(run_of(scores_of(1, 5.0)), tmp_path / "strong")
    assert compare.main([str(weak), str(strong)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = [line for line in lines if line[:1] in (["matching"], ["alignment"])]
    assert len(rows) == 2 * 7
    assert all(line[-1] == "*" for line in rows)
    assert compare.main([str(weak), str(weak)]) == 0
    assert capsys.readouterr().out.count("*") == 1  # the title's


def test_seeds_are_summarised_as_mean_and_deviation(tmp_path, capsys):
    reports = [str(save(run_of(scores_of(seed, 2.0)), tmp_path / f"{seed}")) for seed in range(3)]
    assert compare.main(["--seeds", *reports]) == 0
    recalls = [100 * np.mean(run_of(scores_of(seed, 2.0))["matching"].ranks["t2i"] < 1) for seed in range(3)]
    expected = [np.mean(recalls), np.std(recalls, ddof=1), min(recalls), max(recalls)]
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["matching", "t2i/R@1", *(f"{value:.1f}" for value in expected)] in lines


def damage(report):
    ranks_file(report).write_bytes(ranks_file(report).read_bytes()[:200])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda report: ranks_file(report).unlink(), "report.ranks.npz: no such file, which has the report's ranks"),
        (damage, "report.ranks.npz: damaged ("),
        (lambda report: write_query_ranks(run_of(scores_of(0, 1.0, 50)), report), "of other queries (50 images) than"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(spoil, problem, tmp_path, capsys):
    first, second = (save(run_of(scores_of(0, 1.0)), tmp_path / name) for name in ("a", "b"))
    spoil(second)
    assert compare.main([str(first), str(second)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert problem in line
