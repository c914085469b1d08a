"""Checks what a query is made of: text, depth, and a picture's record out of a file."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from aladin_jax.data.records import Record
from aladin_jax.search.pictures import read_bounded

MAX_QUERY_CHARACTERS = 1000
MAX_K = 1000
MAX_RECORD_BYTES = 64 << 20
ALL: Literal["all"] = "all"
Depth = int | Literal["all"]


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


def read_record(path: Path, feature_dim: int) -> Record:
    """Reads a picture's regions from a NumPy file: `regions` [n, feature_dim], and `tags` [m] texts, optional.

    Raises:
        ValueError: naming the file and what is wrong with it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        content = io.BytesIO(read_bounded(path))
        with zipfile.ZipFile(content) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_RECORD_BYTES:
                raise ValueError(f"more than {MAX_RECORD_BYTES:,} bytes unpacked")
        with np.load(content, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files if name in ("regions", "tags")}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(f"{path}: not a .npz file that can be read ({str(error)[:100]})") from error
    regions = found.get("regions")
    if regions is None or regions.ndim != 2 or regions.shape[1] != feature_dim or regions.dtype.kind != "f":
        shape = "missing" if regions is None else f"{regions.dtype}{list(regions.shape)}"
        raise ValueError(f"{path}: regions is {shape}; expected float32[n, {feature_dim}]")
    if not len(regions) or not np.isfinite(regions).all():
        raise ValueError(f"{path}: regions must be at least one, and finite")
    tags = found.get("tags", np.zeros(0, "U1"))
    if tags.ndim != 1 or tags.dtype.kind != "U":
        raise ValueError(f"{path}: tags is {tags.dtype}{list(tags.shape)}; expected texts [m]")
    return Record(path.stem, regions.astype(np.float32), [str(tag) for tag in tags], [])
