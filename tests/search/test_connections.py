"""Real sockets to a real server that bounds its connections."""

import contextlib
import http.client
import socket
import time

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from aladin_jax.search.inputs import Limits
from tests.search.serving import serving as serving_app

LARGE = 8 << 20
SECONDS = 0.5


async def small(request):
    return PlainTextResponse(f"{len(await request.body())} bytes")


async def large(_request):
    return PlainTextResponse("x" * LARGE)


def serving(**limits):
    routes = [Route("/", small, methods=["GET", "POST"]), Route("/large", large)]
    return serving_app(Starlette(routes=routes), Limits(**limits))


@pytest.fixture(scope="module")
def address():
    with serving(connections=200, request_seconds=SECONDS) as (address, _):
        yield address


def answer(address, timeout=20):
    connection = http.client.HTTPConnection(*address, timeout=timeout)
    connection.request("GET", "/")
    with contextlib.closing(connection):
        return connection.getresponse().read()


def opened(address, sent):
    some = socket.create_connection(address, timeout=20)
    some.sendall(sent)
    return some


def ended(some):
    """Whether the server ends the connection within the socket's time, rather than leave it open."""
    try:
        while some.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


UNFINISHED = {
    "nothing": b"",
    "half a head": b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "no body": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
    "half a chunked body": b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "half a second request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHo",
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_a_connection_that_never_finishes_its_request_is_closed_and_others_are_answered(address, sent):
    held = [opened(address, sent) for _ in range(100)]
    assert answer(address) == b"0 bytes"
    assert all(ended(some) for some in held)
    for some in held:
        some.close()


def test_bytes_that_trickle_in_do_not_win_time(address):
    def trickle(some):
        for number in range(200):
            some.sendall(b"X-%d: y\r\n" % number)
            time.sleep(SECONDS / 10)

    with opened(address, b"GET / HTTP/1.1\r\n") as some, pytest.raises((ConnectionResetError, BrokenPipeError)):
        trickle(some)


def test_a_request_that_comes_slowly_but_in_time_is_answered_and_so_is_the_next_on_its_connection():
    with serving(request_seconds=5.0) as (address, _):
        connection = http.client.HTTPConnection(*address, timeout=20)
        for _ in range(2):
            connection.putrequest("POST", "/")
            connection.putheader("Content-Length", "6")
            connection.endheaders()
            for _ in range(3):
                connection.send(b"ab")
                time.sleep(0.02)
            assert connection.getresponse().read() == b"6 bytes"
        connection.close()


def test_an_answer_that_is_never_taken_is_given_up():
    asked = b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 3
    with serving(request_seconds=0.1) as (address, connections), opened(address, asked) as some:
        assert some.recv(10)
        deadline = time.monotonic() + 20
        while connections and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not connections


def test_where_there_are_as_many_connections_as_may_be_the_longest_waiting_makes_room():
    with serving(connections=20, request_seconds=300.0) as (address, connections):
        held = [opened(address, UNFINISHED["half a head"]) for _ in range(60)]
        assert answer(address) == b"0 bytes"
        assert len(connections) <= 20
        held[0].settimeout(20)
        assert ended(held[0])
        held[-1].settimeout(0.2)
        assert not ended(held[-1])
        for some in held:
            some.close()
