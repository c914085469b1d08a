"""Ctrl-C ends evaluation and indexing with one line and exit code 130."""

import signal
import sys
import time

from tests.end_to_end.command_line import command, start


def interrupt(arguments, log, begun):
    """Starts a process, and sends it SIGINT once `begun()`; returns its exit status and the lines of its errors."""
    process = start(arguments, log)
    while not begun():
        assert process.poll() is None, log.read_text()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    status = process.wait(timeout=60)
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
    arguments = [sys.executable, "-m", "aladin_jax.search", "index", *map(str, files)]
    found = interrupt(arguments, log, (index / ".unfinished").exists)
    assert found == (130, ["error: interrupted; the same command goes on where it was, or starts again"])
    assert (index / ".unfinished").exists()
