"""The work of one query on all processors: NumPy and XLA give up the interpreter's lock while they compute."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

PROCESSORS = os.cpu_count() or 1

_Piece = TypeVar("_Piece")
_Result = TypeVar("_Result")


def on_all(function: Callable[[_Piece], _Result], pieces: Sequence[_Piece]) -> list[_Result]:
    """Calls a function with each piece, and returns what it gives in their order.

    This thread takes one piece after the other, and idle ones help; where all are busy with other queries, it does not
    wait for them.
    """
    found: list = [None] * len(pieces)
    todo = iter(list(enumerate(pieces)))

    def work() -> None:
        for place, piece in todo:
            found[place] = function(piece)

    helpers = [_threads().submit(work) for _ in range(min(PROCESSORS, len(pieces)) - 1)]
    work()
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    return found


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(PROCESSORS, "processors")
