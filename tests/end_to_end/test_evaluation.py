"""`--mode evaluate` reports on the golden files what the original reported."""

import json

import pytest

from aladin_jax.evaluation.report import evaluate
from convert import coco_ir
from tests.end_to_end.command_line import command
from tests.golden_data import E2E, e2e_expected
from tests.processes import run


@pytest.mark.parametrize(("report", "keys"), [("test", ""), ("test_1k", "test_img_keys_1k.tsv")])
def test_recalls_are_the_original_s(report, keys, small_run, differences, tmp_path, capsys):
    rankings = tmp_path / "rankings.jsonl"
    if keys:  # by the command line
        config = small_run("alignment_triplet", **{"eval.image_keys": str(E2E / "coco_ir" / keys)})
        flags = ("--mode", "evaluate", f"--config.eval.rankings={rankings}", "--config.eval.metrics=('recall','ndcg')")
        assert run(*command("alignment_triplet", tmp_path, config, *flags), log=tmp_path / "log") == 0
        table = (tmp_path / "log").read_text()
    else:
        more = {"eval.rankings": str(rankings), "eval.metrics": ("recall", "ndcg")}
        evaluate(small_run("alignment_triplet", **more), tmp_path)
        table = capsys.readouterr().out
    found = json.loads((tmp_path / "report.json").read_text())["test"]
    for head, expected in e2e_expected()["evaluate"][report].items():
        for metric, value in expected.items():
            # One image's rank of `test_1k` hangs on a tie that the original left to the processor: see recall.py.
            tied = (report, head, metric) == ("test_1k", "alignment", "i2t/meanr")
            group = "e2e mean rank with a tie" if tied else "e2e recalls and ranks"
            differences.check(group, found[head][metric], value, atol=0.021 if tied else 1e-9)
        first = [row for row in map(json.loads, rankings.read_text().splitlines()) if row["head"] == head]
        own = [row["items"][0].startswith(f"{row['query']}#") for row in first if row["direction"] == "i2t"]
        assert 100 * sum(own) / len(own) == pytest.approx(found[head]["i2t/R@1"])
        assert 0 < found[head]["t2i/nDCG@25 ROUGE-L"] < 100
        assert found[head]["i2t/R@1/low"] <= found[head]["i2t/R@1"] <= found[head]["i2t/R@1/high"]
    assert "matching" in table
    ndcg = [found["matching"][f"i2t/nDCG@25 ROUGE-L{end}"] for end in ("", "/low", "/high")]
    assert "{:.2f} ({:.2f}-{:.2f})".format(*ndcg) in table
    assert f"{found['alignment']['rsum']:.1f}" in table
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_an_unknown_image_in_the_keys_file_is_one_line_of_error(small_run, tmp_path):
    keys = tmp_path / "keys.tsv"
    keys.write_text("473681\n999999999\n")
    config = small_run("alignment_triplet", **{"eval.image_keys": str(keys)})
    arguments = command("alignment_triplet", tmp_path / "run", config, "--mode", "evaluate")
    assert "999999999" in error_of(arguments, tmp_path / "log")


def error_of(arguments, log):
    """The one line that a command ends in."""
    assert run(*arguments, log=log) == 1
    assert "Traceback" not in log.read_text()
    [line] = [line for line in log.read_text().splitlines() if line.startswith("error: ")]
    return line


def test_images_without_captions_can_be_searched_not_evaluated(small_run, tmp_path):
    features = E2E / "model_0060000" / "features.tsv"
    assert coco_ir.main(["--img_feat_file", str(features), "--output", str(tmp_path / "data")]) == 0
    with pytest.raises(ValueError, match=r"split test has no captions; it can be searched, not evaluated$"):
        evaluate(small_run("alignment_triplet", **{"data.dir": str(tmp_path / "data")}), tmp_path / "run")


def test_a_workdir_in_an_object_store_is_refused(small_run, tmp_path):
    arguments = command("alignment_triplet", tmp_path / "run", small_run("alignment_triplet"), "--mode", "evaluate")
    line = error_of([*arguments, "--workdir=gs://bucket/run"], tmp_path / "log")
    assert line.startswith("error: gs://bucket/run: only files and folders of this machine are read and written; ")
