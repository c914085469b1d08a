"""Files that are either whole or not there, and JSON that is taken from them."""

import json
import math
import os
from pathlib import Path
from typing import Any

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


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{path}: this folder cannot be made ({error.strerror}); name another") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ValueError: naming the file, which is too large, not JSON, nested too deep, or not an object, or the field
            that is NaN or infinite.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_JSON_BYTES:,} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_finite)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a JSON file ({str(error)[:200] or type(error).__name__})") from error
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
