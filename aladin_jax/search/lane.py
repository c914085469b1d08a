"""Work that the server does in threads, bounded in what is under way and in what waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore
from typing import TypeVar

from prometheus_client import Gauge
from starlette.exceptions import HTTPException

T = TypeVar("T")


class Lane:
    """Threads for work of one kind, so that work of another kind never waits for it.

    Attributes:
        slots: what may be under way and waiting.
    """

    def __init__(self, name: str, gauge: Gauge, *, workers: int, in_flight: int):
        """Starts no thread yet.

        Args:
            name: of its threads.
            gauge: counts what is under way and waiting, of all lanes.
            workers: threads.
            in_flight: pieces of work under way and waiting; beyond, they are refused.
        """
        self.slots = BoundedSemaphore(in_flight)
        self._gauge, self._pool = gauge, ThreadPoolExecutor(workers, thread_name_prefix=name)

    async def run(
        self, work: Callable[..., T], seconds: float, read: Callable[[], Awaitable[bytes]] | None = None
    ) -> T:
        """Runs a piece of work; its slot is free again when it has ended, whoever still waits for it.

        Args:
            work: takes what was read, if anything was.
            seconds: to wait for it.
            read: reads what is still to come of the request. Inside the slot, so that memory is bounded too.

        Raises:
            HTTPException: 503, where too much is under way; or what `read` raises.
            TimeoutError: it did not end in time.
        """
        if not self.slots.acquire(blocking=False):
            raise HTTPException(503, "too many searches at once; try again", {"retry-after": "1"})
        self._gauge.inc()
        try:
            given = () if read is None else (await read(),)
            future: Future[T] = self._pool.submit(work, *given)
        except BaseException:
            self._free()
            raise
        future.add_done_callback(self._free)
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)

    def close(self) -> None:
        """Drops what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _free(self, _future: Future | None = None) -> None:
        self.slots.release()
        self._gauge.dec()
