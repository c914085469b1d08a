"""NumPy's scalars and numeric arrays out of a pickle, without any of NumPy's functions that a pickle can call.

`NUMPY_GLOBALS` puts what is written here in the place of the names that such a pickle holds. A dtype is made of its
code alone, and only of numbers; an array has to be as long as its bytes.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np

from aladin_jax.errors import DataError

_ORDERS = ("<", ">", "=", "|")


class NumberType:
    """A dtype as a pickle writes it: its code, and in a second step its byte order."""

    codes = re.compile(r"[biufc]\d{1,2}")

    def __init__(self, code: Any, *_: Any):
        """Takes the code of a bool, integer, float or complex number, as "f8"."""
        if not isinstance(code, str) or not self.codes.fullmatch(code):
            raise ValueError(f"an array of {str(code)[:20]!r}, which are no numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        """Takes the byte order; other parts of a dtype's state are those of structures and dates."""
        _, order, *rest = state
        if order not in _ORDERS or any(part is not None for part in rest[:3]):
            raise ValueError("an array of structures, which are no numbers")
        self.dtype = self.dtype.newbyteorder(order)


class NumberArray(np.ndarray):
    """A numeric array that a pickle holds."""

    def __setstate__(self, state: Any) -> None:
        """Takes version, shape, dtype, order in memory, and bytes, or a list if the dtype is that of objects."""
        version, shape, kind, fortran, content = state
        if not isinstance(kind, NumberType) or not isinstance(content, list if kind.dtype.hasobject else bytes):
            raise ValueError("an array of something else than numbers")
        if kind.dtype.hasobject:
            shape = (len(content),)  # NumPy believes a longer one, and reads beyond the list's end
        super().__setstate__((version, shape, kind.dtype, fortran, content))


def new_array(*_: Any) -> NumberArray:
    """An empty array, which gets its shape and content from `__setstate__`, whatever was asked for."""
    return np.ndarray.__new__(NumberArray, (0,), np.int8)


def _scalar(kind: Any, content: Any) -> np.generic:
    [value] = np.frombuffer(content, kind.dtype)
    return value


_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")  # before and since NumPy 2
NUMPY_GLOBALS: list[tuple[Any, str]] = [
    (bytes, "builtins.bytes"),
    (NumberType, "numpy.dtype"),
    (NumberArray, "numpy.ndarray"),
    *((_scalar, f"{module}.scalar") for module in _MODULES),
    *((new_array, f"{module}._reconstruct") for module in _MODULES),
]


class RefusedError(DataError):
    """A pickle that names or holds something else than numbers, texts, lists and dicts."""


class _AnyType(NumberType):
    """A dtype of numbers, or that of objects."""

    codes = re.compile(rf"{NumberType.codes.pattern}|O8?")


_STAND_INS = {name: stand_in for stand_in, name in NUMPY_GLOBALS if name.startswith("numpy.")} | {
    "numpy.dtype": _AnyType,
    "numpy.ndarray": object,  # is named, never called: it would take as much memory as it is told to
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (found := _STAND_INS.get(f"{module}.{name}")) is None:
            raise RefusedError(f"it names {module}.{name}"[:100])
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedError("it refers to something outside")


def read_numbers(content: bytes) -> dict[str, np.ndarray]:
    """Reads the arrays of numbers in a dict that `numpy.savez` pickled.

    Args:
        content: of the .npy: a header and a pickle.

    Returns:
        Arrays by name; what the dict holds beside numbers is left out.

    Raises:
        RefusedError: it is something else, is damaged, or names anything to run.
    """
    stream = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(stream) == (1, 0):
            np.lib.format.read_array_header_1_0(stream)
        else:
            np.lib.format.read_array_header_2_0(stream)
        found = _Unpickler(stream).load().item()
        arrays = {
            name: np.asarray(value)
            for name, value in found.items()
            if isinstance(name, str) and isinstance(value, np.ndarray | np.generic | int | float)
        }
    except RefusedError:
        raise
    except Exception as error:  # a damaged pickle ends in exceptions of every kind
        raise RefusedError(f"it is damaged ({type(error).__name__})") from error
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
