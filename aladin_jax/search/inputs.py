"""What the commands and the server take: choices, bounds, and checks of queries."""

from __future__ import annotations

from typing import Literal

MAX_QUERY_CHARACTERS = 1000
MAX_K = 1000
ALL: Literal["all"] = "all"
Depth = int | Literal["all"]

Kind = Literal["hnsw", "ivf"]  # of approximate search, see `ann`
KINDS: tuple[Kind, ...] = ("hnsw", "ivf")
PARTS_DTYPES = ("float32", "float16")  # of the regions and words in an index


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
