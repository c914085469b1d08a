"""Two real processes on CPUs train one model (jax.distributed, gloo)."""

import socket
import time

from aladin_jax.training.loop import train
from tests.end_to_end.command_line import LITTLE_TO_COMPUTE, command
from tests.golden_data import e2e_expected
from tests.processes import end_of, start, wait_for

REGIME = "alignment_and_matching_distill"


def several(arguments, count):
    """The command lines of processes that belong together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = ["--coordinator", f"localhost:{port}", "--num_processes", str(count)]
    return [[*arguments, *together, "--process_id", str(index)] for index in range(count)]


def test_two_processes_and_then_one_train_as_the_original_did(small_run, scalars, differences, tmp_path):
    settings = {"activate_distillation_after": 1, "lr_step_epochs": 1, "eval_every": 7, "pack_tokens": True}
    workdir = tmp_path / "run"
    half = command(REGIME, workdir, small_run(REGIME, num_steps=7, **settings))
    processes = [start(*arguments, log=tmp_path / f"{k}.log") for k, arguments in enumerate(several(half, 2))]
    assert [end_of(process) for process in processes] == [0, 0]
    train(small_run(REGIME, num_steps=14, **settings), workdir)
    found = scalars(workdir)
    for step, expected in enumerate(e2e_expected()["two_epochs"]["steps"], start=1):
        differences.check("two processes, then one: loss", found["train/loss"][step], expected["loss"], rtol=2e-3)


def test_a_lost_process_ends_the_others_with_an_error(small_run, tmp_path):
    settings = LITTLE_TO_COMPUTE | {"num_steps": 100_000, "checkpoint_every": 1_000_000, "log_every": 5}
    config = small_run(REGIME, **settings)
    logs = [tmp_path / f"{k}.log" for k in range(2)]
    arguments = several(command(REGIME, tmp_path / "run", config), 2)
    first, second = (start(*some, log=log) for some, log in zip(arguments, logs, strict=True))
    try:
        wait_for(logs[0], first)
        while "[5] train" not in logs[0].read_text():
            assert first.is_alive()
            time.sleep(0.05)
        second.kill()
        assert end_of(first, 200) == 1
        assert "error: process 0 of 2" in logs[0].read_text()
    finally:
        first.kill()
        second.kill()
