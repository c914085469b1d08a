"""Dispatches `size` items ahead, so that the device works while the host waits."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def look_ahead(items: Iterable[T], size: int) -> Iterator[T]:
    """Yields items in order, each once `size` more have been made (dispatched, or sent to a device)."""
    waiting: collections.deque[T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > size:
            yield waiting.popleft()
    yield from waiting
