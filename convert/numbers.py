"""NumPy's scalars and numeric arrays out of a pickle, without any of NumPy's functions that a pickle can call.

`NUMPY_GLOBALS` puts what is written here in the place of the names that such a pickle holds. A dtype is made of its
code alone, and only of numbers; an array has to be as long as its bytes.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_CODE = re.compile(r"[biufc]\d{1,2}")
_ORDERS = ("<", ">", "=", "|")


class NumberType:
    """A dtype as a pickle writes it: its code, and in a second step its byte order."""

    def __init__(self, code: Any, *_: Any):
        """Takes the code of a bool, integer, float or complex number, as "f8"."""
        if not isinstance(code, str) or not _CODE.fullmatch(code):
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
        """Takes version, shape, dtype, order in memory, bytes."""
        version, shape, kind, fortran, content = state
        if not isinstance(kind, NumberType) or not isinstance(content, bytes):
            raise ValueError("an array of something else than numbers")
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
