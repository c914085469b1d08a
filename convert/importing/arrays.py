"""Features as NumPy arrays, one image at a time: an .npz for each, or an .npy for each array of each.

The arrays are those of docs/features.md. Nothing is unpickled, and no array is read before its size is known to be
reasonable.
"""

import math
import os
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import IO, Any

import numpy as np

from aladin_jax.errors import DataError
from aladin_jax.untrusted import COPY_AGAIN, check_image_id
from convert.importing.regions import PixelRegions, name_classes, to_detections
from convert.raw.detections import MAX_FEATURE_DIM, MAX_REGIONS, Detections

_MAX_ARRAY_BYTES = MAX_REGIONS * MAX_FEATURE_DIM * 8
_MAX_DIRECTORY_BYTES = 1 << 16  # of a zip archive: that of six arrays takes some 500 bytes
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy's; others can be made to take much memory
_OPTIONAL = ("classes", "scores")
_KNOWN = {"features", "boxes", "width", "height", "size", *_OPTIONAL}


class _ArrayFiles:
    """What both kinds of folders have in common."""

    def __init__(self, folder: Path, class_names: list[str] | None):
        if not folder.is_dir():
            raise DataError("no such folder", "check the path of the features", path=folder)
        self.path = folder
        self.notes: list[str] = []
        self._class_names = class_names
        self._optional: tuple[str, ...] | None = None

    def __enter__(self) -> "_ArrayFiles":
        """Nothing to do: a file is open only while it is read."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to do."""

    def _to_detections(self, found: Collection[str], read: Callable[[str], np.ndarray], **where: Any) -> Detections:
        """Makes one image's regions from the arrays it has, which `read` gives."""
        optional = tuple(name for name in _OPTIONAL if name in found)
        if self._optional is None:
            self._optional = optional
            self.notes += [f"the features have no {name}" for name in _OPTIONAL if name not in optional]
            others = sorted(set(found) - _KNOWN)
            self.notes += [f"arrays that are not used: {', '.join(others)[:200]!a}"] if others else []
        if optional != self._optional:
            raise DataError(
                f"has {' and '.join(optional) or 'neither classes nor scores'}, another image has "
                f"{' and '.join(self._optional) or 'neither classes nor scores'}",
                "all images need the same arrays",
                **where,
            )
        classes = None
        if "classes" in optional:
            classes = self._classes(read("classes"), **where)
        return to_detections(
            PixelRegions(
                _numbers(read("features"), "features", **where),
                _numbers(read("boxes"), "boxes", **where),
                classes,
                _numbers(read("scores"), "scores", **where) if "scores" in optional else None,
                *_size(read, found, **where),
            ),
            **where,
        )

    def _classes(self, values: np.ndarray, **where: Any) -> list[str]:
        if values.ndim != 1:
            raise DataError(f"classes have shape {list(values.shape)}, expected [regions]", **where)
        if values.dtype.kind in "iuf":
            return name_classes(values, self._class_names, **where)
        try:
            return [name.decode() if isinstance(name, bytes) else name for name in values.tolist()]
        except ValueError as error:  # NumPy's for code points that there are not, and Unicode's
            raise DataError(f"classes hold text that is damaged ({error})", COPY_AGAIN, **where) from error


class NpzFiles(_ArrayFiles):
    """A folder with one .npz an image, named by the image's id.

    Arrays: features [r, f]; boxes [r, 4], x1, y1, x2, y2 in pixels; width and height, numbers; optionally classes [r],
    names or numbers, and scores [r].
    """

    def __init__(self, folder: Path, class_names: list[str] | None = None):
        """Lists the folder.

        Raises:
            DataError: there is no such folder, or no .npz in it.
        """
        super().__init__(folder, class_names)
        self._names = _list_images(folder, ".npz")

    def names(self) -> Collection[str]:
        """The names of the files, without .npz."""
        return self._names

    def detections(self, name: str) -> Detections:
        """Reads one file.

        Raises:
            DataError: it is damaged, lacks an array, or its arrays are not those of docs/features.md.
        """
        path = self.path / f"{name}.npz"
        where: dict[str, Any] = {"path": path, "image": name}
        try:
            _check_directory(path)
            with zipfile.ZipFile(path) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                if len(members) != len(archive.infolist()):
                    raise DataError("an array is in it twice", "save it again", **where)
                if any(member.compress_type not in _COMPRESSIONS for member in members.values()):
                    raise DataError("compressed in an unusual way", "save it with np.savez", **where)
                _require(members, ("features", "boxes", "width", "height"), **where)

                def read(array: str) -> np.ndarray:
                    member = members[array]
                    with archive.open(member) as stream:
                        return _read_npy(stream, array, **where)

                return self._to_detections(members, read, **where)
        except DataError:
            raise
        except Exception as error:  # damaged archives end in exceptions of many kinds, OSError's among them
            raise DataError(f"no .npz that can be read ({str(error)[:100]})", COPY_AGAIN, **where) from error


class NpyFiles(_ArrayFiles):
    """A folder with a folder for each array, in which there is one .npy an image, named by the image's id.

    Folders: features, boxes, size (width and height), and optionally classes and scores; arrays as in `NpzFiles`.
    """

    def __init__(self, folder: Path, class_names: list[str] | None = None):
        """Lists the folder.

        Raises:
            DataError: a folder is missing, or there is no .npy in `features`.
        """
        super().__init__(folder, class_names)
        self._arrays = {name for name in ("features", "boxes", "size", *_OPTIONAL) if (folder / name).is_dir()}
        _require(self._arrays, ("features", "boxes", "size"), path=folder)
        self._names = _list_images(folder / "features", ".npy")

    def names(self) -> Collection[str]:
        """The names of the files, without .npy."""
        return self._names

    def detections(self, name: str) -> Detections:
        """Reads one image's files.

        Raises:
            DataError: one is damaged or missing, or the arrays are not those of docs/features.md.
        """

        def read(array: str) -> np.ndarray:
            path = self.path / array / f"{name}.npy"
            where = {"path": path, "image": name}
            if not path.is_file():
                raise DataError("no such file", f"each image needs its file in each of {self._listed()}", **where)
            with open(path, "rb") as stream:
                return _read_npy(stream, array, **where)

        return self._to_detections(self._arrays, read, path=self.path, image=name)

    def _listed(self) -> str:
        return ", ".join(sorted(self._arrays))


def _list_images(folder: Path, ending: str) -> set[str]:
    with os.scandir(folder) as entries:
        found = {entry.name.removesuffix(ending) for entry in entries if entry.name.endswith(ending)}
    if not found:
        raise DataError(f"no {ending} in it", "each image has one, named by its id", path=folder)
    for name in found:
        check_image_id(name, path=folder)
    return found


def _require(found: Collection[str], needed: tuple[str, ...], **where: Any) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        has = ", ".join(sorted(str(name)[:40] for name in found)[:12]) or "nothing"
        raise DataError(f"there is no {', '.join(missing)}; there is {has}", "see docs/features.md", **where)


def _size(read: Callable[[str], np.ndarray], found: Collection[str], **where: Any) -> tuple[int, int]:
    """Width and height of the picture."""
    values = [read("size")] if "size" in found and "width" not in found else [read("width"), read("height")]
    numbers = np.concatenate([_numbers(value, "width and height", **where).reshape(-1) for value in values])
    if len(numbers) != 2 or not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        raise DataError(f"width and height are {numbers.tolist()[:4]}, expected two whole numbers of pixels", **where)
    return int(numbers[0]), int(numbers[1])


def _numbers(values: np.ndarray, what: str, **where: Any) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise DataError(f"{what} are of type {values.dtype}, expected numbers", "see docs/features.md", **where)
    return values


def _check_directory(path: Path) -> None:
    """Refuses an archive whose list of members alone would fill the memory."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 16)))
        tail = file.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile("the zip archive has no end")
    # Python's zipfile believes a zip64 end first, if there is one.
    if b"PK\x06\x07" in tail[max(0, end - 20) : end]:
        raise zipfile.BadZipFile("a zip64 archive, which no .npz of one image has to be")
    if int.from_bytes(tail[end + 12 : end + 16], "little") > _MAX_DIRECTORY_BYTES:
        raise zipfile.BadZipFile("the zip archive has too many members")


def _read_npy(stream: IO[bytes], what: str, **where: Any) -> np.ndarray:
    """Reads an array that takes up a whole stream, if it is of a reasonable size and no objects are in it."""
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"version {version} of the format")
        shape, fortran, dtype = read_header(stream, max_header_size=4096)
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        cause = (str(error).splitlines() or [type(error).__name__])[0][:100]
        raise DataError(f"{what} is no .npy array ({cause})", COPY_AGAIN, **where) from error
    if dtype.hasobject:
        raise DataError(
            f"{what} holds Python objects",
            "save arrays of numbers and texts with np.savez; see docs/features.md",
            **where,
        )
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > _MAX_ARRAY_BYTES or min(shape, default=0) < 0 or not dtype.itemsize:
        raise DataError(f"{what} is said to have shape {str(list(shape))[:60]} of {dtype}", COPY_AGAIN, **where)
    # One byte more, so that a zip archive's checksum is compared when all has been read.
    content = stream.read(num_bytes + 1)
    if len(content) != num_bytes:
        raise DataError(
            f"{what} has {len(content):,} bytes or more, its shape {list(shape)} of {dtype} takes {num_bytes:,}",
            COPY_AGAIN,
            **where,
        )
    return np.ndarray(shape, dtype, content, order="F" if fortran else "C")
