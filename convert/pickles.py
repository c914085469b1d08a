"""What a pickle of a PyTorch file names and declares, found out before PyTorch reads it.

`torch.load(weights_only=True)` runs no foreign code, but it believes what a file says of its sizes: a storage that is
declared longer than its record is filled from the records behind it, and a dict key of nested tuples ends the process.
So each pickle is first gone through without building anything: only the operations that `torch.save` writes may occur,
nothing outside an allow-list may be named, keys are texts and numbers, and every tensor has to lie within a storage
that the file is long enough to hold.
"""

from __future__ import annotations

import io
import math
import pickletools
from typing import Any, NamedTuple

from aladin_jax.errors import DataError, first_line
from convert.numbers import NUMPY_GLOBALS

# A tensor takes some 120 bytes and 30 operations; Oscar's file of COCO's training images has 113,287 of them. Captions
# lie in the pickle itself: those of COCO's training images take 40 MB.
MAX_PICKLE_BYTES = 256 << 20
_MAX_OPERATIONS = 16_000_000
_MAX_DIMENSIONS = 16
_MAX_ARGUMENTS = 16
_MAX_KEY = 2**60

_ITEM_BYTES = {
    "torch.DoubleStorage": 8,
    "torch.FloatStorage": 4,
    "torch.HalfStorage": 2,
    "torch.BFloat16Storage": 2,
    "torch.LongStorage": 8,
    "torch.IntStorage": 4,
    "torch.ShortStorage": 2,
    "torch.CharStorage": 1,
    "torch.ByteStorage": 1,
    "torch.BoolStorage": 1,
}
_REBUILD_TENSOR = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_REBUILD_PARAMETER = "torch._utils._rebuild_parameter"
_ALWAYS_ALLOWED = frozenset({*_ITEM_BYTES, *_REBUILD_TENSOR, _REBUILD_PARAMETER})
_MAPPINGS = ("collections.OrderedDict", "collections.Counter")
_TYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_ENCODE, _NO_BYTES = "_codecs.encode", "__builtin__.bytes"  # how bytes are written, and none of them
_NUMPY = frozenset(name for _, name in NUMPY_GLOBALS if name.startswith("numpy."))
_PLAIN = ("torch.Size", "torch.device", "argparse.Namespace", *(f"torch.{name}" for name in _TYPES))
ALLOWED_NAMES = frozenset({*_MAPPINGS, *_PLAIN, _ENCODE, _NO_BYTES, *_NUMPY})


class TorchFileError(DataError):
    """A file that PyTorch did not write, that is damaged, or that asks for more than data."""


class RefusedNameError(TorchFileError):
    """A whole pickle that names something outside the allow-list."""


class Storage(NamedTuple):
    """A tensor storage as the pickle declares it."""

    items: int
    item_bytes: int


class _Name(NamedTuple):
    """Stands for a class or function that a pickle names."""

    full: str


class _Instance(NamedTuple):
    """Stands for an object of a class that a pickle names; what it is given is checked and forgotten."""

    full: str


class _Tensor:
    """Stands for a tensor."""


class _Inspector:
    """A pickle machine that makes texts, numbers, tuples and lists; dicts stay empty, all else is a stand-in."""

    def __init__(self, allowed: frozenset[str]):
        self._allowed = allowed | _ALWAYS_ALLOWED
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks below each mark
        self._memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def run(self, file: io.BytesIO) -> Any:
        """Goes through the pickle at a file's position; returns what it makes."""
        for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if number == _MAX_OPERATIONS:
                raise TorchFileError(f"refused: its pickle takes more than {_MAX_OPERATIONS:,} operations")
            self._step(operation.name, argument)
        return self._stack[-1]

    def _step(self, operation: str, argument: Any) -> None:
        stack = self._stack
        match operation:
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING":
                stack.append(argument)
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "TUPLE":
                items = tuple(self._pop_to_mark())
                self._stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(operation[-1])
                stack[-count:] = [tuple(stack[k] for k in range(-count, 0))]
            case "BINPERSID":
                stack[-1] = self._declare_storage(stack[-1])
            case "NONE" | "NEWTRUE" | "NEWFALSE" | "EMPTY_TUPLE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}[operation])
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "GLOBAL":
                module, _, name = argument.partition(" ")
                stack.append(self._find(module, name))
            case "STACK_GLOBAL":
                stack[-2:] = [self._find(stack[-2], stack[-1])]
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack[-1] = self._call(stack[-1], arguments)
            case "APPEND":
                self._append([stack.pop()])
            case "APPENDS":
                self._append(self._pop_to_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._put([key, value])
            case "SETITEMS":
                self._put(self._pop_to_mark())
            case "BUILD":
                state = stack.pop()
                kind = tuple if isinstance(stack[-1], _Instance) and stack[-1].full in _NUMPY else dict
                if not isinstance(stack[-1], _Instance) or not isinstance(state, kind):
                    raise TorchFileError("damaged: an object is given attributes in an unknown way")
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise TorchFileError(f"refused: torch.save does not write operations as its pickle's {operation}")

    def _pop_to_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _find(self, module: Any, name: Any) -> _Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TorchFileError("damaged: a class is named by something else than texts")
        if (full := f"{module}.{name}") not in self._allowed:
            shown = full[:200].encode("unicode_escape").decode()
            raise RefusedNameError(f"refused: its pickle names {shown}; only tensors and plain data are read")
        return _Name(full)

    def _declare_storage(self, pid: Any) -> Storage:
        match pid:
            case ("storage", _Name(kind), str() as key, str(), int() as items, *rest) if (
                kind in _ITEM_BYTES and items >= 0 and rest in ([], [None])
            ):
                storage = Storage(items, _ITEM_BYTES[kind])
            case _:
                raise TorchFileError("damaged: a tensor storage is declared in an unknown way")
        if self.storages.setdefault(key, storage) != storage:
            raise TorchFileError(f"damaged: storage {key[:80]!r} is declared twice, with different sizes")
        return storage

    def _call(self, callee: Any, arguments: Any) -> Any:
        if not isinstance(callee, _Name) or type(arguments) is not tuple or len(arguments) > _MAX_ARGUMENTS:
            raise TorchFileError("damaged: an object is made in an unknown way")
        if callee.full in _REBUILD_TENSOR:
            return _check_tensor(*arguments)
        if callee.full == _REBUILD_PARAMETER:
            return _Tensor()
        if callee.full == "numpy.ndarray":
            raise TorchFileError("damaged: an array is made in an unknown way")
        bytes_well_formed = {_ENCODE: arguments[1:] == ("latin1",), _NO_BYTES: not arguments}
        if not bytes_well_formed.get(callee.full, True):
            raise TorchFileError("refused: its pickle makes bytes in another way than Python does")  # they could grow
        # A list could hold keys that have not been checked.
        if callee.full in _MAPPINGS and not all(isinstance(item, dict) for item in arguments):
            raise TorchFileError(f"damaged: {callee.full} is made of something else than a dict")
        return _Instance(callee.full)

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise TorchFileError("damaged: items are appended to something else than a list")
        self._stack[-1].extend(items)

    def _put(self, keys_and_values: list[Any]) -> None:
        if not isinstance(self._stack[-1], (dict, _Instance)) or len(keys_and_values) % 2:
            raise TorchFileError("damaged: items are put into something else than a dict")
        for key in keys_and_values[::2]:
            # Hashing nested tuples recurses in C, and numbers beyond 2**60 can be made to have the same hash.
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < _MAX_KEY):
                kind = "number that is too large" if isinstance(key, int) else type(key).__name__.lstrip("_")
                raise TorchFileError(f"refused: a dict of its pickle has a {kind} as key")


def _check_tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> _Tensor:
    well_formed = (
        isinstance(storage, Storage)
        and type(size) is tuple
        and type(stride) is tuple
        and len(size) == len(stride) <= _MAX_DIMENSIONS
        and all(isinstance(n, int) and 0 <= n < 2**48 for n in (offset, *size, *stride))
    )
    if not well_formed:
        raise TorchFileError("damaged: a tensor is declared in an unknown way")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > storage.items or (0 not in size and last >= storage.items):
        raise TorchFileError(f"damaged: a tensor of shape {size} lies in a storage of {storage.items} items")
    return _Tensor()


def inspect_pickle(file: io.BytesIO, allowed: frozenset[str]) -> tuple[Any, dict[str, Storage]]:
    """Goes through the pickle at a file's position without building any object that it names.

    Args:
        file: the pickle; left at its end.
        allowed: full names that may occur besides tensors.

    Returns:
        The object, if it is made of texts, numbers, tuples and lists (dicts are left empty, and stand-ins take the
        place of all else), and the storages it declares by key.

    Raises:
        RefusedNameError: the pickle names something outside the allow-list.
        TorchFileError: an impossible tensor, an operation or a size that no real file has, or a damaged pickle.
    """
    inspector = _Inspector(allowed)
    try:
        return inspector.run(file), inspector.storages
    except TorchFileError:
        raise
    except Exception as error:  # the exceptions of a damaged pickle are of every kind
        raise TorchFileError(f"damaged or not written by PyTorch ({first_line(error)})") from error
