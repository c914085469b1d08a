"""Files that are either whole or not there, and paths that are no files of this machine."""

import argparse
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aladin_jax.errors import DataError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # one slash, as pathlib leaves it


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
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_local(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Refuses paths of an object store, which would otherwise become folders of that name in the working directory.

    Raises:
        DataError: a path has a scheme, such as gs://, s3:// or hdfs://.
    """
    for path in paths:
        if scheme := _SCHEME.match(os.fspath(path)):
            raise DataError(
                f"{scheme[1]}://{os.fspath(path)[scheme.end() :].lstrip('/')}: only files and folders of this machine "
                "are read and written",
                "mount it as a folder, or copy it, and give that path",
            )


def check_local_options(options: argparse.Namespace) -> None:
    """`check_local` for all paths among a command's options: those that argparse made a `Path` of.

    Raises:
        DataError: one has a scheme.
    """
    for value in vars(options).values():
        check_local(path for path in (value if isinstance(value, list) else [value]) if isinstance(path, Path))
