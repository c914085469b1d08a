"""Where a region lies: the last six numbers of a VinVL region, and how to recognise them in a file.

The six are x1, y1, x2, y2, h, w, scaled to [0, 1] by the picture's width and height. Files of Oscar, which came before,
have w, h instead: nothing but the numbers themselves tells.
"""

import numpy as np
from jaxtyping import Bool, Float

BOX_DIM = 6
TOLERANCE = 1e-3  # of the largest corner, or of 1: what float16 keeps of a coordinate

_XYXY = "x1,y1,x2,y2"
HEIGHT_WIDTH: str = f"{_XYXY},h,w"
WIDTH_HEIGHT: str = f"{_XYXY},w,h"
WIDTH_HEIGHT_AREA: str = f"{_XYXY},w,h,w*h"
LAYOUTS: tuple[str, ...] = (HEIGHT_WIDTH, WIDTH_HEIGHT, WIDTH_HEIGHT_AREA)
"""What the last columns of a region may be; VinVL's first."""


def num_columns(layout: str) -> int:
    """How many of a region's last columns a layout takes."""
    return len(layout.split(","))


def explains(layout: str, regions: Float[np.ndarray, "r f"]) -> tuple[Bool[np.ndarray, "r"], Bool[np.ndarray, "r"]]:
    """Whether each region's last columns are what a layout says.

    Returns:
        Whether they are, and whether that says anything: an empty box would fit every layout.
    """
    columns = num_columns(layout)
    if regions.shape[1] < columns:
        return np.zeros(len(regions), bool), np.zeros(len(regions), bool)
    box = regions[:, -columns:].astype(np.float64)
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    tolerance = TOLERANCE * np.maximum(1, np.abs(box[:, :4]).max(1, initial=0))
    told = [height, width] if layout == HEIGHT_WIDTH else [width, height]
    told += [width * height] if layout == WIDTH_HEIGHT_AREA else []
    with np.errstate(invalid="ignore"):  # NaN and infinities fit nothing
        fits = (np.abs(box[:, 4:] - np.stack(told, 1)) <= tolerance[:, None]).all(1)
        fits &= (np.minimum(width, height) >= 0) & (box[:, :4].min(1, initial=0) >= -tolerance)
        says = (np.minimum(np.abs(width), np.abs(height)) > 2 * tolerance) | ~fits
    return fits, says
