"""The detector's stand-in for features: a fixed convolutional extractor that sees nothing but a box's pixels.

Random edge filters at two scales and random colour filters, rectified and pooled on a grid, then a random
projection, rectified again. Nothing was fitted to anything, so nothing of a label can be in it. Like a detector's
pooled features they are not negative, half of them are 0 and their mean is about 0.4.

Every sum is over whole numbers that float32 holds exactly (below 2^24), so that no order of summation, and thus no
machine, changes a bit of the result.
"""

import functools

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

FEATURE_DIM = 2048
REGION_DIM = FEATURE_DIM + 6

_SEED = 20220727
_PATCH = 32  # pixels a side that every box is resized to
_WINDOW = 5  # pixels a side that an edge filter sees
_EDGES, _COLOURS = 16, 32  # filters: the former once a scale
_GRID = 4  # cells a side that responses are pooled in
_EDGE_GAIN, _COLOUR_GAIN = 4, 2  # so that outlines and colours weigh alike
_SCALE = 1 / 590  # brings the mean to about 0.4


def region_features(
    image: UInt8[np.ndarray, "height width 3"], boxes: Num[np.ndarray, "r 4"]
) -> Float[np.ndarray, "r d"]:
    """Features of the pixels of each box, and where it lies.

    Args:
        image: the picture.
        boxes: x1, y1, x2, y2 in pixels.

    Returns:
        float32 [r, 2054]: 2048 features, then x1, y1, x2, y2, h, w scaled to [0, 1].

    Raises:
        ValueError: a box is empty or reaches outside the image.
    """
    height, width = image.shape[:2]
    x1, y1, x2, y2 = boxes.astype(np.float32).T
    fits = (x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height) & (x1 < x2) & (y1 < y2)
    if not fits.all():
        raise ValueError(f"empty, or outside the {width} x {height} picture: boxes {boxes[~fits].tolist()}")
    if not len(boxes):
        return np.zeros((0, REGION_DIM), np.float32)
    picture = Image.fromarray(image)
    patches = np.stack([_patch(picture, box) for box in boxes])
    where = [x1 / width, y1 / height, x2 / width, y2 / height, (y2 - y1) / height, (x2 - x1) / width]
    return np.concatenate([_project(_responses(patches)), np.stack(where, 1)], 1).astype(np.float32)


def _patch(picture: Image.Image, box: np.ndarray) -> np.ndarray:
    """A box and an eighth of its size beyond each side, resized: whole numbers around 0, [32, 32, 3]."""
    x1, y1 = (int(v) for v in np.floor(box[:2]))
    x2, y2 = (int(v) for v in np.ceil(box[2:]))
    dx, dy = (x2 - x1) // 8, (y2 - y1) // 8
    around = max(x1 - dx, 0), max(y1 - dy, 0), min(x2 + dx, picture.width), min(y2 + dy, picture.height)
    return np.asarray(picture.resize((_PATCH, _PATCH), Image.Resampling.BILINEAR, around), np.float32) - 128


def _responses(patches: np.ndarray) -> np.ndarray:
    """What the filters answer in each cell of the grid, [r, responses]."""
    fine_edges, coarse_edges, colours, bias, _ = _weights()
    coarse = np.floor(sum(patches[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4)
    return np.concatenate(
        [
            _pool(_windows(patches, stride=2) @ fine_edges / 64, _EDGE_GAIN),
            _pool(_windows(coarse, stride=1) @ coarse_edges / 64, _EDGE_GAIN),
            _pool((coarse @ colours + bias) / 16, _COLOUR_GAIN),
        ],
        1,
    )


def _windows(maps: np.ndarray, stride: int) -> np.ndarray:
    """Every window of the maps as a row: [r, y, x, channels * window * window]."""
    windows = np.lib.stride_tricks.sliding_window_view(maps, (_WINDOW, _WINDOW), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return windows.reshape(*windows.shape[:3], -1)


def _pool(responses: np.ndarray, gain: int) -> np.ndarray:
    """Rectifies, sums within each cell, and compresses with a square root: whole numbers again."""
    boxes, side, _, maps = responses.shape
    rectified = np.floor(np.maximum(responses, 0)).reshape(boxes, side * side, maps)
    return np.floor(gain * np.sqrt(_cells(side) @ rectified)).reshape(boxes, -1)


@functools.cache
def _cells(side: int) -> np.ndarray:
    """Which of `side` x `side` places lie in which cell: 0 or 1, [cells, places]."""
    along = np.arange(side) * _GRID // side == np.arange(_GRID)[:, None]
    return np.kron(along, along).astype(np.float32)


def _project(responses: np.ndarray) -> np.ndarray:
    """Random sums of responses, each with as much taken away as added; those below 0 become 0."""
    return np.maximum(responses @ _weights()[-1], 0) * np.float32(_SCALE)


@functools.cache
def _weights() -> tuple[np.ndarray, ...]:
    """Fine edges, coarse edges, colours, the colours' bias, projection: small whole numbers from a constant seed."""
    rng = np.random.default_rng(_SEED)

    def balanced(limit: int, *shape: int) -> np.ndarray:
        """Weights that sum to 0 along their first axis: a flat patch gives no answer."""
        weights = rng.integers(-limit, limit + 1, shape)
        return weights - np.roll(weights, 1, 0)

    def edges() -> np.ndarray:
        weights = balanced(4, _WINDOW * _WINDOW, 3, _EDGES)
        return weights.transpose(1, 0, 2).reshape(-1, _EDGES)  # the order that `_windows` gives

    parts = (
        edges(),
        edges(),
        rng.integers(-8, 9, (3, _COLOURS)),
        rng.integers(-600, 601, _COLOURS),
        balanced(1, (2 * _EDGES + _COLOURS) * _GRID * _GRID, FEATURE_DIM),
    )
    return tuple(part.astype(np.float32) for part in parts)
