"""Opens a stranger's picture in a process of its own, which is ended where it takes too long or too much memory.

Decoders are C code, and files are made to crash it, to unpack without end, or to keep it busy for minutes.
"""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from aladin_jax.pictures import UnreadableError, read_picture

_SIZE = struct.Struct("<II")  # before the pixels
_REFUSED = 3  # exit status; that of an exception that nobody expected is 1
_HERE = Path(__file__).parents[2]  # where it finds this package
_REMEDY = "make it smaller, or send it as a JPEG"


def read_picture_apart(content: bytes, *, max_pixels: int, seconds: float, max_memory: int = 2 << 30) -> Image.Image:
    """Reads a picture as `pictures.read_picture` does, bounded in all that it may take.

    Args:
        content: a picture's file.
        max_pixels: that it may have.
        seconds: that it may take.
        max_memory: bytes that it may take.

    Raises:
        UnreadableError: it is none, or takes more.
    """
    command = [sys.executable, "-m", __name__, str(max_pixels), str(max_memory)]
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=seconds, cwd=_HERE, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreadableError(f"the picture was not read within {seconds:g} seconds", _REMEDY) from error
    if done.returncode == _REFUSED:
        raise UnreadableError(done.stderr.decode("utf-8", "replace").strip())
    if done.returncode:
        raise UnreadableError("the picture's decoder broke down over it", _REMEDY)
    width, height = _SIZE.unpack_from(done.stdout)
    return Image.fromarray(np.frombuffer(done.stdout, np.uint8, offset=_SIZE.size).reshape(height, width, 3))


def main() -> int:
    """Reads a picture from standard input and writes its size and pixels, or the error."""
    max_pixels, max_memory = map(int, sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # nothing of it is kept
    Image.MAX_IMAGE_PIXELS = max_pixels  # before anything is unpacked
    try:
        image = read_picture(sys.stdin.buffer.read())
    except UnreadableError as error:
        print(error, file=sys.stderr)
        return _REFUSED
    sys.stdout.buffer.write(_SIZE.pack(*image.size))
    sys.stdout.buffer.write(image.tobytes())
    return 0


if __name__ == "__main__":
    sys.exit(main())
