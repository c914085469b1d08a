"""A server on a free port of this machine, as `serve` runs it."""

import contextlib
import threading
import time

from aladin_jax.search.connections import server_of


@contextlib.contextmanager
def serving(app, limits):
    """Gives the socket's address, and the server's connections."""
    running = server_of(app, host="127.0.0.1", port=0, limits=limits)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    try:
        yield running.servers[0].sockets[0].getsockname(), running.server_state.connections
    finally:
        running.should_exit = True
        thread.join()


@contextlib.contextmanager
def serving_page(app, limits):
    """Gives the page's URL."""
    with serving(app, limits) as ((host, port), _):
        yield f"http://{host}:{port}/"
