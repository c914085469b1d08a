"""Real signals to real processes: SIGKILL while indexing, SIGTERM while serving."""

import http.client
import json
import os
import signal
import socket
import time

import pytest

from aladin_jax.search import verification
from aladin_jax.search.index_files import read_manifest
from tests.processes import end_of, start, stop_at
from tests.search import in_parts

REQUESTS = 12  # fewer than are allowed in flight


def test_a_build_killed_twice_goes_on_and_gives_the_index_of_one_that_was_not(scenes_folder, tmp_path):
    path = tmp_path / "index"
    for moment, parts in ((r"part-000001\.unfinished", 1), (r"manifest\.json", 3)):
        stop_at("os.rename", moment, in_parts.__name__, scenes_folder, path, log=tmp_path / "log")
        assert len(list((path / ".unfinished").glob("*/part-*"))) == parts
        with pytest.raises(ValueError, match="unfinished; run the same `index` command again"):
            read_manifest(path)
        (first_part,) = (path / ".unfinished").glob("*/part-000000/image_vectors.npy")
        written = first_part.stat().st_mtime_ns if parts == 1 else written
        assert first_part.stat().st_mtime_ns == written  # not encoded again
    resumed = in_parts.build(scenes_folder, path)
    at_once = in_parts.build(scenes_folder, tmp_path / "at_once")
    assert resumed.segments == at_once.segments  # with the SHA-256 of every file
    assert verification.verify(path) == []
    assert not (path / ".unfinished").exists()


@pytest.fixture
def serving(scenes_index, tmp_path):
    """A process that serves, and its port."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    process = start("aladin_jax.search", "serve", "--index", scenes_index, "--port", port, log=tmp_path / "log")
    deadline = time.monotonic() + 120
    while True:
        assert process.is_alive(), f"ended with status {process.exitcode}"
        assert time.monotonic() < deadline
        with socket.socket() as asking:
            if asking.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield process, port
    process.kill()
    process.join()


def test_sigterm_ends_serving_with_status_0_once_what_is_under_way_is_answered(serving):
    process, port = serving
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(REQUESTS)]
    for connection in connections:
        connection.request("GET", "/api/search?rerank=all&k=100&q=" + "red+square+" * 80)
    answers = [connections[0].getresponse()]
    os.kill(process.pid, signal.SIGTERM)
    answers += [connection.getresponse() for connection in connections[1:]]
    assert [answer.status for answer in answers] == [200] * REQUESTS
    assert all(len(json.loads(answer.read())["results"]) == 24 for answer in answers)
    assert end_of(process, 60) == 0
    for connection in connections:
        connection.close()
