"""What a detector would report of a picture: boxes that are a little off, and class names that are at times wrong.

The classes name kinds of shapes and patterns, never a colour or a size: those are left to the regions' features.
"""

from typing import NamedTuple

import numpy as np

from demo.scene import SIDE, Scene
from demo.silhouettes import KINDS
from demo.wording import DETECTED_PATTERNS

_MISSED = 0.04
_FOUND_TWICE = 0.15
_WRONG_CLASS = 0.1
_FALSE_ALARMS = (0.5, 0.35, 0.15)  # none, one, two in a picture
_JITTER = 0.08  # of a box's width and height, at most, on each side


class Detections(NamedTuple):
    """The boxes, x1, y1, x2, y2 in pixels, float32 [r, 4], and a class name for each; the surest first."""

    boxes: np.ndarray
    tags: list[str]


def detect(scene: Scene) -> Detections:
    """The detections of a scene: always the same ones. The first is the whole picture."""
    rng = np.random.default_rng((*scene.seed, 3))
    whole = (0.0, 0.0, float(SIDE), float(SIDE))
    found: list[tuple[float, tuple[float, ...], str]] = []
    for shape in scene.shapes:
        if rng.random() < _MISSED:
            continue
        for _ in range(1 + int(rng.random() < _FOUND_TWICE)):
            tag = str(rng.choice(KINDS)) if rng.random() < _WRONG_CLASS else shape.kind
            found.append((rng.uniform(0.4, 1.0), _jitter(rng, shape.box), tag))
    for _ in range(int(rng.choice(len(_FALSE_ALARMS), p=_FALSE_ALARMS))):
        width, height = rng.integers(16, 50, 2)
        x, y = rng.integers(0, SIDE - width + 1), rng.integers(0, SIDE - height + 1)
        found.append((rng.uniform(0.2, 0.6), (x, y, x + width, y + height), str(rng.choice(KINDS))))
    pattern = scene.background.pattern
    if rng.random() < _WRONG_CLASS:
        pattern = str(rng.choice(tuple(DETECTED_PATTERNS)))
    ranked = [(1.0, whole, DETECTED_PATTERNS[pattern]), *sorted(found, reverse=True)]
    return Detections(np.array([box for _, box, _ in ranked], np.float32), [tag for _, _, tag in ranked])


def _jitter(rng: np.random.Generator, box: tuple[int, int, int, int]) -> tuple[float, ...]:
    """Moves each side of a box by up to `_JITTER` of its size, inside the picture, to a tenth of a pixel."""
    x1, y1, x2, y2 = box
    size = np.array([x2 - x1, y2 - y1, x2 - x1, y2 - y1])
    moved = np.array(box) + rng.uniform(-_JITTER, _JITTER, 4) * size
    return tuple(np.clip(np.round(moved, 1), 0, SIDE).tolist())
