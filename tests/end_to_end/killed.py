"""Runs `python -m aladin_jax.main`, and has the operating system kill it at one exact moment.

python -m tests.end_to_end.killed EVENT PATTERN [arguments of aladin_jax.main ...]

The moment is the first time that Python is about to do EVENT (`os.mkdir`, `os.rename`, ...) to a path that PATTERN
fits: what stands on the disk then is what a kill at that moment leaves.
"""

import os
import re
import runpy
import signal
import sys

if __name__ == "__main__":
    event, pattern = sys.argv[1:3]

    def hook(name, arguments):
        if name == event and re.search(pattern, str(arguments[0])):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["aladin_jax.main", *sys.argv[3:]]
    sys.addaudithook(hook)
    runpy.run_module("aladin_jax.main", run_name="__main__")
