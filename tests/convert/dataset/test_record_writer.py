"""Several processes write the data set that one writes, and none outlives the run."""

import contextlib
import functools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from aladin_jax.errors import DataError
from convert.dataset import record_builder
from convert.dataset.coco_ir import prepare
from convert.dataset.record_writer import Shard, write_shard, write_shards
from convert.importing.caption_files import read_caption_files
from convert.raw.vinvl_files import VinvlFiles
from tests.convert.raw.raw_vinvl import E2E, GOLDEN_FEATURES

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(record_builder, "IMAGES_PER_FILE", 8)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("float16", [False, True])
def test_two_processes_write_the_bytes_that_one_writes(tmp_path, small_files, float16):
    one, two = (
        prepare(E2E / "coco_ir", GOLDEN_FEATURES, tmp_path / str(n), float16=float16, num_workers=n) for n in (1, 2)
    )
    assert contents(one.folder) == contents(two.folder)
    assert len(list(two.folder.glob("coco_ir-test.array_record-*-of-00007"))) == 7
    assert (one.splits, one.num_bytes) == (two.splits, two.num_bytes)


def die_at_one_image(image, dtype):
    """Reads as VinvlFiles does, but kills the process that reads the image 136471."""
    if image == "136471":
        os.kill(os.getpid(), signal.SIGKILL)
    return VinvlFiles(GOLDEN_FEATURES).detections(image, dtype)


def test_a_killed_process_ends_the_run_with_an_error(tmp_path):
    images = read_caption_files("coco_ir", [(None, E2E / "coco_ir")], {}).splits["test"]
    shards = [Shard(str(tmp_path / image.id), [image]) for image in images.values()]
    write = functools.partial(write_shard, die_at_one_image, 2054, np.dtype(np.float32))
    with pytest.raises(DataError, match=r"a process that writes records was killed; .*--num_workers"):
        write_shards(write, shards, 2)
    assert not multiprocessing.active_children()


def test_an_error_in_a_process_names_file_row_and_image_and_leaves_nothing_behind(tmp_path, small_files):
    shutil.copytree(GOLDEN_FEATURES.parent, tmp_path / "raw")
    features = tmp_path / "raw" / "features.tsv"
    features.write_bytes(features.read_bytes().replace(b"\n136471\t", b"\n136471\t9"))
    offsets = np.cumsum([0, *map(len, features.read_bytes().splitlines(keepends=True))])[:-1]
    features.with_suffix(".lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
    with pytest.raises(DataError, match=rf"^{features}, row 54 \(line 55\), image 136471: "):
        prepare(E2E / "coco_ir", features, tmp_path / "out", num_workers=2)
    assert not multiprocessing.active_children()
    assert [path.name for path in (tmp_path / "out" / "coco_ir" / "default").iterdir()] == [".1.0.0.lock"]


@pytest.fixture
def stuck(tmp_path):
    """A run in a process group of its own, and the numbers of its two processes, which wait for features."""
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    paths = ["--data_dir", E2E / "coco_ir", "--img_feat_file", waiting, "--output", tmp_path / "out"]
    command = [sys.executable, "-m", "tests.convert.dataset.stuck_source", *map(str, paths), "--num_workers", "2"]
    run = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True)
    with run:
        wait_until(lambda: len(list(waiting.iterdir())) == 2 or run.poll() is not None)
        yield run, [int(path.name) for path in waiting.iterdir()]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)


def wait_until(condition):
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)


def lives(process):
    """Whether there is such a process, and more of it than its exit status."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_ctrl_c_ends_all_processes_at_once_and_leaves_nothing_behind(tmp_path, stuck):
    run, processes = stuck
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130
    assert said.splitlines()[-1].endswith("interrupted; the same command starts again")
    assert "Traceback" not in said
    assert len(processes) == 2
    assert not any(map(lives, processes))
    assert [path.name for path in (tmp_path / "out" / "coco_ir" / "default").iterdir()] == [".1.0.0.lock"]


def test_processes_end_with_a_run_that_is_killed(tmp_path, stuck):
    run, processes = stuck
    run.kill()
    assert len(processes) == 2
    wait_until(lambda: not any(map(lives, processes)))
    assert not (tmp_path / "out" / "coco_ir" / "default" / "1.0.0").exists()
