"""Pictures that are sent to the server as questions: bounded, read in a process of their own, gone with the answer."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from aladin_jax.search.asked_picture import open_region_maker
from aladin_jax.search.decoding import read_picture_apart
from aladin_jax.search.inputs import Limits
from aladin_jax.search.query import Searcher, Subject


class Uploads:
    """Makes questions of the pictures that requests bring."""

    def __init__(self, searcher: Searcher, extractor: Path, limits: Limits):
        """Loads the detector or encoder that the index's features were made with.

        Raises:
            DataError: see `open_region_maker`.
        """
        features, feature_dim = searcher.index.manifest.features, searcher.queries.feature_dim
        self._regions = open_region_maker(extractor, features, feature_dim)
        self._searcher, self._limits = searcher, limits

    def warm_up(self) -> None:
        """Compiles what pictures need."""
        self._searcher.encode_record(self._regions(Image.new("RGB", (64, 64))))

    async def read(self, request: Request) -> bytes:
        """A request's body.

        A page of another site can send forms, but no other types: what it cannot ask for is all that is taken.

        Raises:
            HTTPException: it is of another type, larger than it may be, or does not come whole.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith("image/") and kind != "application/octet-stream":
            raise HTTPException(415, "send a picture's file as the body, with content-type image/jpeg or the like")
        most, content = self._limits.picture_bytes, bytearray()
        too_large = HTTPException(413, f"the picture's file has more than {most:,} bytes; make it smaller")
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
        try:
            async for piece in request.stream():
                content += piece
                if len(content) > most:
                    raise too_large
        except ClientDisconnect as error:
            raise HTTPException(408, "the picture did not come whole, or not in time") from error
        return bytes(content)

    def subject(self, content: bytes) -> Subject:
        """The picture of a file, as a query.

        Raises:
            ValueError: it is no picture, takes too much to be read, or nothing is found in it.
        """
        limits = self._limits
        image = read_picture_apart(content, max_pixels=limits.picture_pixels, seconds=limits.seconds)
        return self._searcher.encode_record(self._regions(image))
