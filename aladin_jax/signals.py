"""Ctrl-C in commands that have nothing to save first."""

import os
import signal


def exit_on_interrupt(message: str) -> None:
    """From now on Ctrl-C ends the process at once: one line on stderr, exit code 130.

    Python's KeyboardInterrupt would be lost where it comes amid a callback of XLA, and be another error amid the
    loading of an extension module.

    Args:
        message: what has become of the work.
    """

    def end(_number: int, _frame: object) -> None:
        os.write(2, f"\nerror: interrupted; {message}\n".encode())
        os._exit(128 + signal.SIGINT)

    signal.signal(signal.SIGINT, end)
