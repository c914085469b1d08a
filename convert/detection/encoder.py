"""A vision backbone of any kind, from a local folder: its patches' vectors, pooled to a grid of regions.

A detector is rare, a ViT everywhere. The first region is the whole picture, since the alignment head leaves an image's
first region out and the matching head reads an image there; the cells of the grid follow, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from aladin_jax.errors import DataError
from convert.detection.picture_model import PictureModel, Prepared
from convert.importing.regions import PixelRegions

_MOST_OTHERS = 16  # vectors beside the patches': [CLS], registers


class VisionEncoder(PictureModel):
    """A vision backbone and what prepares pictures for it."""

    def __init__(self, folder: Path, device: str):
        """Loads the backbone.

        Args:
            folder: see `PictureModel`.
            device: such as "cpu" or "cuda".

        Raises:
            DataError: as `PictureModel`, or it is no vision backbone.
        """
        super().__init__(folder, device, "encoder")
        if "pixel_values" not in self.arguments or self.model.config.model_type == "yolos":
            problem = f"{self.model.config.model_type} is no vision backbone"
            raise DataError(problem, "a detector goes with --detector", path=folder)

    def extract(self, batch: Sequence[Prepared], *, max_regions: int) -> list[PixelRegions]:
        """Encodes pictures of one shape; the regions have neither classes nor scores.

        Args:
            batch: prepared pictures.
            max_regions: of a picture, the whole one included.

        Raises:
            DataError: the model's outputs are no grid.
        """
        hidden = self(batch).last_hidden_state.float().cpu().numpy()
        if not np.isfinite(hidden).all():
            raise DataError("the model's outputs are not finite", "try another --device", path=self.folder)
        sides = batch[0].shape[-2:]
        patches = self._grid(hidden, *sides)
        found = []
        for k, prepared in enumerate(batch):
            whole, boxes = self._seen(prepared, *sides), []
            features = [patches[k].mean((0, 1))[None]]
            if shape := choose_grid(patches.shape[1:3], max_regions - 1):
                features.append(pool(patches[k], shape).reshape(-1, patches.shape[-1]))
                boxes = _cells(whole, shape)
            corners = np.array([whole, *boxes])
            found.append(PixelRegions(np.concatenate(features), corners, None, None, prepared.width, prepared.height))
        return found

    def _grid(self, hidden: np.ndarray, height: int, width: int) -> Float[np.ndarray, "b rows columns d"]:
        """The patches' vectors where they are in the picture."""
        if hidden.ndim == 4:  # of convolutions
            return hidden.transpose(0, 2, 3, 1)
        config, vectors = self.model.config, hidden.shape[1]
        patch = getattr(config, "patch_size", None)
        if hidden.ndim == 3 and patch:
            down, across = (patch, patch) if isinstance(patch, int) else patch[:2]
            if depths := getattr(config, "depths", None):  # each stage but the first joins two by two
                down, across = (side * 2 ** (len(depths) - 1) for side in (down, across))
            for rounded in (math.floor, math.ceil):
                rows, columns = rounded(height / down), rounded(width / across)
                others = vectors - rows * columns  # they come first
                if rows * columns and 0 <= others <= (0 if depths else _MOST_OTHERS):
                    return hidden[:, others:].reshape(len(hidden), rows, columns, -1)
        raise DataError(
            f"outputs of shape {list(hidden.shape)} for a picture of {height} x {width} are no grid of patches",
            "take a backbone such as ViT, DINOv2, CLIP, SigLIP, BEiT or Swin",
            path=self.folder,
        )

    def _seen(self, prepared: Prepared, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a picture, in its pixels, that the model sees: less than all where the processor crops."""
        if not getattr(self.processor, "do_center_crop", None):
            return 0.0, 0.0, float(prepared.width), float(prepared.height)
        across, down = 1.0, 1.0  # pixels that the model gets for one of the picture
        if getattr(self.processor, "do_resize", None):
            across, down = _scales(dict(self.processor.size), prepared.width, prepared.height)
        wide, high = min(width / across, prepared.width), min(height / down, prepared.height)
        left, top = (prepared.width - wide) / 2, (prepared.height - high) / 2
        return left, top, left + wide, top + high


def _scales(size: dict[str, Any], width: int, height: int) -> tuple[float, float]:
    """How a processor's `size` scales a picture's width and height."""
    if size.get("height") and size.get("width"):
        return size["width"] / width, size["height"] / height
    if shortest := size.get("shortest_edge"):
        return (shortest / min(width, height),) * 2
    if longest := size.get("longest_edge"):
        return (longest / max(width, height),) * 2
    return 1.0, 1.0


def choose_grid(patches: tuple[int, int], most: int) -> tuple[int, int] | None:
    """Rows and columns of at most `most` cells, no more than there are patches, in about the patches' proportion."""
    rows, columns = patches
    shapes = [(r, min(most // r, columns)) for r in range(1, min(most, rows) + 1)]
    if not shapes:
        return None
    return min(shapes, key=lambda shape: (abs(math.log(shape[0] * columns / (shape[1] * rows))), -shape[0] * shape[1]))


def pool(patches: Float[np.ndarray, "rows columns d"], shape: tuple[int, int]) -> Float[np.ndarray, "r c d"]:
    """Means over the cells of an even grid; a patch that lies in two cells counts in each by its share."""
    down, across = (_shares(count, cells) for count, cells in zip(patches.shape[:2], shape, strict=True))
    return np.einsum("ri,cj,ijd->rcd", down, across, patches.astype(np.float64)).astype(np.float32)


def _shares(count: int, cells: int) -> Float[np.ndarray, "cells count"]:
    """How much of each cell every patch along a side makes up; each cell's shares add up to 1."""
    edges, at = np.arange(cells + 1) * (count / cells), np.arange(count)
    common = np.minimum(edges[1:, None], at + 1) - np.maximum(edges[:-1, None], at)
    return np.clip(common, 0, None) * (cells / count)


def _cells(whole: tuple[float, float, float, float], shape: tuple[int, int]) -> list[tuple[float, ...]]:
    x1, y1, x2, y2 = whole
    xs, ys = np.linspace(x1, x2, shape[1] + 1), np.linspace(y1, y2, shape[0] + 1)
    return [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(shape[0]) for c in range(shape[1])]
