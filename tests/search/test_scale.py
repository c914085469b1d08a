import json

from aladin_jax.search import tradeoff
from benchmarks import search_scale


def test_the_benchmark_ends_with_recalls_costs_and_parts_of_a_querys_time(capsys, monkeypatch):
    monkeypatch.setattr(tradeoff, "_TIMED", 5)
    search_scale.main(["--images", "400", "--queries", "40", "--width", "64", "--layers", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["rerank"]: row for row in report["rows"]}
    assert list(rows) == [0, 10, 30, 100, 300, "all"]
    assert abs(report["kept_of_full_recall_at_10"] - rows[100]["t2i/R@10"] / rows["all"]["t2i/R@10"]) < 1e-3
    assert rows["all"]["t2i/R@10"] > 10 * 10 / 400 * 100  # far above chance: recall means something
    assert set(report["query_ms"]) == {"p50", "p90", "encode", "match", "rerank"}
    assert report["hardware"]["cores"] >= 1
