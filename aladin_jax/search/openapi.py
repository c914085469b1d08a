"""The OpenAPI description of the JSON API."""

from __future__ import annotations

from typing import Any

from aladin_jax.search.inputs import MAX_QUERY_CHARACTERS, Limits

MAX_K = Limits.max_k
_ERRORS = {
    "400": "a parameter is missing or outside its bounds",
    "404": "no such image",
    "405": "the server takes no pictures: it was started without --extractor",
    "408": "the picture did not come whole, or not in time",
    "413": "the picture's file is too large",
    "415": "the body is not said to be a picture",
    "503": "too many searches at once; try again after Retry-After seconds",
    "504": "no answer in time",
}
_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_Schema = dict[str, Any]


def _integer(minimum: int, **more: int) -> _Schema:
    return {"type": "integer", "minimum": minimum, **more}


def _list(items: _Schema, description: str = "") -> _Schema:
    return {"type": "array", "items": items} | ({"description": description} if description else {})


def _object(**properties: _Schema) -> _Schema:
    return {"type": "object", "properties": properties}


def _parameter(name: str, about: str, schema: _Schema, required: bool = False) -> _Schema:
    return {"name": name, "in": "query", "description": about, "required": required, "schema": schema}


def _operation(summary: str, parameters: list[_Schema], answer: _Schema, *errors: str) -> _Schema:
    responses: _Schema = {"200": {"description": "found", "content": {"application/json": {"schema": answer}}}}
    error = {"application/json": {"schema": _object(error=_TEXT)}}
    responses |= {code: {"description": _ERRORS[code], "content": error} for code in errors}
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _about_a_picture(what: str, parameters: list[_Schema], answer: _Schema) -> _Schema:
    """One of the index, by its id; or one of one's own, whose file is the request's body and is not kept."""
    asked = _parameter("id", "of the picture", _TEXT, required=True)
    by_id = _operation(f"{what} of the index", [asked, *parameters], answer, "400", "404", "503", "504")
    errors = ("400", "405", "408", "413", "415", "503", "504")
    by_file = _operation(f"{what} of one's own", parameters, answer, *errors)
    body = {
        "required": True,
        "description": f"a picture's file, of at most {Limits.picture_bytes:,} bytes and {Limits.picture_pixels:,} "
        "pixels; it is not kept",
        "content": {kind: {} for kind in ("image/*", "application/octet-stream")},
    }
    return {"get": by_id, "post": by_file | {"requestBody": body}}


def _results(**fields: _Schema) -> _Schema:
    box = {"type": ["array", "null"], "items": _NUMBER, "description": "x1, y1, x2, y2 as shares of width and height"}
    region, tag = {"type": ["integer", "null"]}, {"type": ["string", "null"]}
    why = _list(
        _object(word=_TEXT, score=_NUMBER, region=region, box=box, tag=tag),
        "the region that answered each word; with pooling MrSw the scores add up to the alignment score",
    )
    hit = _object(rank=_INTEGER, id=_TEXT, matching=_NUMBER, alignment={"type": ["number", "null"]}, why=why, **fields)
    return _object(
        rerank=_INTEGER,
        note=_TEXT,
        left_out=_list(_object(text=_TEXT, reason=_TEXT), "words of the text that did not count"),
        milliseconds=_object(encode=_NUMBER, match=_NUMBER, rerank=_NUMBER, explain=_NUMBER),
        results=_list(hit),
    )


_IMAGE = {"tags": _list(_TEXT), "file": _TEXT}
_Q = _parameter(
    "q", "what the picture shows", {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARACTERS}, required=True
)
_K = _parameter("k", "how many results", _integer(1, maximum=MAX_K, default=10))
_DEPTH = {"oneOf": [_integer(0), {"const": "all"}], "default": 100}
_RERANK = _parameter("rerank", "candidates that the alignment head re-ranks", _DEPTH)
_OFFSET = _parameter("offset", "how many to leave out", _integer(0, default=0))
_LIMIT = _parameter("limit", "how many", _integer(1, maximum=MAX_K, default=48))
_IMAGES = _object(total=_INTEGER, results=_list(_object(id=_TEXT, **_IMAGE)))
_INFO = _object(
    images=_INTEGER,
    captions=_INTEGER,
    fingerprint=_TEXT,
    model=_TEXT,
    max_depth=_INTEGER,
    max_picture_bytes={"type": "integer", "description": "0 if no picture is taken"},
    examples=_list(_TEXT, "captions of the index, to ask with"),
)

_SEARCH = _operation("Pictures for words", [_Q, _K, _RERANK], _results(**_IMAGE), "400", "503", "504")
DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "ALADIN search", "version": "1"},
    "paths": {
        "/api/search": {"get": _SEARCH},
        "/api/captions": _about_a_picture("Captions for a picture", [_K, _RERANK], _results(caption=_TEXT)),
        "/api/similar": _about_a_picture("Pictures like a picture", [_K], _results(**_IMAGE)),
        "/api/images": {"get": _operation("Images of the index, in its order", [_OFFSET, _LIMIT], _IMAGES, "400")},
        "/api/info": {"get": _operation("What the index holds", [], _INFO)},
    },
}
