"""Numbers out of a pickled NumPy array of objects, without running anything that the pickle names.

The pickle's own names for arrays and their types are answered by the stand-ins below, which check sizes and types
themselves; any other name is refused.
"""

import io
import pickle
from typing import Any

import numpy as np

from aladin_jax.errors import DataError

_PLAIN = "biuf"  # kinds of NumPy's types that are numbers


class RefusedError(DataError):
    """A pickle that names or holds something else than numbers, texts, lists and dicts."""


class _Type:
    """Stands in for numpy.dtype."""

    def __init__(self, name: object, *_: object):
        if not isinstance(name, str) or len(name) > 8:
            raise RefusedError("a type that is none")
        self.dtype = np.dtype(name)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands in for an array of numbers, or of objects."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Type) or not isinstance(shape, tuple):
            raise RefusedError("an array that is none")
        if kind.dtype.kind == "O" and isinstance(content, list):
            self.value = content
        else:
            self.value = _numbers(kind, content).reshape(shape, order="F" if fortran else "C")


def _numbers(kind: _Type, content: object) -> np.ndarray:
    if kind.dtype.kind not in _PLAIN or not isinstance(content, bytes):
        raise RefusedError(f"an array of {kind.dtype}")
    return np.frombuffer(content, kind.dtype)


def _scalar(kind: _Type, content: bytes) -> Any:
    return _numbers(kind, content)[:1].reshape(())


def _ndarray(*_: object) -> None:
    raise RefusedError("an array made otherwise")


_STAND_INS = {
    "multiarray _reconstruct": lambda *_: _Array(),
    "multiarray scalar": _scalar,
    "numpy ndarray": _ndarray,
    "numpy dtype": _Type,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        short = module if module == "numpy" else module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if module.startswith("numpy") and f"{short} {name}" in _STAND_INS:
            return _STAND_INS[f"{short} {name}"]
        raise RefusedError(f"it names {module}.{name}"[:100])

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
        array = _Unpickler(stream).load()
        [found] = array.value
        values = {name: value.value if isinstance(value, _Array) else value for name, value in found.items()}
    except RefusedError:
        raise
    except Exception as error:  # a damaged pickle ends in exceptions of every kind
        raise RefusedError(f"it is damaged ({type(error).__name__})") from error
    return {
        name: np.asarray(value)
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, np.ndarray | int | float)
    }
