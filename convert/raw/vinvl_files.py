"""Reads VinVL's files as the original takes them: region features, detections, captions, image keys.

Nothing that a file says is trusted: what is wrong ends in one `DataError`. Rows are read one at a time by their offset,
so memory stays bounded however large the features are (about 50 GB for COCO).
"""

import contextlib
import os
from collections.abc import Collection, Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import DTypeLike

from aladin_jax.data.records import read_image_keys
from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import (
    COPY_AGAIN,
    MAX_TEXT_BYTES,
    check_image_id,
    check_name,
    check_text,
    parse_json,
    read_text,
    require_file,
)
from convert.raw.detections import (
    FEATURE_DIM,
    MAX_DETECTIONS_BYTES,
    MAX_FEATURE_DIM,
    MAX_REGIONS,
    Detections,
    decode_regions,
    parse_detections,
    require_finite,
)
from convert.raw.image_rows import FoundRows, ImageRows, Place
from convert.raw.indexed_tsv import open_tsv


class FoundFiles(NamedTuple):
    """What is known of VinVL's files after they were gone through; pickles, so that no other process has to.

    Attributes:
        features: rows of features.tsv.
        predictions: rows of predictions.tsv; None where there is no such file.
    """

    features: FoundRows
    predictions: FoundRows | None


class VinvlFiles:
    """Random access by image id to features.tsv and to the predictions.tsv beside it.

    imageid2idx.json gives an image's row of features.tsv, and each .tsv has its .lineidx; where they are not there,
    rows are found by reading the .tsv once. Rows of predictions.tsv are found by the id that they hold, so the two need
    not be in the same order; without that file images have no tags. A context manager; reads from several threads do
    not disturb each other.

    Attributes:
        path: of features.tsv.
        found: which rows there are.
    """

    def __init__(
        self,
        img_feat_file: str | os.PathLike[str],
        *,
        feature_dim: int | None = FEATURE_DIM,
        dtype: DTypeLike = np.float32,
        found: FoundFiles | None = None,
    ):
        """Opens the files and checks their indices; of the rows, only the ids are read.

        Args:
            img_feat_file: path of features.tsv.
            feature_dim: width of a region, the same in every row; None takes each row's.
            dtype: what regions are given as, float32 or float16.
            found: what another reader of these files found; None finds it.

        Raises:
            DataError: there is no features.tsv, or an index is wrong.
        """
        self.path = Path(img_feat_file)
        self._feature_dim = feature_dim
        self._dtype = np.dtype(dtype)
        index = self.path.with_name("imageid2idx.json")
        predictions = self._predictions_path = self.path.with_name("predictions.tsv")
        self._names_from = index if index.is_file() else self.path
        with contextlib.ExitStack() as stack:
            before = found.features if found else _indexed_rows(self.path, index) if index.is_file() else None
            widest = feature_dim or MAX_FEATURE_DIM
            limit = 256 + MAX_REGIONS * widest * 16 // 3  # a float32 takes 16/3 bytes of base64
            self._features = stack.enter_context(
                ImageRows([self.path], self._parse_regions, counts=(3,), max_bytes=limit, found=before)
            )
            self._predictions = None
            if predictions.is_file():
                self._predictions = stack.enter_context(
                    ImageRows(
                        [predictions],
                        lambda fields, where: parse_detections(fields[1], **where),
                        counts=(2,),
                        max_bytes=MAX_DETECTIONS_BYTES,
                        found=found.predictions if found else None,
                    )
                )
            self.found = FoundFiles(self._features.found, self._predictions.found if self._predictions else None)
            self._stack = stack.pop_all()

    def __enter__(self) -> "VinvlFiles":
        """Nothing to do: the files are open from the start."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self.close()

    def close(self) -> None:
        """Closes the files."""
        self._stack.close()

    @property
    def notes(self) -> list[str]:
        """What the user should know of the files, one line each."""
        if self._predictions is None:
            return [*self._features.found.notes, f"there is no predictions.tsv beside {self.path}: images have no tags"]
        return [*self._features.found.notes, *self._predictions.found.notes]

    def names(self) -> Collection[str]:
        """The images that there are."""
        return self._features.names()

    def require(self, images: Iterable[str], wanted_by: str | os.PathLike[str]) -> None:
        """Checks that images have their rows, without reading them.

        Args:
            images: ids.
            wanted_by: the file that names them.

        Raises:
            DataError: naming the first image that is missing, and how many are.
        """
        images = list(images)
        for rows, path in ((self._features, self._names_from), (self._predictions, self._predictions_path)):
            missing = [image for image in images if rows is not None and image not in rows.names()]
            if missing:
                raise DataError(
                    f"{len(missing)} of {len(images)} images, this one first, are not in {path}",
                    "take features made for these captions, or remove the images' captions",
                    path=wanted_by,
                    image=missing[0],
                )

    def detections(self, image: str) -> Detections:
        """Reads one image; no regions and no tags where nothing was detected.

        Raises:
            DataError: the image is not there, or one of its rows is wrong.
        """
        self.require([image], self.path)
        regions = self._features.read(image)
        if self._predictions is None:
            return Detections(regions, [])
        tags = self._predictions.read(image).classes
        if len(tags) != len(regions):
            raise DataError(
                f"{len(tags)} detections, but {self.path} has {len(regions)} boxes",
                "take both files from one run of the detector",
                **self._predictions.where(image),
            )
        return Detections(regions, tags)

    def _parse_regions(self, fields: list[bytes], where: dict[str, Any]) -> Float[np.ndarray, "r f"]:
        regions = decode_regions(fields[1], fields[2], self._feature_dim, **where)
        return require_finite(regions, self._dtype, **where)


def read_captions(path: str | os.PathLike[str]) -> dict[str, list[str]]:
    """Reads `*_captions.pt`: a torch-saved dict, zip or legacy, from image ids to captions.

    An id is a whole number or a text; captions are a list of texts, or such a list as JSON text.

    Returns:
        Captions by image id, in the file's order.

    Raises:
        DataError: the file's pickle names anything to run, is damaged, or holds something else.
    """
    path = Path(path)
    content = _load_torch(path)
    if not isinstance(content, dict) or not content:
        found = "nothing" if content == {} else shown(content)
        raise DataError(f"holds {found}, expected a dict from image ids to captions", "save it again", path=path)
    captions: dict[str, list[str]] = {}
    for key, value in content.items():
        image = check_image_id(str(key) if type(key) is int and abs(key) < 10**127 else key, path=path)
        if image in captions:
            raise DataError("the id stands there as a number and as text", "keep one of them", path=path, image=image)
        captions[image] = _check_captions(value, path=path, image=image)
    return captions


def check_image_keys(path: str | os.PathLike[str], known: Container[str]) -> None:
    """Checks that a keys file names no image but known ones.

    Raises:
        DataError: as `read_image_keys`; a key is not in `known`.
    """
    for row, image in enumerate(read_image_keys(path)):
        if image not in known:
            raise DataError("an image without captions", "remove the line", path=path, row=row, image=image)


def _indexed_rows(features: Path, path: Path) -> FoundRows:
    """The rows of features.tsv that imageid2idx.json says."""
    rows = parse_json(read_text(path), path=path)
    if not isinstance(rows, dict):
        raise DataError(f"holds {shown(rows)}, expected an object from image ids to rows", COPY_AGAIN, path=path)
    images: dict[int, str] = {}
    for image, row in rows.items():
        check_name(image, "an image's id", path=path)
        if type(row) is not int:
            raise DataError(f"row is {shown(row)}, expected a whole number", COPY_AGAIN, path=path, image=image)
        if row in images:
            raise DataError(f"row {row} is image {images[row]} too", "make the file again", path=path, image=image)
        images[row] = image
    with open_tsv(features, images) as file:
        for row, image in images.items():
            if not 0 <= row < len(file):
                raise DataError(
                    f"row {row}, but {features.name} has {len(file)} rows"
                    + (" by its .lineidx" if features.with_suffix(".lineidx").is_file() else ""),
                    "one of them is cut short or another file's, copy all again",
                    path=path,
                    image=image,
                )
        return FoundRows([file.offsets], {image: Place(0, row) for image, row in rows.items()}, [])


def _load_torch(path: Path) -> object:
    require_file(path, MAX_TEXT_BYTES)
    try:
        from convert.torch_files import load_torch
    except ImportError as error:
        raise DataError("it takes PyTorch to read it", "pip install 'aladin-jax[convert]'", path=path) from error
    return load_torch(path)


def _check_captions(value: object, **where: Any) -> list[str]:
    if isinstance(value, str):
        value = parse_json(value, **where)
    if not isinstance(value, list):
        raise DataError(f"captions are {shown(value)}, expected a list of texts", "save the file again", **where)
    if not value:
        raise DataError("no caption", "add one or remove the image from the file", **where)
    return [check_text(caption, f"caption {position}", **where) for position, caption in enumerate(value)]
