"""Bounds on connections, which uvicorn does not have: how many there are, and how long one may take for its request."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from aladin_jax.search.inputs import Limits

_NOT_WAITING = float("inf")
_ANSWER = 6.0  # times a request's seconds: some 200 KB over a slow line


class BoundedConnection(H11Protocol):
    """A connection whose client must send its request, and take the answer, in time.

    A request's time runs from the connection's start, or after an earlier answer from its first byte, to the last byte
    of its body, however slowly bytes come; the answer's from when it was written. Where there are as many connections
    as may be, the one that has waited longest for its request makes room for the next.
    """

    def __init__(self, *arguments: Any, most: int, seconds: float, **options: Any):
        """Bounds one connection.

        Args:
            *arguments: of `H11Protocol`.
            most: connections at once.
            seconds: that a request may take to come; an answer may take six times as long to be taken.
            **options: of `H11Protocol`.
        """
        super().__init__(*arguments, **options)
        self._most, self._seconds = most, seconds
        self._timer: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    @property
    def waits_since(self) -> float:
        """When it began to wait for its request, in the loop's time; infinite if it does not."""
        return _NOT_WAITING if self._timer is None else self._timer.when() - self._seconds

    def connection_made(self, transport: Any) -> None:
        """Takes the connection, if there is room."""
        if len(self.connections) >= self._most:
            others = [other for other in self.connections if isinstance(other, BoundedConnection)]
            longest = min(others, key=lambda other: other.waits_since, default=None)
            if longest is None or longest.waits_since == _NOT_WAITING:
                self.transport = transport
                transport.abort()
                return
            longest.end()
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop()
        if self._taking is not None:
            self._taking.cancel()
        if self.flow is not None:  # else it was not taken
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes some bytes of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Begins to wait for the next request, and for the answer to be taken."""
        super().on_response_complete()
        self._watch()
        if self._taking is not None:
            self._taking.cancel()
        self._taking = self.loop.call_later(_ANSWER * self._seconds, self._end_if_not_taken)

    def pause_writing(self) -> None:
        """Learns that the client takes an answer more slowly than it is written."""
        super().pause_writing()
        if self._taking is None:
            self._taking = self.loop.call_later(_ANSWER * self._seconds, self._end_if_not_taken)

    def end(self) -> None:
        """Ends the connection at once."""
        self._stop()
        self.connections.discard(self)
        self.transport.abort()

    def _watch(self) -> None:
        """Starts the time of a request that is on its way, or stops that of one that is there."""
        state = self.conn.their_state
        idle = state is h11.IDLE and self.timeout_keep_alive_task is not None  # uvicorn ends it if it stays so
        if state not in (h11.IDLE, h11.SEND_BODY) or idle:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._seconds, self.end)

    def _end_if_not_taken(self) -> None:
        self._taking = None
        if self.transport.get_write_buffer_size():
            self.end()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def server_of(app: Starlette, *, host: str, port: int, limits: Limits) -> uvicorn.Server:
    """A server of the application, not started, that bounds connections as well."""
    bounded: Any = functools.partial(BoundedConnection, most=limits.connections, seconds=limits.request_seconds)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=bounded,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=10,
        h11_max_incomplete_event_size=16384,
        server_header=False,
    )
    return uvicorn.Server(config)
