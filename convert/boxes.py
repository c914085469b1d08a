"""Boxes of regions: made from boxes in pixels as VinVL's regions end, and what those of a stranger's file are.

See `aladin_jax.data.box_encoding` for the numbers.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num

from aladin_jax.data.box_encoding import (
    HEIGHT_WIDTH,
    LAYOUTS,
    TOLERANCE,
    WIDTH_HEIGHT,
    explains,
    num_columns,
)
from aladin_jax.errors import DataError

_MAX_SIDE = 1 << 20  # of a picture, in pixels
_BEYOND = 1.0  # pixels that a box may reach beyond the picture: rounding, and detectors that count pixels from 1
_ENOUGH = 0.95  # share of the regions that a layout has to explain
_SHOWN = 5


def encode_boxes(boxes: Num[np.ndarray, "r 4"], width: int, height: int, **where: Any) -> Float[np.ndarray, "r 6"]:
    """Scales pixel boxes to x1, y1, x2, y2, h, w as VinVL's regions end.

    Args:
        boxes: x1, y1, x2, y2 in pixels; a box may reach one pixel beyond the picture, and is clipped.
        width: of the picture.
        height: of the picture.
        **where: what `DataError` takes to say where the boxes are from.

    Raises:
        DataError: no picture is so large, or boxes are not finite, not in that order, not in pixels, or elsewhere.
    """
    if not (0 < width <= _MAX_SIDE and 0 < height <= _MAX_SIDE):
        raise DataError(f"a picture of {width} x {height} pixels", "give its width and height in pixels", **where)
    corners = boxes.astype(np.float64)
    size = np.array([width, height, width, height], np.float64)

    def refuse(bad: Any, problem: str, remedy: str) -> None:
        if bad.any():
            position = int(np.argmax(bad))
            found = ", ".join(f"{value:g}" for value in corners[position])
            raise DataError(f"box {position} is ({found}): {problem}", remedy, **where)

    refuse(~np.isfinite(corners).all(1), "not finite", "leave the region out")
    refuse(
        (corners[:, 2:] < corners[:, :2]).any(1),
        "x2 < x1 or y2 < y1",
        "boxes are x1, y1, x2, y2, not x, y, width, height",
    )
    if len(corners) and corners.max() <= 1 and max(width, height) > 4:
        refuse(np.ones(len(corners), bool), "scaled to [0, 1] already", "give boxes in pixels")
    refuse(
        ((corners < -_BEYOND) | (corners > size + _BEYOND)).any(1),
        f"outside the picture of {width} x {height} pixels",
        "boxes and size have to be of the same picture, not of a resized one; clip what reaches beyond",
    )
    x1, y1, x2, y2 = (np.clip(corners, 0, size) / size).T
    return np.stack([x1, y1, x2, y2, y2 - y1, x2 - x1], 1).astype(np.float32)


def clip_boxes(boxes: Float[np.ndarray, "r 4"], width: float, height: float) -> Float[np.ndarray, "r 4"]:
    """Cuts off what of boxes, x1, y1, x2, y2, lies outside the picture."""
    return np.clip(boxes, 0, [width, height, width, height])


def pixels_of_shares(boxes: Num[np.ndarray, "r f"], side: int, **where: Any) -> Float[np.ndarray, "r 4"]:
    """Boxes in pixels of a picture with equal sides, of boxes that are shares of a picture's width and height.

    Args:
        boxes: x1, y1, x2, y2, and maybe width, height, and area after them.
        side: of the picture that is made up for it.
        **where: what `DataError` takes to say where the boxes are from.

    Raises:
        DataError: they are something else.
    """
    if boxes.ndim != 2 or not 4 <= boxes.shape[1] <= 7:
        raise DataError(f"boxes have shape {list(boxes.shape)}, expected [regions, 4 to 7]", **where)
    boxes = boxes.astype(np.float64)
    if not (np.isfinite(boxes).all() and (boxes[:, :4] >= -TOLERANCE).all() and (boxes <= 1 + TOLERANCE).all()):
        raise DataError("boxes are not shares of the picture, in [0, 1]", "give boxes in pixels and its size", **where)
    known = [explains(layout, boxes[:, :6])[0] for layout in (WIDTH_HEIGHT, HEIGHT_WIDTH)]
    if boxes.shape[1] >= 6 and not np.logical_or(*known).all():
        raise DataError("boxes are not x1, y1, x2, y2, width, height", "extract the features again", **where)
    return clip_boxes(boxes[:, :4] * side, side, side)


def to_height_width(regions: Float[np.ndarray, "r f"], layout: str) -> Float[np.ndarray, "r f"]:
    """Regions whose last columns are of a layout, with VinVL's instead."""
    columns = num_columns(layout)
    features, box = regions[:, :-columns], regions[:, -columns:]
    order = [0, 1, 2, 3, 4, 5] if layout == HEIGHT_WIDTH else [0, 1, 2, 3, 5, 4]
    return np.concatenate([features, box[:, order]], 1)


class Verdict(NamedTuple):
    """What the last columns of regions are.

    Attributes:
        layout: one of `LAYOUTS`; None if none explains them.
        scaled: whether to [0, 1] (otherwise in pixels); None if it varies, or there is no layout.
        reason: how one knows.
    """

    layout: str | None
    scaled: bool | None
    reason: str


@dataclasses.dataclass
class _Evidence:
    fitting: int = 0
    telling: int = 0
    images: int = 0  # in which a region does not fit
    first: list[tuple[int, str]] = dataclasses.field(default_factory=list)


class LayoutTally:
    """Finds the layout of the last columns from regions that pass by, one image at a time."""

    def __init__(self):
        self._evidence = {layout: _Evidence() for layout in LAYOUTS}
        self._within = dict.fromkeys(LAYOUTS, 0)  # fitting regions with all corners in [0, 1]

    def add(self, regions: Float[np.ndarray, "r f"], row: int, image: str) -> None:
        """Takes one image into account."""
        for layout, evidence in self._evidence.items():
            fits, says = explains(layout, regions)
            evidence.fitting += int((fits & says).sum())
            evidence.telling += int(says.sum())
            corners = regions[fits & says, -num_columns(layout) :][:, :4]
            self._within[layout] += int((corners.max(1, initial=0) <= 1 + TOLERANCE).sum())
            if not fits.all():
                evidence.images += 1
                if len(evidence.first) < _SHOWN:
                    evidence.first.append((row, image))

    def verdict(self) -> Verdict:
        """What is known so far."""
        telling = max(evidence.telling for evidence in self._evidence.values())
        if not telling:
            return Verdict(None, None, "there is no region with a box that could tell")
        found = [name for name, e in self._evidence.items() if e.telling and e.fitting >= _ENOUGH * e.telling]
        shares = ", ".join(
            f"{name} fits {e.fitting:,} of {e.telling:,}" for name, e in self._evidence.items() if e.telling
        )
        if not found:
            return Verdict(None, None, f"the last columns are no box encoding that is known here: {shares} regions")
        if WIDTH_HEIGHT in found and HEIGHT_WIDTH in found:
            return Verdict(None, None, f"boxes are square, so that h and w cannot be told apart: {shares} regions")
        layout = max(found, key=lambda name: (self._evidence[name].fitting, num_columns(name)))
        within = self._within[layout] / max(1, self._evidence[layout].fitting)
        scaled = True if within >= _ENOUGH else False if within <= 1 - _ENOUGH else None
        unit = {True: "no corner is above 1", False: "corners are above 1", None: "some corners are above 1, some not"}
        return Verdict(layout, scaled, f"{shares} regions; {unit[scaled]} ({within:.1%} of the regions lie in [0, 1])")

    def exceptions(self, layout: str) -> tuple[int, list[tuple[int, str]]]:
        """How many images have regions that a layout does not explain; row and id of the first few."""
        evidence = self._evidence[layout]
        return evidence.images, evidence.first
