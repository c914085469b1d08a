"""Features as NumPy arrays, one image at a time: an .npz for each, or an .npy for each array of each.

What the arrays are called is in docs/features.md. Nothing is unpickled, and no array is read before its size is known
to be reasonable.
"""

import io
import os
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax.errors import DataError, first_line
from aladin_jax.files import read_json
from aladin_jax.untrusted import COPY_AGAIN, check_name
from convert.boxes import pixels_of_shares
from convert.importing.number_pickles import RefusedError, read_numbers
from convert.importing.regions import PixelRegions, name_classes, to_detections
from convert.raw.detections import MAX_FEATURE_DIM, MAX_REGIONS, Detections

_MAX_ARRAY_BYTES = MAX_REGIONS * MAX_FEATURE_DIM * 8
_MAX_MEMBERS = 64  # of a zip archive
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # NumPy's; others can be made to take much memory
_OPTIONAL = ("classes", "scores")
_OURS = {
    # bottom-up-attention.pytorch
    "x": "features",
    "bbox": "boxes",
    "image_w": "width",
    "image_h": "height",
    "num_bbox": "count",
    # UNITER
    "conf": "scores",
}
"""Other names for our arrays."""

_OTHERS = ("norm_bb", "soft_labels", "info")  # what is made into ours: UNITER's first two, bottom-up-attention's last
_KNOWN = {"features", "boxes", "width", "height", "size", *_OPTIONAL, *_OURS, *_OTHERS}

Arrays = dict[str, np.ndarray]


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

    def _to_detections(self, arrays: Arrays, **where: Any) -> Detections:
        """Makes one image's regions of its arrays."""
        arrays = {_OURS.get(name, name) if _OURS.get(name) not in arrays else name: a for name, a in arrays.items()}
        width, height = _size(arrays, **where)
        _require(arrays, ("features", "boxes"), **where)
        features = _numbers(arrays["features"], "features", **where)
        boxes = _numbers(arrays["boxes"], "boxes", **where)
        count = _numbers(arrays["count"], "num_bbox", **where).reshape(-1) if "count" in arrays else np.zeros(0)
        if features.ndim == 2 and len(count) == 1:
            if len(features) != count[0] == features.shape[1]:
                features = features.T  # as some keep them: [width, regions]
            if 0 <= count[0] < len(features) == len(boxes):
                features, boxes = features[: int(count[0])], boxes[: int(count[0])]  # what follows is padding
        classes = self._classes(arrays, **where)
        scores = _numbers(arrays["scores"], "scores", **where) if "scores" in arrays else None
        self._check_same({"classes": classes, "scores": scores}, **where)
        return to_detections(PixelRegions(features, boxes, classes, scores, width, height), **where)

    def _check_same(self, optional: dict[str, Any], **where: Any) -> None:
        """Checks that an image has what the first one has, and says what that is."""
        has = tuple(name for name in _OPTIONAL if optional[name] is not None)
        if self._optional is None:
            self._optional = has
            self._note(*(f"the features have no {name}" for name in _OPTIONAL if name not in has))
        if has != self._optional:
            raise DataError(
                f"has {' and '.join(has) or 'neither classes nor scores'}, another image has "
                f"{' and '.join(self._optional) or 'neither classes nor scores'}",
                "all images need the same arrays",
                **where,
            )

    def _classes(self, arrays: Arrays, **where: Any) -> Sequence[str | None] | None:
        """The classes' names, where there are any and they can be known."""
        if "numbers" in arrays and "classes" not in arrays:
            if self._class_names is None:
                self._note("classes are numbers: without --class_names images have no tags")
                return None
            return name_classes(arrays["numbers"], self._class_names, background=True, **where)
        if "classes" not in arrays:
            return None
        values = arrays["classes"]
        if values.ndim != 1:
            raise DataError(f"classes have shape {list(values.shape)}, expected [regions]", **where)
        if values.dtype.kind in "iuf":
            return name_classes(values, self._class_names, **where)
        try:
            return [name.decode() if isinstance(name, bytes) else name for name in values.tolist()]
        except ValueError as error:  # NumPy's for code points that there are not, and Unicode's
            raise DataError(f"classes hold text that is damaged ({error})", COPY_AGAIN, **where) from error

    def _note(self, *lines: str) -> None:
        self.notes += [line for line in lines if line not in self.notes]


class NpzFiles(_ArrayFiles):
    """A folder with one .npz an image, named by the image's id.

    Arrays: features [r, f]; boxes [r, 4], x1, y1, x2, y2 in pixels; width and height, numbers; optionally classes [r],
    names or numbers, and scores [r]. Or those of bottom-up-attention.pytorch or of UNITER; see docs/features.md.
    """

    def __init__(self, folder: Path, class_names: list[str] | None = None):
        """Lists the folder.

        Raises:
            DataError: there is no such folder, or no .npz in it.
        """
        super().__init__(folder, class_names)
        self._names = _list_images(folder, ".npz")
        settings = folder / "settings.json"  # of convert.detect
        self.made: dict[str, Any] | None = read_json(settings) if settings.is_file() else None

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
            with zipfile.ZipFile(path) as archive:
                arrays = self._read(archive, **where)
        except DataError:
            raise
        except Exception as error:  # damaged archives end in exceptions of many kinds, OSError's among them
            raise DataError(f"no .npz that can be read ({first_line(error, 100)})", COPY_AGAIN, **where) from error
        return self._to_detections(arrays, **where)

    def _read(self, archive: zipfile.ZipFile, **where: Any) -> Arrays:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if len(archive.infolist()) > _MAX_MEMBERS:
            raise DataError(f"too many members, more than {_MAX_MEMBERS}", "each image has a file of its own", **where)
        if len(members) != len(archive.infolist()):
            raise DataError("an array is in it twice", "save it again", **where)
        if any(member.compress_type not in _COMPRESSIONS for member in members.values()):
            raise DataError("compressed in an unusual way", "save it with np.savez", **where)
        if others := sorted(members.keys() - _KNOWN):
            self._note(f"arrays that are not used: {', '.join(others)[:200]!a}")
        arrays: Arrays = {}
        for name in members.keys() & _KNOWN:
            if (size := members[name].file_size) > _MAX_ARRAY_BYTES + 4096:
                raise DataError(f"{name} is said to take {size:,} bytes", COPY_AGAIN, **where)
            content = archive.read(members[name])
            if name != "info":
                arrays[name] = load_npy(content, name, **where)
                continue
            try:
                info = read_numbers(content)
            except RefusedError as error:
                self._note(f"info is not read: {error}")
                continue
            renamed = {"objects_id": "numbers", "objects_conf": "scores"}
            arrays |= {renamed[found]: values for found, values in info.items() if found in renamed}
        return _from_uniter(arrays, **where)


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
        arrays: Arrays = {}
        for array in self._arrays:
            path = self.path / array / f"{name}.npy"
            where: dict[str, Any] = {"path": path, "image": name}
            if not path.is_file():
                listed = ", ".join(sorted(self._arrays))
                raise DataError("no such file", f"each image needs its file in each of {listed}", **where)
            if (size := path.stat().st_size) > _MAX_ARRAY_BYTES + 4096:
                raise DataError(f"{size:,} bytes, more than an array of one image can take", COPY_AGAIN, **where)
            arrays[array] = load_npy(path.read_bytes(), array, **where)
        return self._to_detections(arrays, path=self.path, image=name)


def load_npy(content: bytes, what: str, **where: Any) -> np.ndarray:
    """The array of a whole .npy, in which there are no Python objects.

    Raises:
        DataError: it is damaged, holds objects, or is of another size than it says.
    """
    stream = io.BytesIO(content)
    try:
        array = np.load(stream, allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python, which fails in many ways
        if "allow_pickle" in str(error) and content.startswith(b"\x93NUMPY"):
            remedy = "save arrays of numbers and texts with np.savez; see docs/features.md"
            raise DataError(f"{what} holds Python objects", remedy, **where) from error
        raise DataError(f"{what} is no .npy array ({first_line(error, 100)})", COPY_AGAIN, **where) from error
    if not isinstance(array, np.ndarray) or array.dtype.hasobject or array.nbytes > len(content) or not array.itemsize:
        raise DataError(f"{what} is no array of numbers or texts", COPY_AGAIN, **where)
    if stream.tell() != len(content):
        problem = f"{what} has {len(content):,} bytes, its shape {list(array.shape)} of {array.dtype} takes fewer"
        raise DataError(problem, COPY_AGAIN, **where)
    return array


def _from_uniter(arrays: Arrays, **where: Any) -> Arrays:
    """UNITER's arrays as ours: boxes that are shares of the picture, and shares of all classes, background first."""
    if "norm_bb" in arrays and "boxes" not in arrays:
        side = 1 << 16  # any: shares are taken of it and given back
        arrays["boxes"] = pixels_of_shares(_numbers(arrays.pop("norm_bb"), "norm_bb", **where), side, **where)
        arrays["size"] = np.array([side, side])
    if "soft_labels" in arrays:
        shares = _numbers(arrays.pop("soft_labels"), "soft_labels", **where)
        if shares.ndim != 2 or not shares.shape[1]:
            raise DataError(f"soft_labels have shape {list(shares.shape)}, expected [regions, classes]", **where)
        arrays["numbers"] = shares.argmax(1)
    return arrays


def _list_images(folder: Path, ending: str) -> set[str]:
    with os.scandir(folder) as entries:
        found = {entry.name.removesuffix(ending) for entry in entries if entry.name.endswith(ending)}
    if not found:
        raise DataError(f"no {ending} in it", "each image has one, named by its id", path=folder)
    for name in found:
        check_name(name, "the image's id", path=folder)
    return found


def _require(found: Collection[str], needed: tuple[str, ...], **where: Any) -> None:
    missing = [name for name in needed if name not in found]
    if missing:
        has = ", ".join(sorted(str(name)[:40] for name in found)[:12]) or "nothing"
        raise DataError(f"there is no {', '.join(missing)}; there is {has}", "see docs/features.md", **where)


def _size(arrays: Arrays, **where: Any) -> tuple[int, int]:
    """Width and height of the picture."""
    names = ("size",) if "size" in arrays and "width" not in arrays else ("width", "height")
    _require(arrays, names, **where)
    values = [_numbers(arrays[name], "width and height", **where).reshape(-1) for name in names]
    numbers = np.concatenate(values)
    if len(numbers) != 2 or not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        raise DataError(f"width and height are {numbers.tolist()[:4]}, expected two whole numbers of pixels", **where)
    return int(numbers[0]), int(numbers[1])


def _numbers(values: np.ndarray, what: str, **where: Any) -> np.ndarray:
    if values.dtype.kind not in "fiu":
        raise DataError(f"{what} are of type {values.dtype}, expected numbers", "see docs/features.md", **where)
    return values
