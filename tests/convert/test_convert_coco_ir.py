import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
import torch

from convert.coco_ir import main
from tests.processes import stop_at

REPOSITORY = Path(__file__).parents[2]
E2E = REPOSITORY / "tests" / "golden" / "e2e"


def arguments(
    output, *more, data_dir=E2E / "coco_ir", img_feat_file=E2E / "model_0060000" / "features.tsv", num_workers="1"
):
    options = {"--data_dir": data_dir, "--img_feat_file": img_feat_file, "--output": output}
    if num_workers:
        options["--num_workers"] = num_workers  # in this process by default, since starting more takes longest
    return [str(word) for pair in options.items() for word in pair] + list(more)


def folder_of(output):
    return output / "coco_ir" / "default" / "1.0.0"


def opened(output) -> Any:
    return tfds.builder_from_directory(str(folder_of(output)))


def lengths(output):
    splits = opened(output).as_data_source()
    return {name: len([record["regions"] for record in split]) for name, split in splits.items()}


def test_the_command_shows_progress_and_sums_up(tmp_path):
    command = [sys.executable, "-m", "convert.coco_ir", *arguments(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "Writing records:   0%|          | 0/70 [" in done.stderr  # a total, from which the time left is told
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[1:4] == [["train", "10", "50", "0"], ["minival", "4", "20", "0"], ["test", "56", "280", "0"]]
    num_bytes = sum(path.stat().st_size for path in folder_of(tmp_path).iterdir())
    assert done.stdout.splitlines()[4:] == [f"{num_bytes:,} bytes; the data set is ready: {folder_of(tmp_path)}"]
    assert lengths(tmp_path) == {"train": 10, "minival": 4, "test": 56}


def test_a_finished_run_run_again_says_so_and_touches_nothing(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    before = {path: path.stat().st_mtime_ns for path in folder_of(tmp_path).iterdir()}
    capsys.readouterr()
    assert main(arguments(tmp_path)) == 0
    assert (
        f"the data set is there already (--overwrite makes it anew): {folder_of(tmp_path)}" in capsys.readouterr().out
    )
    assert {path: path.stat().st_mtime_ns for path in folder_of(tmp_path).iterdir()} == before


@pytest.mark.parametrize(
    ("event", "pattern", "times", "complete"),
    [
        ("os.mkdir", r"_1\.0\.0", 1, False),
        ("os.rename", "array_record", 2, False),
        ("os.rename", r"_1\.0\.0", 5, True),  # the fifth, after what it is made from and three files
    ],
    ids=["before the first record", "between two files", "before the last step"],
)
def test_a_killed_run_leaves_no_data_set_and_the_next_finishes(tmp_path, event, pattern, times, complete):
    output = tmp_path / "out"
    stop_at(event, pattern, "convert.coco_ir", *arguments(output), times=times, log=tmp_path / "log")
    assert not folder_of(output).exists()
    assert bool(list(output.rglob("dataset_info.json"))) == complete
    assert main(arguments(output)) == 0
    assert lengths(output) == {"train": 10, "minival": 4, "test": 56}
    assert sorted(path.name for path in folder_of(output).parent.iterdir()) == [".1.0.0.lock", "1.0.0"]


def test_a_run_killed_while_it_removes_the_old_data_set_leaves_none(tmp_path, capsys):
    assert main(arguments(tmp_path)) == 0
    command = ["convert.coco_ir", *arguments(tmp_path, "--overwrite")]
    stop_at("shutil.rmtree", r"1\.0\.0", *command, log=tmp_path / "log")
    assert list(folder_of(tmp_path).iterdir())
    with pytest.raises(Exception, match="dataset_info"):
        opened(tmp_path)
    assert main(arguments(tmp_path, "--overwrite")) == 0
    assert lengths(tmp_path) == {"train": 10, "minival": 4, "test": 56}


def test_half_precision_on_request(tmp_path):
    assert main(arguments(tmp_path, "--float16")) == 0
    assert opened(tmp_path).info.features["regions"].np_dtype == "float16"


@pytest.mark.parametrize(
    ("change", "more", "found"),
    [
        ({"data_dir": "nowhere"}, [], "nowhere: no such folder"),
        ({"img_feat_file": "nowhere.tsv"}, [], "nowhere.tsv: no such file; check the path"),
        (
            {},
            ["--feature_dim", "2048"],
            ": 2054 features a box, expected 2048; if all rows are so wide",
        ),
    ],
)
def test_an_error_is_one_line_without_a_traceback(tmp_path, capfd, change, more, found):
    assert main(arguments(tmp_path, *more, **change)) == 1
    captured = capfd.readouterr()
    last = captured.err.replace("\r", "\n").splitlines()[-1]
    assert "error: " in last
    assert found in last
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not folder_of(tmp_path).exists()


def test_a_bad_captions_file_is_named(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    torch.save({473681: []}, tmp_path / "raw" / "test_captions.pt")
    assert main(arguments(tmp_path / "out", data_dir=tmp_path / "raw")) == 1
    assert f"error: {tmp_path}/raw/test_captions.pt, image 473681: no caption; " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--feature_dim", "--num_workers"])
def test_a_number_below_one_is_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, option, "0"))
    assert f"{option} 0: must be at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("num_workers", ["2", None])
def test_several_workers_on_request_and_one_a_processor_without(tmp_path, capsys, num_workers):
    assert main(arguments(tmp_path, num_workers=num_workers)) == 0
    assert "the data set is ready" in capsys.readouterr().out
    assert lengths(tmp_path) == {"train": 10, "minival": 4, "test": 56}


def test_without_beam_its_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)  # as if it were not installed
    assert main(arguments(tmp_path, "--beam_pipeline_options", "runner=DirectRunner", num_workers=None)) == 1
    assert capsys.readouterr().err == "error: Apache Beam is not installed; pip install 'aladin-jax[beam]'\n"
    assert not folder_of(tmp_path).exists()


def test_workers_here_and_on_a_cluster_are_not_asked_for_together(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, "--beam_pipeline_options", "runner=DirectRunner"))
    assert "not allowed with argument --num_workers" in capsys.readouterr().err
