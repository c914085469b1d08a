"""The one way to open a picture, for features, indices and queries: what it shows upright, in 8-bit RGB on white."""

import contextlib
import functools
import importlib
import io
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from aladin_jax.errors import DataError, first_line
from aladin_jax.image_names import PICTURE_ENDINGS, find_files, image_ids, is_picture

FORMATS = "JPEG PNG WEBP BMP DIB TIFF GIF AVIF HEIF JPEG2000 PPM TGA".split()  # noqa: SIM905
"""What Pillow opens here, whatever a file is called; not what runs other programs, as EPS does."""

_MAX_BYTES = 256 << 20
_MAX_PROPORTION = 200  # of sides: what a model makes of a picture's short side would make the long one endless
_SHOWN = 5  # names and endings in a message
_HEIF = b"ftyp"  # at byte 4 of a HEIC file, and of AVIF


class UnreadableError(DataError):
    """A file that is no picture, or a damaged or gigantic one."""


def list_pictures(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the pictures in a folder and the folders in it, and of the other files, told apart by their endings.

    Raises:
        DataError: there is no such folder, there are no pictures, or two have the same id.
    """
    if not folder.is_dir():
        raise DataError("no such folder", "check --images", path=folder)
    pictures, others = [], []
    for name in find_files(folder):
        (pictures if is_picture(name) else others).append(name)
    if not pictures:
        problem = f"no picture in it{f', but {describe_others(others)}' if others else ''}"
        raise DataError(problem, f"pictures end in {', '.join(sorted(PICTURE_ENDINGS))}", path=folder)
    image_ids(pictures, folder)
    return pictures, others


def describe_others(names: Sequence[str]) -> str:
    """Counts and names files that are passed over, in one line."""
    endings = Counter(os.path.splitext(name)[1].lower() or "without any" for name in names).most_common()
    counts = [f"{count:,} {ending}" for ending, count in endings[:_SHOWN]]
    counts += [f"{sum(count for _, count in endings[_SHOWN:]):,} others"] if len(endings) > _SHOWN else []
    named = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    return f"{len(names):,} files whose endings are no picture's ({', '.join(counts)}): {named}"


def read_picture(source: Path | bytes, **where: Any) -> Image.Image:
    """Reads a picture as RGB.

    It is turned as its EXIF orientation says, deeper numbers are scaled to 8 bits, what is transparent becomes white,
    and of an animation the first frame is taken.

    Args:
        source: a file, or its bytes.
        **where: what `DataError` takes to say where bytes are from.

    Raises:
        UnreadableError: it is none, or is damaged or cut short, has more pixels than Pillow takes for reasonable,
            or is a line.
    """
    where = {"path": source, **where} if isinstance(source, Path) else where
    try:
        content = _read_bounded(source) if isinstance(source, Path) else source
    except OSError as error:
        raise UnreadableError(f"cannot be read ({error.strerror})", **where) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Of damaged metadata, which the pixels do not need.
            warnings.filterwarnings("ignore", category=UserWarning)
            with Image.open(io.BytesIO(content), formats=_formats()) as image:
                if max(image.size) > _MAX_PROPORTION * min(image.size):
                    raise ValueError(f"{image.width} x {image.height} pixels are a line")
                image.load()
                return _flat(_upright(image))
    except Image.UnidentifiedImageError as error:
        heic = "HEIC takes a package more: pip install pillow-heif"
        cause = heic if content[4:8] == _HEIF else "of no format that is known here"
        raise UnreadableError(f"not a picture that can be read ({cause})", "replace or remove it", **where) from error
    except Exception as error:  # Pillow's decoders end in exceptions of every kind
        cause = first_line(error, 120)
        raise UnreadableError(f"not a picture that can be read ({cause})", "replace or remove it", **where) from error


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > _MAX_BYTES:
        raise UnreadableError(f"larger than {_MAX_BYTES:,} bytes", "make it smaller", path=path)
    return path.read_bytes()


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that Pillow has here; HEIC where the package for it is installed."""
    Image.init()
    with contextlib.suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data: the pixels are there all the same
        return image


def _flat(image: Image.Image) -> Image.Image:
    """8-bit RGB, on white where it is transparent."""
    if image.mode.startswith("I;16"):
        image = _scaled(image, 0, 65535)
    elif image.mode in ("I", "F"):
        image = _scaled(image, *_range(np.asarray(image)))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above)
    return image.convert("RGB")


def _range(values: np.ndarray) -> tuple[float, float]:
    """Black and white of numbers that may be anything: shares, 8 or 16 bits; or else their own range."""
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    whites = [1, 255, 65535] if values.dtype.kind == "f" else [255, 65535]
    return (0, next(white for white in whites if most <= white)) if least >= 0 and most <= 65535 else (least, most)


def _scaled(image: Image.Image, black: float, white: float) -> Image.Image:
    values = (np.nan_to_num(np.asarray(image, np.float64)) - black) / max(white - black, 1e-12)
    return Image.fromarray(np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8))
