"""What the commands and the server take: choices, bounds, and checks of queries."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

MAX_QUERY_CHARACTERS = 1000
MAX_K = 1000
ALL: Literal["all"] = "all"
Depth = int | Literal["all"]

Kind = Literal["hnsw", "ivf"]  # of approximate search, see `ann`
KINDS: tuple[Kind, ...] = ("hnsw", "ivf")
PARTS_DTYPES = ("float32", "float16")  # of the regions and words in an index
COLLECTION_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # of Qdrant
MAX_SHARDS = 10_000
QUANTIZATIONS = ("none", "int8")  # of dense vectors in Qdrant


@dataclasses.dataclass(frozen=True)
class Limits:
    """What the server takes.

    Attributes:
        max_k: results of a request.
        max_depth: candidates re-ranked; "all" is allowed where the index has no more images.
        in_flight: searches under way and waiting; beyond, the answer is 503.
        workers: searches under way at once.
        seconds: after which a search is answered with 504.
        connections: at once.
        request_seconds: that a request may take to come, from its first byte to its last.
        picture_bytes: of a picture's file.
        picture_pixels: of it; each takes three bytes.
        pictures_in_flight: that come, wait or are asked with, one at a time; beyond, the answer is 503.
    """

    max_k: int = 100
    max_depth: int = 1000
    in_flight: int = 16
    workers: int = 2
    seconds: float = 10.0
    connections: int = 500
    request_seconds: float = 10.0
    picture_bytes: int = 20 << 20
    picture_pixels: int = 64 << 20
    pictures_in_flight: int = 4


def check_query(text: str) -> str:
    """Checks a text query.

    Raises:
        ValueError: it is empty, too long, or not text.
    """
    stripped = text.strip()
    if not stripped:
        raise ValueError("the query is empty; say what the picture shows")
    if len(stripped) > MAX_QUERY_CHARACTERS:
        raise ValueError(f"the query has {len(stripped)} characters; at most {MAX_QUERY_CHARACTERS} are allowed")
    if any((ord(c) < 32 and c not in "\t\n\r") or 0xD800 <= ord(c) < 0xE000 for c in stripped):
        raise ValueError("the query holds control characters or half of a surrogate pair; give plain text")
    return stripped


def check_depth(rerank: str | int) -> Depth:
    """Reads a re-ranking depth: a count from 0, or "all".

    Raises:
        ValueError: it is neither.
    """
    if rerank == ALL:
        return ALL
    if isinstance(rerank, str) and rerank.isascii() and rerank.isdigit() and len(rerank) <= 9:
        return int(rerank)
    if isinstance(rerank, int) and not isinstance(rerank, bool) and rerank >= 0:
        return rerank
    raise ValueError(f"rerank is {str(rerank)[:20]!r}; expected a count from 0, or all")


def check_shard(text: str) -> tuple[int, int]:
    """Reads "i/n", the i-th of n parts of a data set, counted from 1.

    Raises:
        ValueError: it is not that.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,4})/([1-9][0-9]{0,4})", text)
    number, count = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= number <= count <= MAX_SHARDS:
        raise ValueError(f"shard is {text[:20]!r}; expected i/n, for example 2/3 for the second of three parts")
    return number, count


def check_collection(name: str) -> str:
    """Checks the name of a Qdrant collection.

    Raises:
        ValueError: it holds other characters than it may.
    """
    if not COLLECTION_NAME.fullmatch(name):
        raise ValueError(f"collection is {name[:40]!r}; expected 1 to 128 of A-Z a-z 0-9 _ . -")
    return name
