"""A folder of pictures: which there are, what they are called, and how they are read."""

import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps

from aladin_jax.errors import DataError
from aladin_jax.untrusted import check_image_id

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class Pictures(NamedTuple):
    """Pictures by id.

    Attributes:
        paths: where each is.
        renamed: how many have an id that is not their name, because of letters that an id cannot have.
    """

    paths: Mapping[str, Path]
    renamed: int


class UnreadableError(ValueError):
    """A file that is no picture, or a damaged or gigantic one."""


def find_pictures(folder: Path) -> Pictures:
    """Finds the pictures in a folder and the folders in it, by their endings.

    A picture's id is its name without the ending; letters that an id cannot have become `_`.

    Raises:
        DataError: there is no such folder, there are no pictures, or two have the same id.
    """
    if not folder.is_dir():
        raise DataError("no such folder", "check --images", path=folder)
    paths: dict[str, Path] = {}
    renamed = 0
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() not in ENDINGS or name.startswith("."):
                continue
            path = Path(place) / name
            image = check_image_id(re.sub(r"[^A-Za-z0-9_.-]", "_", stem), path=path)
            if image in paths:
                raise DataError(f"has the id of {paths[image]} too", "rename one", path=path, image=image)
            paths[image] = path
            renamed += image != stem
    if not paths:
        raise DataError("no picture in it", f"pictures end in {', '.join(ENDINGS)}", path=folder)
    return Pictures(paths, renamed)


def read_picture(path: Path) -> Image.Image:
    """Reads a picture as RGB, turned as its EXIF orientation says.

    Raises:
        UnreadableError: it is none, or is damaged, or has more pixels than Pillow takes for reasonable.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of damaged metadata, which the pixels do not need.
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(path) as image:
                image.load()
                return ImageOps.exif_transpose(image).convert("RGB")
    except Exception as error:  # Pillow's decoders end in exceptions of every kind
        cause = (str(error).splitlines() or [""])[0][:120]
        raise UnreadableError(f"{path}: {cause or type(error).__name__}") from error
