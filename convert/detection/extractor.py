"""What makes features of a picture, a detector or an encoder, with all that decides what they are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from aladin_jax.errors import DataError
from convert.detection.detector import Detector
from convert.detection.encoder import VisionEncoder
from convert.detection.picture_model import Prepared, checksum
from convert.importing.regions import PixelRegions


class Extractor(NamedTuple):
    """A detector or an encoder with its settings.

    Attributes:
        made: see `FoundFiles.begin`.
        prepare: resizes and normalises a picture.
        extract: regions of prepared pictures of one shape.
    """

    made: Mapping[str, Any]
    prepare: Callable[[Image.Image], Prepared]
    extract: Callable[[Sequence[Prepared]], list[PixelRegions]]


def open_extractor(folder: Path, made: Mapping[str, Any], device: str | None = None) -> Extractor:
    """Loads the detector or encoder of a folder.

    Args:
        folder: of the model.
        made: "detector" or "encoder" with the folder's checksum, and the settings that go with it.
        device: such as "cuda"; None takes that where there is one, else the CPU.

    Raises:
        DataError: the folder's checksum is another, or it cannot be loaded.
    """
    kind = "encoder" if "encoder" in made else "detector"
    if (found := checksum(folder, kind)) != made[kind]:
        problem = f"another {kind} ({found[:12]}) than the one that the features were made with ({made[kind][:12]})"
        raise DataError(problem, "features of two models do not mean the same", path=folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    limits = {name: value for name, value in made.items() if name in ("threshold", "max_regions")}
    model = VisionEncoder(folder, device) if kind == "encoder" else Detector(folder, device)
    return Extractor(made, model.prepare, functools.partial(model.extract, **limits))
