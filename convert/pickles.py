"""What a pickle of a PyTorch file names and declares, found out before PyTorch reads it.

`torch.load(weights_only=True)` runs no foreign code, but it believes what a file says of its sizes. So each pickle is
first gone through with inert stand-ins: nothing outside an allow-list may be named, and every tensor has to lie within
a storage that the file is long enough to hold.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

MAX_PICKLE_BYTES = 16 << 20  # object trees of real checkpoints take some 100 KiB; tensors lie outside
_MAX_TUPLES = 100_000  # hashing nested tuples recurses in C: their depth must stay within the stack
_MAX_DIMENSIONS = 16

_ITEM_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
PLAIN_NAMES = frozenset({"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device"})
NAMESPACE_NAME = "argparse.Namespace"


class TorchFileError(ValueError):
    """A file that PyTorch did not write, that is damaged, or that asks for more than data."""


class RefusedNameError(TorchFileError):
    """A whole pickle that names something outside the allow-list."""


class Storage(NamedTuple):
    """A tensor storage as the pickle declares it."""

    items: int
    item_bytes: int


class _StandIn(dict):
    """Takes whatever arguments, items and state a pickle gives an object, and does nothing with them."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class _Inspector(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, allowed: frozenset[str]):
        super().__init__(file)
        self.allowed = allowed
        self.storages: dict[str, Storage] = {}

    def find_class(self, module_name: str, global_name: str) -> Any:
        full_name = f"{module_name}.{global_name}"
        rebuild: dict[str, Callable] = {
            "torch._utils._rebuild_tensor": self._check_tensor,
            "torch._utils._rebuild_tensor_v2": self._check_tensor,
            "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
        }
        if full_name in rebuild:
            return rebuild[full_name]
        if full_name in self.allowed or (module_name == "torch" and global_name in _ITEM_BYTES):
            # A class of its own each time: a pickle can set attributes on the classes that it names.
            return type(global_name, (_StandIn,), {})
        raise RefusedNameError(f"refused: its pickle names {full_name}; only tensors and plain data are read")

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", type() as kind, str() as key, str(), int() as items, *rest) if (
                kind.__name__ in _ITEM_BYTES and items >= 0 and rest in ([], [None])
            ):
                storage = Storage(items, _ITEM_BYTES[kind.__name__])
            case _:
                raise TorchFileError("damaged: a tensor storage is declared in an unknown way")
        if self.storages.setdefault(key, storage) != storage:
            raise TorchFileError(f"damaged: storage {key!r} is declared twice, with different sizes")
        return storage

    def _check_tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _StandIn:
        well_formed = (
            isinstance(storage, Storage)
            and isinstance(size, tuple)
            and isinstance(stride, tuple)
            and len(size) == len(stride) <= _MAX_DIMENSIONS
            and all(isinstance(n, int) and 0 <= n < 2**48 for n in (offset, *size, *stride))
        )
        if not well_formed:
            raise TorchFileError("damaged: a tensor is declared in an unknown way")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.items or (0 not in size and last >= storage.items):
            raise TorchFileError(f"damaged: a tensor of shape {size} lies in a storage of {storage.items} items")
        return _StandIn()


def inspect_pickle(file: io.BytesIO, allowed: frozenset[str]) -> tuple[Any, dict[str, Storage]]:
    """Goes through the pickle at a file's position without building any object that it names.

    Args:
        file: the pickle; left at its end.
        allowed: full names that may occur besides tensors.

    Returns:
        The object with stand-ins for all that is not plain data, and the storages it declares by key.

    Raises:
        RefusedNameError: the pickle names something outside the allow-list.
        TorchFileError: an impossible tensor, or a damaged pickle.
    """
    start = file.tell()
    try:
        _check_bounds(file)
        file.seek(start)
        inspector = _Inspector(file, allowed)
        return inspector.load(), inspector.storages
    except TorchFileError:
        raise
    except Exception as error:  # the exceptions of a damaged pickle are of every kind
        raise TorchFileError(f"damaged or not written by PyTorch ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _check_bounds(file: io.BytesIO) -> None:
    """Refuses what would make an unpickler use memory or stack out of proportion to the pickle's length."""
    tuples = 0
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
        tuples += "TUPLE" in operation.name
        # The unpickler's memo is an array as long as the largest index.
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(argument, int) and argument > number:
            raise TorchFileError(f"damaged: memo index {argument} after {number} operations")
        if tuples > _MAX_TUPLES:
            raise TorchFileError(f"refused: its pickle holds more than {_MAX_TUPLES} tuples")
