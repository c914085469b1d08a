"""The outlines that shapes are drawn with: which pixels each one covers."""

import functools
import math

import numpy as np
from PIL import Image, ImageDraw

KINDS = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond")
"""Every class that the pictures hold."""

SUPERSAMPLING = 4


def _polar(angles_and_radii: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners given as (degrees clockwise from the top, radius) as x, y with y downwards."""
    return [(r * math.sin(math.radians(a)), -r * math.cos(math.radians(a))) for a, r in angles_and_radii]


def _heart() -> list[tuple[float, float]]:
    """The heart curve x = 16 sin^3 t, scaled to fit the unit circle."""
    points = []
    for step in range(48):
        t = 2 * math.pi * step / 48
        x = 16 * math.sin(t) ** 3
        y = -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        points.append((x / 16.5, (y - 2) / 16.5))
    return points


def _cross(arm: float = 0.36) -> list[tuple[float, float]]:
    """A plus whose arms are `2 * arm` wide: each quadrant's three corners, clockwise from the top right."""
    quadrant = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    points = []
    for _ in range(4):
        points += quadrant
        quadrant = [(-y, x) for x, y in quadrant]  # a quarter turn
    return points


POLYGONS = {
    "square": _polar([(a, 1.16) for a in (45, 135, 225, 315)]),
    "triangle": _polar([(a, 1.15) for a in (0, 120, 240)]),
    "star": _polar([(36 * k, 1.12 if k % 2 == 0 else 0.47) for k in range(10)]),
    "cross": _cross(),
    "heart": _heart(),
    "diamond": [(0, -1.15), (0.8, 0), (0, 1.15), (-0.8, 0)],
}


@functools.lru_cache(maxsize=4096)
def silhouette(kind: str, radius: int, degrees: int) -> np.ndarray:
    """How much of each pixel of a square patch a shape covers.

    Args:
        kind: one of `KINDS`.
        radius: of the shape in pixels; the patch reaches a quarter further on every side.
        degrees: turn, clockwise.

    Returns:
        uint8 [side, side] with the shape's centre in the middle, 255 where a pixel is covered whole.
    """
    half = patch_radius(radius)
    side = 2 * half * SUPERSAMPLING
    patch = Image.new("L", (side, side))
    pen = ImageDraw.Draw(patch)
    middle, reach = half * SUPERSAMPLING, radius * SUPERSAMPLING
    if kind in ("circle", "ring"):
        pen.ellipse((middle - reach, middle - reach, middle + reach, middle + reach), fill=255)
        if kind == "ring":
            hole = reach * 9 // 16
            pen.ellipse((middle - hole, middle - hole, middle + hole, middle + hole), fill=0)
    else:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        # Whole-number corners: the last bit of a cosine must not change a pixel.
        pen.polygon(
            [
                (middle + round(reach * (c * x - s * y)), middle + round(reach * (s * x + c * y)))
                for x, y in POLYGONS[kind]
            ],
            fill=255,
        )
    covered = np.asarray(patch.resize((2 * half, 2 * half), Image.Resampling.BOX)).copy()
    covered.setflags(write=False)
    return covered


def patch_radius(radius: int) -> int:
    """Half the side of the patch that `silhouette` gives."""
    return radius + radius // 4 + 1
