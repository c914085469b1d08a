"""Features as Oscar published them: box encodings already at the regions' end, but not always VinVL's.

Oscar's own end in w, h, VinVL's in h, w; some .tsv files hold float16, or count each box twice (read as float32 with
`num_boxes` boxes, they look 1027 wide). What a file is follows from its numbers: in the right reading, h and w are
the differences of the corners.
"""

import abc
import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from aladin_jax.data.box_encoding import HEIGHT_WIDTH, explains
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, check_name, check_text, decode, parse_json
from convert.boxes import LayoutTally, to_height_width
from convert.raw.detections import (
    MAX_DETECTIONS_BYTES,
    MAX_REGIONS,
    MAX_ROW_BYTES,
    Detections,
    decode_base64,
    parse_detections,
    require_finite,
)
from convert.raw.image_rows import ImageRows
from convert.raw.vinvl_files import VinvlFiles

_SAMPLE = 200  # images that are read to find the layout; all are held against it later


class _EncodedReader(abc.ABC):
    """Regions whose last columns are box encodings, of a layout that is found from the first images read."""

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []
        self._layout = HEIGHT_WIDTH
        self._files = contextlib.ExitStack()

    def __enter__(self) -> "_EncodedReader":
        """Nothing to do: files are open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._files.close()

    @abc.abstractmethod
    def names(self) -> Collection[str]:
        """The images' ids."""

    @abc.abstractmethod
    def _where(self, name: str) -> dict[str, Any]:
        """What `DataError` takes to say where an image's regions are."""

    @abc.abstractmethod
    def _read(self, name: str) -> Detections:
        """Reads one image as it is in the files."""

    def detections(self, name: str) -> Detections:
        """Reads one image; its regions end in x1, y1, x2, y2, h, w.

        Raises:
            DataError: the image is not there or is damaged, or its boxes are not of the other images' layout.
        """
        found = self._read(name)
        fits, _ = explains(self._layout, found.regions)
        if not fits.all():
            raise DataError(
                f"region {int(np.argmin(fits))} does not end in {self._layout}, as those of the other images do",
                "python -m convert.inspect lists all such images; extract their features again",
                **self._where(name),
            )
        return Detections(to_height_width(found.regions, self._layout), found.tags)

    def _sample(self) -> list[str]:
        """Images from all over the file."""
        names = list(self.names())
        return names[:: -(-len(names) // _SAMPLE)]

    def _settle(self) -> None:
        """Finds the layout.

        Raises:
            DataError: there is none, or boxes are not scaled.
        """
        tally = LayoutTally()
        for row, name in enumerate(self._sample()):
            tally.add(self._read(name).regions, row, name)
        layout, scaled, reason = tally.verdict()
        if layout is None or not scaled:
            problem = f"boxes end in {layout}, but are not scaled to [0, 1]" if layout else "no known box encoding"
            raise DataError(
                f"{problem} ({reason})", "import from boxes in pixels instead (see docs/features.md)", path=self.path
            )
        self._layout = layout
        change = "" if layout == HEIGHT_WIDTH else f", written as {HEIGHT_WIDTH}"
        self.notes.append(f"regions end in {layout}{change}: {reason}")


class VinvlReader(_EncodedReader):
    """VinVL's features.tsv, of any width, with its index and predictions.tsv where they are."""

    def __init__(self, path: Path):
        """Opens the files.

        Raises:
            DataError: as `VinvlFiles`; the boxes' layout is unknown.
        """
        super().__init__(path)
        with contextlib.ExitStack() as stack:
            self._images = stack.enter_context(VinvlFiles(path, feature_dim=None))
            self.notes += self._images.notes
            self._settle()
            self._files = stack.pop_all()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._images.names()

    def _where(self, name: str) -> dict[str, Any]:
        return {"path": self.path, "image": name}

    def _read(self, name: str) -> Detections:
        return self._images.detections(name)


class OscarPt(_EncodedReader):
    """Oscar's `*_img_frcnn_feats.pt`: a torch-saved dict from image ids to regions [r, f].

    Such a file is mapped into memory if PyTorch 1.6 or later wrote it; an older one is read into it.
    """

    def __init__(self, paths: Sequence[Path], labels: Sequence[Path] = ()):
        """Reads the files.

        Args:
            paths: of features.
            labels: `*_labels.pt` with the classes: a dict from image ids to one text, or to a list of objects with
                a "class". Without it images have no tags.

        Raises:
            DataError: a file is missing, damaged or something else, or the boxes' layout is unknown.
        """
        super().__init__(paths[0])
        self._regions = _merge_dicts(paths)
        self._labels = _merge_dicts(labels) if labels else None
        if self._labels is None:
            self.notes.append("no --labels: images will have no tags")
        self._settle()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._regions.keys()

    def _where(self, name: str) -> dict[str, Any]:
        return {"path": self._regions[name].path, "image": name}

    def _read(self, name: str) -> Detections:
        where = self._where(name)
        value = self._regions[name].value
        kind, shape = str(getattr(value, "dtype", type(value).__name__)), tuple(getattr(value, "shape", ()))
        if kind not in ("torch.float32", "torch.float16") or len(shape) != 2 or shape[0] > MAX_REGIONS:
            problem = f"found {kind.removeprefix('torch.')}{list(shape)}, expected float32 [regions, width]"
            raise DataError(problem, f"with up to {MAX_REGIONS} regions", **where)
        regions = require_finite(value.detach().numpy(), **where)
        return Detections(regions, self._tags(name) if len(regions) else [])

    def _tags(self, name: str) -> list[str]:
        if self._labels is None:
            return []
        if name not in self._labels:
            raise DataError("no labels for it", "take features and labels of the same split", **self._where(name))
        path, value = self._labels[name]
        if isinstance(value, str):
            return check_text(value, "the labels", path=path, image=name).split()
        content = json.dumps(value, default=lambda _: None).encode()  # the shape of a row of predictions.tsv
        return parse_detections(content, path=path, image=name).classes


class OscarTsv(_EncodedReader):
    """Oscar's `*.feature.tsv`: an image's id and {"num_boxes": r, "features": base64}.

    The classes are in `*.label.tsv`, whose rows are those of predictions.tsv. VinVL's were made with another threshold
    than its features, so there may be more or fewer of them than regions.
    """

    # What the bytes are, and how many of `num_boxes` are one box.
    _READINGS = {  # noqa: RUF012
        "float32": (np.dtype("<f4"), 1),
        "float16": (np.dtype("<f2"), 1),
        "float32 with num_boxes twice the number of boxes": (np.dtype("<f4"), 2),
    }

    def __init__(self, paths: Sequence[Path], labels: Sequence[Path] = ()):
        """Opens the files and finds out what they hold.

        Args:
            paths: of features.
            labels: of classes; without them images have no tags.

        Raises:
            DataError: as `ImageRows`; the boxes' layout is unknown, whichever way the bytes are read.
        """
        super().__init__(paths[0])
        with contextlib.ExitStack() as stack:
            self._images = stack.enter_context(ImageRows(paths, _parse_row, counts=(2,), max_bytes=MAX_ROW_BYTES))
            self._labels = None
            if labels:
                self._labels = stack.enter_context(
                    ImageRows(labels, _parse_labels, counts=(2,), max_bytes=MAX_DETECTIONS_BYTES)
                )
            else:
                self.notes.append("no --labels: images will have no tags")
            self.notes += [*self._images.found.notes, *(self._labels.found.notes if self._labels else [])]
            self._reading = self._find_reading()
            self._settle()
            self._files = stack.pop_all()

    def names(self) -> Collection[str]:
        """The images' ids."""
        return self._images.names()

    def _where(self, name: str) -> dict[str, Any]:
        return self._images.where(name)

    def _read(self, name: str) -> Detections:
        regions = self._decode(name, *self._reading)
        if self._labels is None or not len(regions):
            return Detections(regions, [])
        if name not in self._labels.names():
            raise DataError("no labels for it", "take features and labels of the same split", **self._where(name))
        return Detections(regions, self._labels.read(name))

    def _decode(self, name: str, dtype: np.dtype, twice: int) -> Float[np.ndarray, "r f"]:
        where = self._where(name)
        count, numbers = self._images.read(name)
        boxes, rest = divmod(count, twice)
        width = len(numbers) // max(1, boxes * dtype.itemsize)
        if rest or len(numbers) != boxes * width * dtype.itemsize or boxes > MAX_REGIONS:
            raise DataError(
                f"num_boxes {count} with {len(numbers):,} bytes of features of {dtype.name}", COPY_AGAIN, **where
            )
        regions = np.frombuffer(numbers, dtype).reshape(boxes, width)
        return require_finite(regions, **where)

    def _find_reading(self) -> tuple[np.dtype, int]:
        tried = []
        for name, reading in self._READINGS.items():
            tally = LayoutTally()
            try:
                for row, image in enumerate(self._sample()):
                    tally.add(self._decode(image, *reading), row, image)
            except DataError as error:
                tried.append(f"as {name}: {error}")
                continue
            verdict = tally.verdict()
            if verdict.layout:
                self.notes.append(f"features are {name}")
                return reading
            tried.append(f"as {name}: {verdict.reason}")
        raise DataError(f"no known box encoding, whichever way it is read ({'; '.join(tried)})", path=self.path)


def _parse_row(fields: list[bytes], where: dict[str, Any]) -> tuple[int, bytes]:
    """num_boxes and the bytes of the features."""
    row = parse_json(decode(fields[1], **where), **where)
    count, content = (row.get("num_boxes"), row.get("features")) if isinstance(row, dict) else (None, None)
    if type(count) is not int or not 0 <= count <= 2 * MAX_REGIONS or not isinstance(content, str):
        problem = f'found {shown(row)} with num_boxes {shown(count)}, expected {{"num_boxes": ..., "features": ...}}'
        raise DataError(problem, COPY_AGAIN, **where)
    numbers = decode_base64(content.encode("ascii", "replace"), "features", **where)
    if len(numbers) % max(1, count):
        raise DataError(f"num_boxes {count} with {len(numbers):,} bytes of features", COPY_AGAIN, **where)
    return count, numbers


def _parse_labels(fields: list[bytes], where: dict[str, Any]) -> list[str]:
    return parse_detections(fields[1], **where).classes


class _Entry(NamedTuple):
    path: Path
    value: Any


def _merge_dicts(paths: Sequence[Path]) -> Mapping[str, _Entry]:
    """Several torch-saved dicts from image ids as one."""
    try:
        from convert.torch_files import load_torch
    except ImportError as error:
        problem = "it takes PyTorch to read it"
        raise DataError(problem, "pip install 'aladin-jax[convert]'", path=paths[0]) from error
    merged: dict[str, _Entry] = {}
    for path in paths:
        content = load_torch(path)
        if not isinstance(content, dict) or not content:
            raise DataError(f"found {shown(content)}, expected a dict from image ids", COPY_AGAIN, path=path)
        for key, value in content.items():
            image = check_name(str(key) if type(key) is int and abs(key) < 10**127 else key, "an image's id", path=path)
            if image in merged:
                raise DataError(f"is in {merged[image].path} too", "keep one of them", path=path, image=image)
            merged[image] = _Entry(path, value)
    return merged
