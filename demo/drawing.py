"""From a scene to pixels, in whole numbers throughout, so that every machine draws the same picture."""

import numpy as np

from demo import silhouettes
from demo.scene import SIDE, Background, Scene, Shape

_NOISE = 4  # the sum of two uniform draws, each up to this


def draw(scene: Scene) -> np.ndarray:
    """The picture of a scene: uint8 [SIDE, SIDE, 3]."""
    canvas = _background(scene.background)
    for shape in scene.shapes:
        _shadow(canvas, shape)
        _paint(canvas, shape)
    rng = np.random.default_rng((*scene.seed, 1))
    noise = rng.integers(-_NOISE, _NOISE + 1, (2, SIDE, SIDE, 1)).sum(0)
    return np.clip(canvas + noise, 0, 255).astype(np.uint8)


def _background(background: Background) -> np.ndarray:
    """int32 [SIDE, SIDE, 3]."""
    light, dark = (np.array(rgb, np.int32) for rgb in background.rgb)
    y, x = np.mgrid[:SIDE, :SIDE]
    if background.vertical:
        y, x = x, y
    period = background.period
    match background.pattern:
        case "striped":
            weight = (y // (period // 2)) % 2 * 16
        case "checkered":
            weight = (y // period + x // period) % 2 * 16
        case "dotted":
            dy, dx = (y + (x // period) % 2 * (period // 2)) % period - period // 2, x % period - period // 2
            weight = (dy * dy + dx * dx <= period * period // 11) * 16
        case "shaded":
            weight = y * 32 // SIDE - 8  # past both shades at the ends, so that it is seen
        case _:
            weight = np.full_like(x, 6)
    return light + ((dark - light) * weight[..., None] >> 4)


def _shadow(canvas: np.ndarray, shape: Shape) -> None:
    """Darkens what lies below and to the right of a shape."""
    _blend(canvas, shape, np.zeros(3, np.int32), offset=2, strength=3)


def _paint(canvas: np.ndarray, shape: Shape) -> None:
    """A rim of a darker tint, then the shape itself, lighter towards the top left."""
    rgb = np.array(shape.rgb, np.int32)
    _blend(canvas, shape, rgb * 9 // 16, offset=0, strength=8)
    inner = shape.radius - max(1, shape.radius // 9)
    half = silhouettes.patch_radius(inner)
    y, x = np.mgrid[-half:half, -half:half]
    light = -(x + y) * 22 // (2 * shape.radius)
    _blend(canvas, shape, np.clip(rgb + light[..., None], 0, 255), offset=0, strength=8, radius=inner)


def _blend(
    canvas: np.ndarray, shape: Shape, paint: np.ndarray, *, offset: int, strength: int, radius: int | None = None
) -> None:
    """Lays `paint` over the canvas where the shape's silhouette is, `strength` eighths of it."""
    radius = shape.radius if radius is None else radius
    half = silhouettes.patch_radius(radius)
    covered = silhouettes.silhouette(shape.kind, radius, shape.degrees).astype(np.int32)[..., None]
    covered = (covered + (covered >> 7)) * strength >> 3  # of 256
    x, y = shape.x - half + offset, shape.y - half + offset
    rows, columns = slice(max(y, 0), min(y + 2 * half, SIDE)), slice(max(x, 0), min(x + 2 * half, SIDE))
    inside = slice(rows.start - y, rows.stop - y), slice(columns.start - x, columns.stop - x)
    covered = covered[inside]
    paint = paint[inside] if paint.ndim == 3 else paint
    under = canvas[rows, columns]
    canvas[rows, columns] = under * (256 - covered) + paint * covered + 128 >> 8
