"""Reads VinVL's files as the original takes them: region features, detections, captions, image keys.

Nothing that a file says is trusted: what is wrong ends in one `DataError`. Rows are read one at a time by their offset,
so memory stays bounded however large the features are (about 50 GB for COCO).
"""

import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from aladin_jax.data.records import read_image_keys
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import MAX_TEXT_BYTES, check_image_id, check_text, parse_json, require_file
from convert.raw.detections import (
    FEATURE_DIM,
    MAX_DETECTIONS_BYTES,
    MAX_FEATURE_DIM,
    MAX_REGIONS,
    DetectedObjects,
    Detections,
    decode_regions,
    parse_detections,
    require_finite,
)
from convert.raw.image_rows import ImageRows
from convert.raw.region_reader import RegionReader


class VinvlFiles(RegionReader):
    """features.tsv, and the predictions.tsv beside it.

    imageid2idx.json gives an image's row of features.tsv, and each .tsv has its .lineidx; where they are not there,
    rows are found by reading the .tsv once. Rows of predictions.tsv are found by the id that they hold, so the two need
    not be in the same order; without that file images have no tags.
    """

    def __init__(self, img_feat_file: str | os.PathLike[str], *, feature_dim: int | None = FEATURE_DIM):
        """Finds the rows and checks the indices; of the rows, only the ids are read.

        Args:
            img_feat_file: path of features.tsv.
            feature_dim: width of a region, the same in every row; None takes each row's.

        Raises:
            DataError: there is no features.tsv, or an index is wrong.
        """
        super().__init__(Path(img_feat_file))
        self._feature_dim = feature_dim
        index = self.path.with_name("imageid2idx.json")
        self._names_from = index if index.is_file() else self.path
        self._features = ImageRows(
            [self.path],
            self._parse_regions,
            counts=(3,),
            max_bytes=256 + MAX_REGIONS * (feature_dim or MAX_FEATURE_DIM) * 16 // 3,  # of base64 for a float32
            index=index if index.is_file() else None,
        )
        self._names = self._features.places
        self.note(*self._features.notes)
        self._predictions = None
        predictions = self.path.with_name("predictions.tsv")
        if predictions.is_file():
            self._predictions = ImageRows([predictions], parse_row, counts=(2,), max_bytes=MAX_DETECTIONS_BYTES)
            self.note(*self._predictions.notes)
        else:
            self.note(f"there is no predictions.tsv beside {self.path}: images have no tags")

    def require(self, images: Iterable[str], wanted_by: str | os.PathLike[str]) -> None:
        """Checks that images have their rows, without reading them.

        Args:
            images: ids.
            wanted_by: the file that names them.

        Raises:
            DataError: naming the first image that is missing, and how many are.
        """
        images = list(images)
        files = [(self._features, self._names_from)]
        files += [(self._predictions, self._predictions.path)] if self._predictions else []
        for rows, path in files:
            if missing := [image for image in images if image not in rows.places]:
                raise DataError(
                    f"{len(missing)} of {len(images)} images, this one first, are not in {path}",
                    "take features made for these captions, or remove the images' captions",
                    path=wanted_by,
                    image=missing[0],
                )

    def detections(self, name: str, dtype: DTypeLike = np.float32) -> Detections:
        """Reads one image, its regions as float32 or float16; see `RegionReader`."""
        self.require([name], self.path)
        regions = self._features.read(name)
        if dtype != regions.dtype:
            regions = require_finite(regions, dtype, **self._features.where(name))
        if self._predictions is None:
            return Detections(regions, [])
        tags = self._predictions.read(name).classes
        if len(tags) != len(regions):
            raise DataError(
                f"{len(tags)} detections, but {self.path} has {len(regions)} boxes",
                "take both files from one run of the detector",
                **self._predictions.where(name),
            )
        return Detections(regions, tags)

    def _parse_regions(self, fields: list[bytes], where: dict[str, Any]) -> Float[np.ndarray, "r f"]:
        return require_finite(decode_regions(fields[1], fields[2], self._feature_dim, **where), **where)


def parse_row(fields: list[bytes], where: dict[str, Any]) -> DetectedObjects:
    """What a row of predictions.tsv or of Oscar's label.tsv holds."""
    return parse_detections(fields[1], **where)


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Reads `*_captions.pt`: a torch-saved dict, zip or legacy, from image ids to captions.

    An id is a whole number or a text; captions are a list of texts, or such a list as JSON text.

    Returns:
        Captions by image id, in the file's order.

    Raises:
        DataError: the file's pickle names anything to run, is damaged, or holds something else.
    """
    path = Path(path)
    require_file(path, MAX_TEXT_BYTES)
    captions: dict[str, list[str]] = {}
    for key, value in read_torch_dict(path):
        image = check_image_id(key, path=path)
        if image in captions:
            raise DataError("the id stands there as a number and as text", "keep one of them", path=path, image=image)
        captions[image] = _check_captions(value, path=path, image=image)
    return captions


def read_torch_dict(path: Path) -> Iterable[tuple[object, Any]]:
    """The entries of a torch-saved dict from image ids; an id that is a number is given as text.

    Raises:
        DataError: as `load_torch`; it is no dict, or empty; PyTorch is not installed.
    """
    try:
        from convert.torch_files import load_torch
    except ImportError as error:
        raise DataError("it takes PyTorch to read it", "pip install 'aladin-jax[convert]'", path=path) from error
    content = load_torch(path)
    if not isinstance(content, dict) or not content:
        found = "nothing" if content == {} else shown(content)
        raise DataError(f"holds {found}, expected a dict from image ids", "save it again", path=path)
    return [(str(key) if type(key) is int and abs(key) < 10**127 else key, value) for key, value in content.items()]


def check_image_keys(path: str | os.PathLike[str], known: Container[str]) -> None:
    """Checks that a keys file names no image but known ones.

    Raises:
        DataError: as `read_image_keys`; a key is not in `known`.
    """
    for row, image in enumerate(read_image_keys(path)):
        if image not in known:
            raise DataError("an image without captions", "remove the line", path=path, row=row, image=image)


def _check_captions(value: object, **where: Any) -> list[str]:
    if isinstance(value, str):
        value = parse_json(value, **where)
    if not isinstance(value, list):
        raise DataError(f"captions are {shown(value)}, expected a list of texts", "save the file again", **where)
    if not value:
        raise DataError("no caption", "add one or remove the image from the file", **where)
    return [check_text(caption, f"caption {position}", **where) for position, caption in enumerate(value)]
