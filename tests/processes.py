"""Real processes of this repository's programs, forked from one that has loaded what they load.

Loading JAX, Orbax and TensorFlow takes longer than most of these runs. How the programs start by themselves is seen
where tests run Python, as test_front_door.py does.
"""

import atexit
import itertools
import multiprocessing
import os
import re
import runpy
import signal
import sys
import time
from pathlib import Path

import jax

ROOT = Path(__file__).parents[1]

_CACHE = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("aladin_jax.training.loop", "aladin_jax.evaluation.report", "aladin_jax.evaluation.figure"),
        *("aladin_jax.search.commands", "convert.dataset.coco_ir", "demo.builder"),
        *("clu.metric_writers", "clu.parameter_overview", "ml_collections.config_flags", "tensorflow"),
    ]
)


def start(module, *arguments, log, moment=None):
    """Starts `python -m MODULE ARGUMENTS` on a CPU, whose output goes to a file."""
    cache = {name: getattr(jax.config, name) for name in _CACHE}
    given = module, [str(argument) for argument in arguments], str(log), moment, dict(os.environ), cache
    process = _FORKS.Process(target=_run, args=given)
    process.start()
    return process


def run(module, *arguments, log, **options):
    """Runs a program to its end; returns its exit status, which is below 0 if a signal ended it."""
    return end_of(start(module, *arguments, log=log, **options))


def end_of(process, seconds=300):
    """Waits for a process to end; returns its exit status. One that does not is killed, or pytest would wait for it."""
    process.join(timeout=seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{process.name} did not end within {seconds} s")
    return process.exitcode


def stop_at(event, pattern, module, *arguments, log, times=1, number=signal.SIGKILL):
    """Runs a program, and has a signal come at one exact moment, which has to end it.

    The moment is when Python is about to do `event` (`os.mkdir`, `os.rename`, ...) for the `times`-th time to a path
    that `pattern` fits: what stands on the disk then is what a kill at that moment leaves.
    """
    status = run(module, *arguments, log=log, moment=(event, pattern, times, number))
    # One that saves first ends with the status that a shell would give.
    assert status == (-number if number == signal.SIGKILL else 128 + number), log.read_text()


def wait_for(path, process, seconds=240):
    """Waits until a file or folder exists, while the process runs."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.is_alive(), f"ended with status {process.exitcode} before {path}"
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.02)


def _run(module, arguments, log, moment, environment, cache):
    """What the new process does."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    for name, value in {**cache, "jax_platforms": "cpu"}.items():
        jax.config.update(name, value)
    if moment:
        _send_signal(*moment)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as Python does; multiprocessing does not


def _send_signal(event, pattern, times, number):
    met = itertools.count(1)

    def hook(happening, arguments):
        if happening == event and re.search(pattern, str(arguments[0])) and next(met) == times:
            os.kill(os.getpid(), number)

    sys.addaudithook(hook)
