"""Reads files that `torch.save` wrote, in either of its formats, without trusting them.

Names that a pickle may use, and sizes that it declares, are checked before PyTorch sees the file (`pickles.py`).
Weights are then loaded with `weights_only=True`.
"""

from __future__ import annotations

import argparse
import io
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from aladin_jax.errors import first_line
from convert.numbers import NUMPY_GLOBALS
from convert.pickles import (
    ALLOWED_NAMES,
    MAX_PICKLE_BYTES,
    RefusedNameError,
    Storage,
    TorchFileError,
    inspect_pickle,
)

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DIRECTORY_BYTES = 16 << 20
# What people take for a file of PyTorch, by its first bytes.
_OTHER_FILES = {
    b"version https://git-lfs": "a pointer of Git LFS: fetch the file itself with `git lfs pull`",
    b"\x89HDF\r\n": "HDF5, as TensorFlow and Keras write",
    b"\x1f\x8b": "packed by gzip: unpack it first",
    b"<!DOCTYPE": "a web page: the download failed",
    b"<html": "a web page: the download failed",
}


def load_torch(path: str | Path) -> Any:
    """Loads what `torch.save` wrote, in a zip or legacy file, on the CPU: the one way in for pickles.

    It may hold tensors, texts, numbers, lists, tuples and dicts, NumPy's scalars and arrays of numbers,
    `argparse.Namespace`, and torch's devices and dtypes.

    Args:
        path: the file.

    Raises:
        TorchFileError: naming the file and the cause, and the refused name if its pickle names anything else.
    """
    path = Path(path)
    try:
        is_zip = _check_file(path)
        with torch.serialization.safe_globals([argparse.Namespace, *NUMPY_GLOBALS]), warnings.catch_warnings():
            # Of pickle protocols other than 2: what cannot be read ends in an exception anyway.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except TorchFileError as error:
        raise TorchFileError(f"{path}: {error}") from error
    except OSError as error:
        raise TorchFileError(f"{path}: cannot be read ({error.strerror or first_line(error)})") from error
    except Exception as error:  # PyTorch's exceptions for damaged files are of every kind
        raise TorchFileError(f"{path}: damaged or not written by PyTorch ({first_line(error)})") from error


def as_state_dict(value: Any, source: str) -> dict[str, torch.Tensor]:
    """Checks that a loaded value maps names to tensors.

    Raises:
        TorchFileError: naming `source` and what was found.
    """
    if not isinstance(value, dict):
        raise TorchFileError(f"{source}: expected tensors by name, found {type(value).__name__}")
    for name, tensor in value.items():
        if not isinstance(name, str):
            raise TorchFileError(
                f"{source}: entry {name} has a number for a name, so it is no file of a model's tensors"
            )
        if not isinstance(tensor, torch.Tensor):
            raise TorchFileError(f"{source}: entry {name[:80]!r} is no tensor ({type(tensor).__name__})")
    return dict(value)


def load_namespace(path: str | Path) -> dict[str, Any]:
    """Loads the fields of a saved `argparse.Namespace`, such as training_args.bin.

    Raises:
        TorchFileError: as `load_torch`, or the file holds something else.
    """
    value = load_torch(path)
    if not isinstance(value, argparse.Namespace):
        raise TorchFileError(f"{path}: expected an argparse.Namespace, found {type(value).__name__}")
    return vars(value)


def _check_file(path: Path) -> bool:
    """Checks all that a file names and declares; returns whether it is of the zip format."""
    if not path.is_file():
        raise TorchFileError("no such file")
    with open(path, "rb") as file:
        is_zip = file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC
    if is_zip:
        _check_zip(path)
    else:
        _check_legacy(path)
    return is_zip


def _check_zip(path: Path) -> None:
    _check_directory_size(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise TorchFileError(f"damaged: not a complete zip archive ({first_line(error)})") from error
    with archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in records if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise TorchFileError("not written by PyTorch: the zip archive has no data.pkl")
        if len(records) != len(archive.infolist()):
            raise TorchFileError("damaged: two records of the zip archive share a name")
        # PyTorch stores records as they are: one that unpacks to more than it takes up is a zip bomb.
        for record in records.values():
            if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1:
                raise TorchFileError(f"refused: record {record.filename!r} is compressed or encrypted")
        if sum(record.file_size for record in records.values()) > path.stat().st_size:
            raise TorchFileError("damaged: the zip archive's records are larger than the file")
        if records[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise TorchFileError(f"refused: data.pkl is larger than {MAX_PICKLE_BYTES:,} bytes")
        if damaged := archive.testzip():  # by the checksums
            raise TorchFileError(f"damaged: record {damaged!r} is not what its checksum says")
        _, storages = inspect_pickle(io.BytesIO(archive.read(pickles[0])), ALLOWED_NAMES)
        folder = pickles[0].removesuffix("data.pkl")
        for key, storage in storages.items():
            record = records.get(f"{folder}data/{key}")
            if record is None or record.file_size != storage.items * storage.item_bytes:
                raise TorchFileError(f"damaged: storage {key[:80]!r} is not of the declared {storage.items} items")


def _check_directory_size(path: Path) -> None:
    """Refuses an archive whose list of records alone would fill the memory."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    start = tail.rfind(b"PK\x05\x06")
    if start < 0 or len(tail) - start < 22:
        raise TorchFileError("damaged: the zip archive has no end (truncated?)")
    [directory_bytes] = struct.unpack("<L", tail[start + 12 : start + 16])
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        raise TorchFileError(f"refused: the zip archive's directory takes {directory_bytes:,} bytes")


def _check_legacy(path: Path) -> None:
    """Checks the format of PyTorch before 1.6: five pickles, then each storage's length and bytes."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        # All pickles come first, so that they can be read from a bounded copy.
        head = io.BytesIO(file.read(MAX_PICKLE_BYTES))
        nothing = frozenset()
        if not _starts_with_magic(head):
            start = bytes(head.getbuffer()[:32])
            found = [f" ({what})" for magic, what in _OTHER_FILES.items() if start.startswith(magic)]
            raise TorchFileError(f"not a file that torch.save wrote{''.join(found)}")
        if inspect_pickle(head, nothing)[0] != _LEGACY_PROTOCOL:
            raise TorchFileError("of an unknown version of PyTorch's format")
        inspect_pickle(head, nothing)
        _, storages = inspect_pickle(head, ALLOWED_NAMES)
        order, _ = inspect_pickle(head, nothing)
        named = isinstance(order, list) and all(isinstance(key, str) for key in order)
        if not named or sorted(order) != sorted(storages):
            raise TorchFileError("damaged: the list of storages differs from those declared")
        position = head.tell()
        for key in order:
            position = _check_legacy_storage(file, position, key, storages[key], size)
        if position != size:
            raise TorchFileError(f"damaged: it should end at byte {position:,}, it has {size:,}")


def _starts_with_magic(head: io.BytesIO) -> bool:
    try:
        return inspect_pickle(head, frozenset())[0] == _LEGACY_MAGIC
    except RefusedNameError:
        raise  # a bare pickle: say what it names
    except TorchFileError:
        return False


def _check_legacy_storage(file: io.BufferedReader, position: int, key: str, storage: Storage, size: int) -> int:
    file.seek(position)
    length = file.read(8)
    end = position + 8 + storage.items * storage.item_bytes
    if end > size:
        raise TorchFileError(f"truncated: storage {key[:80]!r} should end at byte {end:,}, the file has {size:,}")
    if int.from_bytes(length, "little", signed=True) != storage.items:
        raise TorchFileError(f"damaged: storage {key[:80]!r} is not of the declared {storage.items} items")
    return end
