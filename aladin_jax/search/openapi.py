"""The OpenAPI description of the JSON API."""

from __future__ import annotations

from typing import Any

from aladin_jax.search.inputs import MAX_QUERY_CHARACTERS, Limits

MAX_K = Limits.max_k


def _parameter(name: str, about: str, schema: dict[str, Any], required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": about, "required": required, "schema": schema}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _operation(summary: str, parameters: list[dict[str, Any]], answer: dict[str, Any], *errors: str) -> dict[str, Any]:
    about = {
        "400": "a parameter is missing or outside its bounds",
        "404": "no such image",
        "405": "the server takes no pictures: it was started without --extractor",
        "408": "the picture did not come whole, or not in time",
        "413": "the picture's file is too large",
        "415": "the body is not said to be a picture",
        "503": "too many searches at once; try again after Retry-After seconds",
        "504": "no answer in time",
    }
    responses: dict[str, Any] = {"200": {"description": "found", "content": {"application/json": {"schema": answer}}}}
    error = {"application/json": {"schema": _object(error=_TEXT)}}
    responses |= {code: {"description": about[code], "content": error} for code in errors}
    return {"summary": summary, "parameters": parameters, "responses": responses}


def _about_a_picture(what: str, parameters: list[dict[str, Any]], answer: dict[str, Any]) -> dict[str, Any]:
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


_TEXT, _NUMBER, _INTEGER = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_BOX = {"type": ["array", "null"], "items": _NUMBER, "description": "x1, y1, x2, y2 as shares of width and height"}
_WHY = {
    "type": "array",
    "description": "the region that answered each word; with pooling MrSw the scores add up to the alignment score",
    "items": _object(
        word=_TEXT, score=_NUMBER, region={"type": ["integer", "null"]}, box=_BOX, tag={"type": ["string", "null"]}
    ),
}
_HIT = {"rank": _INTEGER, "id": _TEXT, "matching": _NUMBER, "alignment": {"type": ["number", "null"]}, "why": _WHY}
_STAGES = _object(encode=_NUMBER, match=_NUMBER, rerank=_NUMBER, explain=_NUMBER)
_LEFT_OUT = {
    "type": "array",
    "description": "words of the text that did not count",
    "items": _object(text=_TEXT, reason=_TEXT),
}
_TAGS = {"type": "array", "items": _TEXT}
_K = _parameter("k", "how many results", {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 10})
_RERANK = _parameter(
    "rerank",
    "candidates that the alignment head re-ranks",
    {"oneOf": [{"type": "integer", "minimum": 0}, {"const": "all"}], "default": 100},
)


def _results(**fields: Any) -> dict[str, Any]:
    return _object(
        rerank=_INTEGER,
        note=_TEXT,
        left_out=_LEFT_OUT,
        milliseconds=_STAGES,
        results={"type": "array", "items": _object(**_HIT, **fields)},
    )


DESCRIPTION: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "ALADIN search", "version": "1"},
    "paths": {
        "/api/search": {
            "get": _operation(
                "Pictures for words",
                [
                    _parameter(
                        "q",
                        "what the picture shows",
                        {"type": "string", "minLength": 1, "maxLength": MAX_QUERY_CHARACTERS},
                        required=True,
                    ),
                    _K,
                    _RERANK,
                ],
                _results(tags=_TAGS, file=_TEXT),
                "400",
                "503",
                "504",
            )
        },
        "/api/captions": _about_a_picture("Captions for a picture", [_K, _RERANK], _results(caption=_TEXT)),
        "/api/similar": _about_a_picture("Pictures like a picture", [_K], _results(tags=_TAGS, file=_TEXT)),
        "/api/images": {
            "get": _operation(
                "Images of the index, in its order",
                [
                    _parameter("offset", "how many to leave out", {"type": "integer", "minimum": 0, "default": 0}),
                    _parameter("limit", "how many", {"type": "integer", "minimum": 1, "maximum": MAX_K, "default": 48}),
                ],
                _object(total=_INTEGER, results={"type": "array", "items": _object(id=_TEXT, tags=_TAGS, file=_TEXT)}),
                "400",
            )
        },
        "/api/info": {
            "get": _operation(
                "What the index holds",
                [],
                _object(
                    images=_INTEGER,
                    captions=_INTEGER,
                    fingerprint=_TEXT,
                    model=_TEXT,
                    max_depth=_INTEGER,
                    max_picture_bytes={
                        "type": "integer",
                        "description": "0 if no picture is taken",
                    },
                    examples={"type": "array", "items": _TEXT, "description": "captions of the index, to ask with"},
                ),
            )
        },
    },
}
