"""Files and folders that are whole or not there, after a power cut too; sound JSON; paths of other machines."""

import argparse
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from aladin_jax.errors import DataError, first_line

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one slash, as pathlib leaves it
_MAX_JSON_BYTES = 16 << 20


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file under a temporary name beside its own and renames it, so that no reader sees half of it.

    Args:
        path: the file; its folder must exist. An earlier file is replaced.
        content: all its bytes.
    """
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, as `write_whole` does; if the block fails, nothing is left of it."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Makes a folder, and those above it, where they are missing.

    Raises:
        DataError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{path}: this folder cannot be made ({error.strerror}); name another") from error


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_local(path: str | os.PathLike[str]) -> None:
    """Refuses a path of an object store, which would otherwise become a folder of that name in the working directory.

    Raises:
        DataError: it has a scheme, such as gs://, s3:// or hdfs://.
    """
    if scheme := _SCHEME.match(os.fspath(path)):
        rest = os.fspath(path)[scheme.end() :].lstrip("/")
        problem = f"{scheme[1]}://{rest}: only files and folders of this machine are read and written"
        raise DataError(problem, "mount it as a folder, or copy it, and give that path")


def check_local_options(options: argparse.Namespace) -> None:
    """`check_local` for all paths among a command's options; web addresses pass.

    Raises:
        DataError: one is of an object store.
    """
    for option in vars(options).values():
        for value in option if isinstance(option, list) else [option]:
            if isinstance(value, Path):
                check_local(value)
            elif isinstance(value, str) and (path := re.match(r"(?:\w+=)?(?!https?:)([\w+.-]+://.*)", value)):
                check_local(path[1])


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write into that gets its name at the end; if the block fails, nothing is left of it.

    An earlier folder of that name is removed once the new one is there.
    """
    path = Path(path).absolute()
    unfinished, replaced = (path.with_name(f".{path.name}.{state}") for state in ("unfinished", "replaced"))
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for written in (unfinished, *unfinished.rglob("*")):
            _sync(written)
        if path.exists():
            shutil.rmtree(replaced, ignore_errors=True)
            path.rename(replaced)
        try:
            unfinished.rename(path)
        except BaseException:
            if replaced.exists():
                replaced.rename(path)
            raise
        _sync(path.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object, with or without a byte order mark before it.

    Raises:
        DataError: naming the file, which is too large, not JSON, nested too deep, or not an object, or the field
            that is NaN or infinite.
    """
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise DataError(f"{path}: larger than {_MAX_JSON_BYTES:,} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_finite)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a JSON file ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, found {type(value).__name__}")
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
