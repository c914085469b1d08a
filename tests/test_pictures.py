"""The one way to open a picture: upright, 8 bits, on white."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from aladin_jax.pictures import UnreadableError, read_picture
from tests.convert.tiny_detectors import photograph

GREY = np.tile(np.arange(0, 65536, 1024, np.uint16), (8, 1))  # from black to white


def read(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return np.asarray(read_picture(file.getvalue()))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(kind):
    found = read(Image.fromarray(GREY), kind)
    np.testing.assert_allclose(found[0, :, 0], GREY[0] / 257, atol=1)


@pytest.mark.parametrize(
    ("values", "brightest"),
    [
        (np.linspace(0, 1, 64, dtype=np.float32), 255),
        (np.linspace(0, 255, 64, dtype=np.float32), 255),
        (np.linspace(-4, 4, 64, dtype=np.float32), 255),
        (np.linspace(0, 128, 64).astype(np.int32), 128),
        (np.linspace(0, 65535, 64).astype(np.int32), 255),
        (np.linspace(0, 2**30, 64).astype(np.int32), 255),
    ],
)
def test_deeper_numbers_keep_their_contrast(values, brightest):
    found = read(Image.fromarray(np.tile(values, (4, 1))), "TIFF")
    assert (found.min(), found.max()) == (0, brightest)
    assert (np.diff(found[0, :, 0].astype(int)) >= 0).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(kind, mode):
    image = Image.new(mode, (6, 4), (0,) * len(mode))
    image.paste((0,) * (len(mode) - 1) + (255,), (0, 0, 3, 4))
    found = read(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert found[:, :3].max() == 0
    assert found[:, 3:].min() == 255


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    image = Image.new("RGB", (6, 4), (10, 10, 10)).convert(mode)
    image.putpixel((0, 0), 0 if mode != "RGB" else (0, 0, 0))
    colour = image.getpixel((5, 3))
    assert (read(image, "PNG", transparency=colour)[3, 5] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_upright_whichever_way_it_is_stored(kind, orientation):
    upright = np.asarray(Image.open(photograph("coffee.png")).convert("RGB").resize((60, 40)))
    stored = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
    stored |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: a.swapaxes(0, 1)[::-1]}
    stored |= {7: lambda a: a[::-1, ::-1].swapaxes(0, 1), 8: lambda a: a.swapaxes(0, 1)[:, ::-1]}
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    found = read(Image.fromarray(np.ascontiguousarray(stored[orientation](upright))), kind, exif=exif, **lossless)
    assert found.shape == upright.shape
    assert np.abs(found.astype(int) - upright).mean() < 8


def test_damaged_exif_data_do_not_cost_the_picture():
    image = Image.new("RGB", (8, 6), "red")
    assert read(image, "JPEG", exif=b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"\xff" * 9).shape == (6, 8, 3)


def test_cmyk_keeps_its_colours():
    found = read(Image.new("RGB", (16, 16), (250, 40, 30)).convert("CMYK"), "JPEG", quality=95)
    np.testing.assert_allclose(found[8, 8], (250, 40, 30), atol=12)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    found = read(frames[0], kind, save_all=True, append_images=frames[1:])
    assert found[3, 4, 0] > 240
    assert found[3, 4, 2] < 15


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_truncated_picture_is_unreadable(tmp_path, kind):
    file = io.BytesIO()
    Image.open(photograph("coffee.png")).convert("RGB").save(file, kind)
    path = tmp_path / "cut"
    path.write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    with pytest.raises(UnreadableError, match="cut: not a picture that can be read"):
        read_picture(path)


def test_what_no_format_here_is_says_so_and_heic_what_it_needs():
    with pytest.raises(UnreadableError, match="no format"):
        read_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(UnreadableError, match="pillow-heif"):
        read_picture(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64)
