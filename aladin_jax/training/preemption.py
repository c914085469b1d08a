"""What stops a run before its end: a signal, the loss of another process, or a loss that is not finite."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Iterator

import jax
import numpy as np
from absl import logging

from aladin_jax import sharding


class Interruption:
    """Whether SIGTERM or SIGINT came; the loop looks at it between steps, so that it can save first."""

    def __init__(self):
        """Not yet."""
        self.signal = 0

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
        reason = str(error).partition("\n")[0]
        print(
            f"error: process {jax.process_index()} of {jax.process_count()}: {reason}; once that is mended, or another "
            "process that was lost is back, start all again: they go on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


class FiniteWatch:
    """Remembers losses on the device and looks at them only now and then: looking waits for the device."""

    def __init__(self):
        """Nothing seen yet."""
        self._unseen: list[tuple[int, dict[str, jax.Array]]] = []

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Notes a step's loss and gradient norm."""
        self._unseen.append((step, {name: metrics[name] for name in ("loss", "grad_norm")}))

    def check(self, last_good: int | None) -> None:
        """Looks at all steps noted since the last check.

        Args:
            last_good: step of the newest checkpoint, for the message.

        Raises:
            FloatingPointError: naming the first step whose loss or gradient is not finite.
        """
        unseen, self._unseen = jax.device_get(self._unseen), []
        for step, values in unseen:
            for name, value in values.items():
                if not math.isfinite(value):
                    kept = "there is no checkpoint yet" if last_good is None else f"checkpoint {last_good} is kept"
                    raise FloatingPointError(
                        f"step {step}: {name} is {value}; {kept}; try a lower learning_rate or grad_clip, or float32"
                    )
