"""Ctrl-C ends evaluation and indexing with one line and exit code 130."""

import os
import signal
import time

from tests.end_to_end.command_line import command
from tests.processes import end_of, start


def interrupt(arguments, log, begun):
    """Starts a process, and sends it SIGINT once `begun()`; returns its exit status and the lines of its errors."""
    log.touch()
    process = start(*arguments, log=log)
    while not begun():
        assert process.is_alive(), log.read_text()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    status = end_of(process, 60)
    text = log.read_text()
    assert "Traceback" not in text
    return status, [line for line in text.splitlines() if line.startswith("error: ")]


def test_evaluation_that_is_interrupted_leaves_no_report(small_run, tmp_path):
    log, run = tmp_path / "log", tmp_path / "run"
    arguments = command("alignment_triplet", run, small_run("alignment_triplet"), "--mode", "evaluate")
    found = interrupt(arguments, log, lambda: "Weights: " in log.read_text())
    assert found == (130, ["error: interrupted; nothing was changed; the same command starts again"])
    assert not (run / "report.json").exists()


def test_indexing_that_is_interrupted_can_go_on(golden_folder, tmp_path):
    log, index = tmp_path / "log", tmp_path / "index"
    files = ["--checkpoint", golden_folder / "model", "--data", golden_folder / "data", "--output", index]
    found = interrupt(["aladin_jax.search", "index", *files], log, (index / ".unfinished").exists)
    assert found == (130, ["error: interrupted; the same command goes on where it was, or starts again"])
    assert (index / ".unfinished").exists()
