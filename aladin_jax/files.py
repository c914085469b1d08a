"""Files that are either whole or not there, and JSON that is either sound or refused."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aladin_jax.errors import first_line

_MAX_JSON_BYTES = 16 << 20


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file under a temporary name beside its own and renames it, so that no reader sees half of it.

    Args:
        path: the file; its folder must exist. An earlier file is replaced.
        content: all its bytes.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(finished: Path, path: Path) -> None:
    """Gives a finished folder its name; an earlier one of that name is removed once the new one is there."""
    replaced = path.with_name(f".{path.name}.replaced")
    if path.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        path.rename(replaced)
    try:
        finished.rename(path)
    except BaseException:
        if replaced.exists():
            replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, with or without a byte order mark before it.

    Raises:
        ValueError: naming the file, which is too large, not JSON, nested too deep, or not an object, or the field
            that is NaN or infinite.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_JSON_BYTES:,} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _finite(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    for name, value in pairs:
        todo = [value]
        while todo:
            item = todo.pop()
            if isinstance(item, list):
                todo += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError(f"{name[:80]!r} is {item}, not a finite number")
    return dict(pairs)
