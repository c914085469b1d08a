"""Features as Oscar published them: box encodings already at the regions' end, but not always VinVL's.

Oscar's own end in w, h, VinVL's in h, w; some .tsv files hold float16, or count each box twice (read as float32 with
`num_boxes` boxes, they look 1027 wide). What a file is follows from its numbers: in the right reading, h and w are
the differences of the corners.
"""

import abc
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aladin_jax.data.box_encoding import HEIGHT_WIDTH, explains
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import COPY_AGAIN, check_name, check_text, decode, parse_json
from convert.boxes import LayoutTally, Verdict, to_height_width
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
from convert.raw.region_reader import RegionReader
from convert.raw.vinvl_files import VinvlFiles, parse_row, read_torch_dict

_SAMPLE = 200  # images that are read to find the layout; all are held against it later


class _EncodedReader(RegionReader):
    """Regions whose last columns are box encodings, of a layout that is found from a sample of the images."""

    _layout = HEIGHT_WIDTH

    def _where(self, name: str) -> dict[str, Any]:
        """What `DataError` takes to say where an image's regions are."""
        return {"path": self.path, "image": name}

    @abc.abstractmethod
    def _read(self, name: str) -> Detections:
        """Reads one image as it is in the files."""

    def detections(self, name: str) -> Detections:
        """Reads one image; its regions end in x1, y1, x2, y2, h, w, and have to be of the others' layout."""
        found = self._read(name)
        fits, _ = explains(self._layout, found.regions)
        if not fits.all():
            raise DataError(
                f"region {int(np.argmin(fits))} does not end in {self._layout}, as those of the other images do",
                "python -m convert.inspect lists all such images; extract their features again",
                **self._where(name),
            )
        return Detections(to_height_width(found.regions, self._layout), found.tags)

    def _verdict(self, read: Callable[[str], Float[np.ndarray, "r f"]]) -> Verdict:
        """What is known of the layout from images all over the file, whose regions `read` gives."""
        names, tally = list(self._names), LayoutTally()
        for row, name in enumerate(names[:: -(-len(names) // _SAMPLE)]):
            tally.add(read(name), row, name)
        return tally.verdict()

    def _settle(self) -> None:
        """Finds the layout.

        Raises:
            DataError: there is none, or boxes are not scaled.
        """
        layout, scaled, reason = self._verdict(lambda name: self._read(name).regions)
        if layout is None or not scaled:
            problem = f"boxes end in {layout}, but are not scaled to [0, 1]" if layout else "no known box encoding"
            remedy = "import from boxes in pixels instead (see docs/features.md)"
            raise DataError(f"{problem} ({reason})", remedy, path=self.path)
        self._layout = layout
        change = "" if layout == HEIGHT_WIDTH else f", written as {HEIGHT_WIDTH}"
        self.note(f"regions end in {layout}{change}: {reason}")


class VinvlReader(_EncodedReader):
    """VinVL's features.tsv, of any width, with its index and predictions.tsv where they are."""

    def __init__(self, path: Path):
        """Finds the rows and the boxes' layout.

        Raises:
            DataError: as `VinvlFiles`; the boxes' layout is unknown.
        """
        super().__init__(path)
        self._images = VinvlFiles(path, feature_dim=None)
        self._names = self._images.names()
        self.note(*self._images.notes)
        self._settle()

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
        self._names = self._regions = _merge_dicts(paths)
        self._labels = _merge_dicts(labels) if labels else None
        if self._labels is None:
            self.note("no --labels: images will have no tags")
        self._settle()

    def _where(self, name: str) -> dict[str, Any]:
        return {"path": self._regions[name][0], "image": name}

    def _read(self, name: str) -> Detections:
        where = self._where(name)
        value = self._regions[name][1]
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
        """Finds the rows, and how their bytes are to be read.

        Args:
            paths: of features.
            labels: of classes; without them images have no tags.

        Raises:
            DataError: as `ImageRows`; the boxes' layout is unknown, whichever way the bytes are read.
        """
        super().__init__(paths[0])
        self._images = ImageRows(paths, _parse_features, counts=(2,), max_bytes=MAX_ROW_BYTES)
        self._names = self._images.places
        self._labels = ImageRows(labels, parse_row, counts=(2,), max_bytes=MAX_DETECTIONS_BYTES) if labels else None
        if self._labels is None:
            self.note("no --labels: images will have no tags")
        self.note(*self._images.notes, *(self._labels.notes if self._labels else []))
        self._reading = self._find_reading()
        self._settle()

    def _where(self, name: str) -> dict[str, Any]:
        return self._images.where(name)

    def _read(self, name: str) -> Detections:
        regions = self._decode(name, *self._reading)
        if self._labels is None or not len(regions):
            return Detections(regions, [])
        if name not in self._labels.places:
            raise DataError("no labels for it", "take features and labels of the same split", **self._where(name))
        return Detections(regions, self._labels.read(name).classes)

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
            try:
                verdict = self._verdict(lambda image, reading=reading: self._decode(image, *reading))
            except DataError as error:
                tried.append(f"as {name}: {error}")
                continue
            if verdict.layout:
                self.note(f"features are {name}")
                return reading
            tried.append(f"as {name}: {verdict.reason}")
        raise DataError(f"no known box encoding, whichever way it is read ({'; '.join(tried)})", path=self.path)


def _parse_features(fields: list[bytes], where: dict[str, Any]) -> tuple[int, bytes]:
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


def _merge_dicts(paths: Sequence[Path]) -> Mapping[str, tuple[Path, Any]]:
    """Several torch-saved dicts from image ids as one: where each entry is from, and what it holds."""
    merged: dict[str, tuple[Path, Any]] = {}
    for path in paths:
        for key, value in read_torch_dict(path):
            image = check_name(key, "an image's id", path=path)
            if image in merged:
                raise DataError(f"is in {merged[image][0]} too", "keep one of them", path=path, image=image)
            merged[image] = (path, value)
    return merged
