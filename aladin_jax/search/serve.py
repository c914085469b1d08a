"""The web page and JSON API of an index: read only, bounded in what it takes and in what it does at once."""

from __future__ import annotations

import contextlib
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aladin_jax.search import openapi
from aladin_jax.search.connections import server_of
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import ALL, Depth, Limits, check_depth
from aladin_jax.search.lane import Lane
from aladin_jax.search.query import Results, Searcher, Subject
from aladin_jax.search.uploads import Uploads

PAGE = Path(__file__).parent / "page"
PAGE_FILES = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js"}
EXAMPLES, MAX_EXAMPLE = 6, 120  # captions to ask with; characters of the longest
LOOPBACK: tuple[str, ...] = ("127.0.0.1", "localhost", "::1")
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class SearchServer:
    """Handlers of one index."""

    def __init__(self, searcher: Searcher, limits: Limits, uploads: Uploads | None = None):
        """Prepares everything that a first request would otherwise wait for.

        Args:
            searcher: asks the index.
            limits: what the server takes.
            uploads: makes questions of pictures that are not in the index; None refuses them.
        """
        self._searcher, self._index, self._limits, self._uploads = searcher, searcher.index, limits, uploads
        self._live_ids = list(self._index.row_of_id)
        self._examples = _examples(self._index)
        with contextlib.suppress(ValueError):  # of a vocabulary without these words: the first query waits then
            for depth in (0, 10, 30, 100, 300):
                text = next(iter(self._examples), "a picture of a thing")
                searcher.find_images(text, rerank=min(depth, limits.max_depth))
        if uploads is not None:
            uploads.warm_up()
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "aladin_search_requests", "Searches answered", ["kind", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "aladin_search_seconds", "Seconds of a stage", ["kind", "stage"], registry=self.registry
        )
        in_flight = Gauge("aladin_search_in_flight", "Searches under way or waiting", registry=self.registry)
        self._searches = Lane("search", in_flight, workers=limits.workers, in_flight=limits.in_flight)
        self._pictures = Lane("picture", in_flight, workers=1, in_flight=limits.pictures_in_flight)
        Gauge("aladin_search_images", "Images in the index", registry=self.registry).set(len(self._live_ids))

    def app(self, hosts: list[str] | None = None) -> Starlette:
        """The application; `hosts` are the names it may be called by, None for any."""
        routes = [
            *(Route(path, functools.partial(_page, name)) for path, name in PAGE_FILES.items()),
            Route("/favicon.ico", _no_icon),
            Route("/pictures/{id}", self.picture),
            Route("/api/search", self.search),
            Route("/api/captions", self.captions, methods=["GET", "POST"]),
            Route("/api/similar", self.similar, methods=["GET", "POST"]),
            Route("/api/images", self.images),
            Route("/api/info", self.info),
            Route("/api/openapi.json", _description),
            Route("/metrics", self.metrics),
        ]
        middleware = [Middleware(safe_headers)]
        if hosts is not None:
            middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=hosts))

        @contextlib.asynccontextmanager
        async def lifespan(_app: Starlette):
            yield
            self._searches.close()
            self._pictures.close()

        handlers: Any = {HTTPException: _refused, Exception: _failed}
        return Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)

    async def search(self, request: Request) -> Response:
        """Pictures for words."""
        text, (k, rerank) = request.query_params.get("q", ""), self._sizes(request, len(self._live_ids))
        find = functools.partial(self._searcher.find_images, text, k=k, rerank=rerank)
        return await self._run("search", self._searches, find, {"query": text})

    async def captions(self, request: Request) -> Response:
        """Captions for a picture."""
        k, rerank = self._sizes(request, len(self._index.captions.live_rows))
        find = functools.partial(self._searcher.find_captions, k=k, rerank=rerank)
        return await self._ask_with_picture("captions", request, lambda subject, _row: find(subject))

    async def similar(self, request: Request) -> Response:
        """Pictures like a picture."""
        find = functools.partial(self._searcher.find_similar, k=_count(request, "k", 10, 1, self._limits.max_k))
        return await self._ask_with_picture("similar", request, lambda subject, row: find(subject, leave_out=row))

    async def _ask_with_picture(
        self, kind: str, request: Request, find: Callable[[Subject, int | None], Results]
    ) -> Response:
        """With one of the index, by its id; or with the one that the request brings."""
        if request.method != "POST":
            image_id = request.query_params.get("id", "")
            row, subject = self._row(image_id), self._searcher.subject_of_image
            return await self._run(kind, self._searches, lambda: find(subject(row), row), {"image": image_id})
        uploads = self._uploads
        if uploads is None:
            raise HTTPException(405, "this server takes no pictures; start it with --extractor DIR", {"allow": "GET"})
        read, search = functools.partial(uploads.read, request), lambda content: find(uploads.subject(content), None)
        return await self._run(kind, self._pictures, search, {}, read)

    async def images(self, request: Request) -> Response:
        """Some images of the index, in its order."""
        offset, limit = _count(request, "offset", 0, 0, 10**9), _count(request, "limit", 48, 1, self._limits.max_k)
        ids = self._live_ids[offset : offset + limit]
        rows = [(image_id, self._index.row(image_id)) for image_id in ids]
        found = [{"id": name, "tags": self._index.tags(row), "file": self._index.file(row)} for name, row in rows]
        return JSONResponse({"total": len(self._live_ids), "results": found})

    async def info(self, _request: Request) -> Response:
        """What the index holds."""
        manifest = self._index.manifest
        about = {"images": manifest.images, "captions": manifest.captions, "fingerprint": manifest.fingerprint}
        about |= {"model": Path(manifest.model_source).name, "max_depth": self._limits.max_depth}
        about |= {"max_picture_bytes": 0 if self._uploads is None else self._limits.picture_bytes}
        return JSONResponse(about | {"examples": self._examples})

    async def picture(self, request: Request) -> Response:
        """A picture's JPEG file, out of the index: an id is looked up, and never becomes a path."""
        content = self._index.picture(self._row(request.path_params["id"]))
        if not content:
            raise HTTPException(404, "this image has no picture")
        return Response(content, media_type="image/jpeg", headers={"cache-control": "max-age=3600"})

    async def metrics(self, _request: Request) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)

    async def _run(
        self, kind: str, lane: Lane, search: Callable[..., Results], asked: dict[str, str], read: Any = None
    ) -> Response:
        """Answers with what a search finds; see `Lane.run`."""
        status, headers = 200, None
        try:
            results = await lane.run(search, self._limits.seconds, read)
        except HTTPException as error:
            status, headers, answer = error.status_code, error.headers, {"error": error.detail}
        except TimeoutError:
            status, answer = 504, {"error": f"no answer within {self._limits.seconds:g} seconds"}
        except ValueError as error:
            status, answer = 400, {"error": str(error)}
        else:
            for stage, milliseconds in results.milliseconds.items():
                self._seconds.labels(kind, stage).observe(milliseconds / 1e3)
            answer = asked | results.to_json()
        self._requests.labels(kind, str(status)).inc()
        return JSONResponse(answer, status, headers=headers)

    def _row(self, image_id: str) -> int:
        row = self._index.row_of_id.get(image_id)
        if row is None:
            raise HTTPException(404, "no such image in the index")
        return row

    def _sizes(self, request: Request, total: int) -> tuple[int, Depth]:
        k = _count(request, "k", 10, 1, self._limits.max_k)
        try:
            rerank = check_depth(request.query_params.get("rerank", str(min(100, self._limits.max_depth))))
        except ValueError as error:
            raise HTTPException(400, str(error)) from error
        depth = total if rerank == ALL else min(int(rerank), total)
        if depth > self._limits.max_depth:
            raise HTTPException(400, f"rerank would be {depth}; this server re-ranks at most {self._limits.max_depth}")
        return k, rerank


def safe_headers(app: ASGIApp) -> ASGIApp:
    """Adds the headers that keep a browser from doing what the page does not."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_safe(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await app(scope, receive, send_safe)

    return answer


def serve(searcher: Searcher, *, host: str, port: int, limits: Limits, uploads: Uploads | None = None) -> None:
    """Serves until SIGTERM or SIGINT; answers what is under way first."""
    hosts = list(LOOPBACK) if host in LOOPBACK else None
    server = server_of(SearchServer(searcher, limits, uploads).app(hosts), host=host, port=port, limits=limits)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises the signal again once it has stopped
        signal.signal(number, lambda *_: None)
    server.run()


def _examples(index: Index) -> list[str]:
    """Some captions of images that are not deleted, of as many places of the index, each once."""
    rows = index.captions.live_rows
    places = np.linspace(0, len(rows) - 1, 4 * EXAMPLES).astype(int) if len(rows) else []
    texts = dict.fromkeys(index.caption(int(rows[place])).strip() for place in places)
    short = [text for text in texts if 0 < len(text) <= MAX_EXAMPLE]
    return short[:: max(len(short) // EXAMPLES, 1)][:EXAMPLES]


async def _page(name: str, _request: Request) -> Response:
    return FileResponse(PAGE / name)


async def _no_icon(_request: Request) -> Response:
    return Response(status_code=204)  # browsers ask for it unbidden


async def _description(_request: Request) -> Response:
    return JSONResponse(openapi.DESCRIPTION)


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _failed(_request: Request, _error: Exception) -> Response:
    return JSONResponse({"error": "something went wrong in the server; its log says what"}, 500)


def _count(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and least <= int(text) <= most):
        raise HTTPException(400, f"{name} is {text[:20]!r}; expected {least} to {most}")
    return int(text)
