"""Numbers out of a pickled NumPy array of objects, without running anything that the pickle names.

The pickle's own names for arrays and their types are answered by the stand-ins of `convert.numbers`, here with arrays
of objects added; any other name is refused.
"""

import io
import pickle
from typing import Any

import numpy as np

from aladin_jax.errors import DataError
from convert.numbers import NUMPY_GLOBALS, NumberType, new_array


class RefusedError(DataError):
    """A pickle that names or holds something else than numbers, texts, lists and dicts."""


class _Type(NumberType):
    """A dtype of numbers, or that of objects."""

    def __init__(self, code: Any, *rest: Any):
        self.of_objects = code in ("O", "O8")
        super().__init__("i1" if self.of_objects else code, *rest)


class _Array:
    """Stands in for an array: `value` is one of numbers, or a list of objects."""

    value: Any = None

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, fortran, content = state
        if kind.of_objects:
            self.value = content
        else:
            self.value = new_array()
            self.value.__setstate__((version, shape, kind, fortran, content))


_STAND_INS = {name: stand_in for stand_in, name in NUMPY_GLOBALS if name.startswith("numpy.")} | {
    "numpy.dtype": _Type,
    "numpy.ndarray": object,  # is named, never called: it would take as much memory as it is told to
    "numpy.core.multiarray._reconstruct": lambda *_: _Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: _Array(),
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
        [found] = _Unpickler(stream).load().value
        values = {n: value.value if isinstance(value, _Array) else value for n, value in found.items()}
    except RefusedError:
        raise
    except Exception as error:  # a damaged pickle ends in exceptions of every kind
        raise RefusedError(f"it is damaged ({type(error).__name__})") from error
    arrays = {
        name: np.asarray(value)
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, np.ndarray | np.generic | int | float)
    }
    return {name: array for name, array in arrays.items() if array.dtype.kind in "biuf"}
