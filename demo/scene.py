"""What a picture is of: shapes on a background, and how they stand to one another.

The scene is the ground truth. It is drawn, captioned and tagged; region features see its pixels only.
"""

import dataclasses

import numpy as np

from demo import silhouettes

SIDE = 144
"""Width and height of a picture in pixels."""

SPLITS = ("train", "minival", "test")
"""Their places in this tuple keep their pictures apart; append only."""

HIDES = 0.08
"""The least share of a shape that another must cover to be said to hide a part of it."""

COLOURS = {
    "red": (206, 38, 42),
    "orange": (240, 134, 24),
    "yellow": (242, 212, 40),
    "green": (44, 150, 62),
    "blue": (40, 84, 204),
    "purple": (122, 48, 168),
    "pink": (242, 140, 186),
    "white": (244, 244, 244),
    "black": (30, 30, 34),
}
PATTERNS = ("plain", "striped", "checkered", "dotted", "shaded")
TONES = {
    "grey": ((150, 150, 154), (118, 118, 124)),
    "sandy": ((222, 202, 166), (196, 172, 132)),
    "teal": ((112, 176, 174), (78, 144, 144)),
    "brown": ((134, 104, 80), (106, 80, 60)),
}
RADII = {"small": (10, 13), "medium": (17, 20), "large": (26, 31)}
_SIZE_SHARES = (0.34, 0.36, 0.30)
_MARGIN = 2  # pixels between a shape and the picture's edge
_SIDE_BY_SIDE = 18  # pixels by which one centre must lead another to be called left of it
_MOST_HIDDEN = 0.35  # the largest share of a shape that another may hide


@dataclasses.dataclass(frozen=True)
class Shape:
    """One thing in a picture; `x`, `y` and `radius` are pixels, `rgb` its own tint of `colour`."""

    kind: str
    colour: str
    size: str
    x: int
    y: int
    radius: int
    degrees: int
    rgb: tuple[int, int, int]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tightest x1, y1, x2, y2 around its silhouette, before anything hides a part of it."""
        covered = _silhouette(self)
        columns, rows = np.flatnonzero(covered.any(0)), np.flatnonzero(covered.any(1))
        half = silhouettes.patch_radius(self.radius)
        return (
            self.x - half + int(columns[0]),
            self.y - half + int(rows[0]),
            self.x - half + int(columns[-1]) + 1,
            self.y - half + int(rows[-1]) + 1,
        )


@dataclasses.dataclass(frozen=True)
class Background:
    """What lies behind the shapes: a pattern of two shades of one tone."""

    pattern: str
    tone: str
    rgb: tuple[tuple[int, int, int], tuple[int, int, int]]
    period: int
    vertical: bool


@dataclasses.dataclass(frozen=True)
class Scene:
    """Shapes from the back to the front, on a background; `seed` also decides the noise."""

    seed: tuple[int, ...]
    background: Background
    shapes: tuple[Shape, ...]


def sample_scene(split: str, index: int, seed: int = 88) -> Scene:
    """The scene that stands at `index` of a split: the same on every machine.

    Raises:
        ValueError: an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; there are {', '.join(SPLITS)}")
    key = (seed, SPLITS.index(split), index)
    rng = np.random.default_rng(key)
    background = _sample_background(rng)
    count = int(rng.choice((3, 4, 5), p=(0.4, 0.4, 0.2)))
    while True:
        shapes = _sample_shapes(rng, count)
        if shapes is not None:
            return Scene(key, background, shapes)


def hidden_share(front: Shape, back: Shape) -> float:
    """The share of `back`'s pixels that `front`, drawn over it, hides."""
    covered = _silhouette(back)
    over = _silhouette(front)
    apart = silhouettes.patch_radius(front.radius) - silhouettes.patch_radius(back.radius)
    # Where the front's patch starts in the back's; both are then cut to what they share.
    dx, dy = front.x - back.x - apart, front.y - back.y - apart
    under = covered[max(dy, 0) : max(dy + len(over), 0), max(dx, 0) : max(dx + len(over), 0)]
    over = over[max(-dy, 0) : max(len(covered) - dy, 0), max(-dx, 0) : max(len(covered) - dx, 0)]
    return float((under & over).sum() / covered.sum())


def relation(a: Shape, b: Shape) -> str | None:
    """How `a` stands to `b`: left, right, above or below, along the axis on which they lie further apart.

    None where neither axis parts them clearly.
    """
    dx, dy = a.x - b.x, a.y - b.y
    if max(abs(dx), abs(dy)) < _SIDE_BY_SIDE or abs(abs(dx) - abs(dy)) < 10:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"


def place(shape: Shape) -> str | None:
    """Where in the picture a shape is: `top left` ... `bottom right`, `middle`; None between those."""
    rows = _third(shape.y, "top", "bottom")
    columns = _third(shape.x, "left", "right")
    if rows == columns == "middle":
        return "middle"
    return f"{rows} {columns}" if "middle" not in (rows, columns) else None


def _third(position: int, before: str, after: str) -> str:
    if SIDE * 0.37 < position < SIDE * 0.63:
        return "middle"
    return before if position < SIDE // 2 else after


def _silhouette(shape: Shape) -> np.ndarray:
    """Bool [side, side]: the pixels of its patch that a shape covers."""
    return silhouettes.silhouette(shape.kind, shape.radius, shape.degrees) > 127


def _sample_background(rng: np.random.Generator) -> Background:
    tone = str(rng.choice(tuple(TONES)))
    light, dark = (_tint(rng, rgb, 8) for rgb in TONES[tone])
    return Background(str(rng.choice(PATTERNS)), tone, (light, dark), int(rng.integers(12, 18)), bool(rng.integers(2)))


def _sample_shapes(rng: np.random.Generator, count: int) -> tuple[Shape, ...] | None:
    """Shapes that fit beside one another, at most one pair overlapping; None if the picture got too full."""
    shapes: list[Shape] = []
    overlaps = bool(rng.random() < 0.5)
    for _ in range(count):
        size = str(rng.choice(tuple(RADII), p=_SIZE_SHARES))
        radius = int(rng.integers(RADII[size][0], RADII[size][1] + 1))
        colour = str(rng.choice(tuple(COLOURS)))
        kind = str(rng.choice(silhouettes.KINDS))
        rgb = _tint(rng, COLOURS[colour], 14)
        degrees = int(rng.integers(-12, 13))
        if any((colour, kind) == (other.colour, other.kind) for other in shapes):
            return None
        for _ in range(40):
            reach = radius + radius // 6 + _MARGIN
            x, y = (int(v) for v in rng.integers(reach, SIDE - reach + 1, 2))
            shape = Shape(kind, colour, size, x, y, radius, degrees, rgb)
            near = [other for other in shapes if _squared_distance(shape, other) < (radius + other.radius + 4) ** 2]
            if not near:
                break
            if overlaps and len(near) == 1 and HIDES <= hidden_share(shape, near[0]) <= _MOST_HIDDEN:
                overlaps = False
                break
        else:
            return None
        shapes.append(shape)
    return tuple(shapes)


def _tint(rng: np.random.Generator, rgb: tuple[int, int, int], spread: int) -> tuple[int, int, int]:
    """A colour near `rgb`: as a whole lighter or darker, and a little off in each channel."""
    shift = int(rng.integers(-spread, spread + 1))
    r, g, b = (
        int(np.clip(v + shift + d, 0, 255))
        for v, d in zip(rgb, rng.integers(-spread // 2, spread // 2 + 1, 3), strict=True)
    )
    return r, g, b


def _squared_distance(a: Shape, b: Shape) -> int:
    return (a.x - b.x) ** 2 + (a.y - b.y) ** 2
