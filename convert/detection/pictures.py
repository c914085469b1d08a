"""A folder of pictures: which there are, what they are called, and how they are read."""

import warnings
from pathlib import Path

from PIL import Image, ImageOps

from aladin_jax.errors import DataError, first_line
from aladin_jax.image_names import PICTURE_ENDINGS, find_pictures, image_ids


class UnreadableError(DataError):
    """A file that is no picture, or a damaged or gigantic one."""


def list_pictures(folder: Path) -> list[str]:
    """Names of the pictures in a folder and the folders in it, as `image_names.find_pictures` gives them.

    Raises:
        DataError: there is no such folder, there are no pictures, or two have the same id.
    """
    if not folder.is_dir():
        raise DataError("no such folder", "check --images", path=folder)
    names = list(find_pictures(folder))
    if not names:
        raise DataError("no picture in it", f"pictures end in {', '.join(sorted(PICTURE_ENDINGS))}", path=folder)
    image_ids(names, folder)
    return names


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
        raise UnreadableError(f"{path}: {first_line(error, 120)}") from error
