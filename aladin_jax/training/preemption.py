"""What stops a run before its end: a signal, or the loss of another process."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging

from aladin_jax import sharding
from aladin_jax.errors import first_line


class Interruption:
    """Whether SIGTERM or SIGINT came; the loop looks at it between steps, so that it can save first."""

    def __init__(self):
        self.signal = 0  # the number of the one that came

    def agreed(self) -> int:
        """The signal's number, if it came to any of the processes; 0 if not."""
        return int(sharding.largest_of_processes(np.asarray(self.signal)))

    @contextlib.contextmanager
    def caught(self) -> Iterator[Interruption]:
        """Catches the signals inside the block; a second one acts as it would have without us."""
        previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def note(number, _frame):
            self.signal = number
            logging.warning("%s: saving after this step", signal.Signals(number).name)
            for other, handler in previous.items():
                signal.signal(other, handler)

        for number in previous:
            signal.signal(number, note)
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Of several processes, ends one that fails at once, with one line: the others then fail too, instead of waiting.

    An orderly end (closing checkpoints, leaving the cluster) would itself wait a minute for the processes that are
    gone. Alone, errors pass through.
    """
    try:
        yield
    except Exception as error:
        if jax.process_count() == 1:
            raise
        print(
            f"error: process {jax.process_index()} of {jax.process_count()}: {first_line(error, 1000)}; "
            "once that is mended, or another process that was lost is back, start all again: they go on from the "
            "newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
