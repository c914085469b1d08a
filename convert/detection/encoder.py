"""A vision backbone of any kind, from a local folder: its patches' vectors, pooled to a grid of regions.

A detector is rare, a ViT everywhere. The first region is the whole picture, since the alignment head leaves an image's
first region out and the matching head reads an image there; the cells of the grid follow, row by row.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from aladin_jax.errors import DataError, first_line
from aladin_jax.files import read_json
from convert.detection.detector import Found, Prepared

_MOST_OTHERS = 16  # vectors beside the patches': [CLS], registers


class VisionEncoder:
    """A model and what prepares pictures for it."""

    def __init__(self, folder: Path, device: str):
        """Loads the model; of one of pictures and texts, such as CLIP, what sees.

        Args:
            folder: as `save_pretrained` writes it: config.json, weights, preprocessor_config.json.
            device: such as "cpu" or "cuda".

        Raises:
            DataError: there is no such folder, it is no vision backbone, or a package is missing for it.
        """
        # From here, because it takes seconds.
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # what is wrong with the weights is an error below
        if not folder.is_dir():
            raise DataError("no such folder", "check --encoder", path=folder)
        for name in ("config.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise DataError(f"there is no {name} in it", "download all files of the model", path=folder)
        known: Any = {"local_files_only": True, "trust_remote_code": False}  # else it would ask at the terminal
        try:
            self._processor = _load_processor(folder, known)
            loaded: Any = AutoModel.from_pretrained(folder, output_loading_info=True, **known)
        except ImportError as error:
            raise DataError(f"the model needs a package that is not here ({first_line(error)})", path=folder) from error
        except Exception as error:  # damaged files and wrong configurations end in exceptions of every kind
            raise DataError(f"no model that can be loaded ({first_line(error)})", path=folder) from error
        model = getattr(loaded[0], "vision_model", loaded[0])
        prefix = "" if model is loaded[0] else "vision_model."
        # A pooler that a folder lacks is drawn at random, and not used.
        if absent := sorted(n for n in loaded[1]["missing_keys"] if n.startswith(prefix) and "pool" not in n):
            problem = f"{len(absent)} tensors of the model are missing, such as {absent[0]}"
            raise DataError(problem, "its weights are not those of a whole model", path=folder)
        self._model = model.eval().to(device)
        self._arguments = inspect.signature(self._model.forward).parameters.keys()
        if "pixel_values" not in self._arguments or self._model.config.model_type == "yolos":
            problem = f"{self._model.config.model_type} is no vision backbone"
            raise DataError(problem, "a detector goes with --detector", path=folder)
        self._device, self._folder = device, folder

    def prepare(self, image: Image.Image) -> Prepared:
        """Resizes, crops and normalises a picture as the model was trained."""
        inputs = self._processor(images=image, return_tensors="pt")
        kept = {name: values[0] for name, values in inputs.items() if name in self._arguments}
        return Prepared(kept, *image.size)

    def encode(self, batch: Sequence[Prepared], *, max_regions: int) -> list[Found]:
        """Encodes pictures of one shape.

        Args:
            batch: prepared pictures.
            max_regions: of a picture, the whole one included.

        Raises:
            DataError: the model's outputs are no grid.
        """
        inputs = {name: torch.stack([one.inputs[name] for one in batch]).to(self._device) for name in batch[0].inputs}
        with torch.inference_mode():
            hidden = self._model(**inputs).last_hidden_state.float().cpu().numpy()
        if not np.isfinite(hidden).all():
            raise DataError("the model's outputs are not finite", "try another --device", path=self._folder)
        sides = inputs["pixel_values"].shape[-2:]
        patches = self._grid(hidden, *sides)
        found = []
        for k, prepared in enumerate(batch):
            whole, boxes = self._seen(prepared, *sides), []
            features = [patches[k].mean((0, 1))[None]]
            if shape := choose_grid(patches.shape[1:3], max_regions - 1):
                features.append(pool(patches[k], shape).reshape(-1, patches.shape[-1]))
                boxes = _cells(whole, shape)
            found.append(Found(np.concatenate(features), np.array([whole, *boxes]), None, None))
        return found

    def _grid(self, hidden: np.ndarray, height: int, width: int) -> Float[np.ndarray, "b rows columns d"]:
        """The patches' vectors where they are in the picture."""
        if hidden.ndim == 4:  # of convolutions
            return hidden.transpose(0, 2, 3, 1)
        config, vectors = self._model.config, hidden.shape[1]
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
            path=self._folder,
        )

    def _seen(self, prepared: Prepared, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of a picture, in its pixels, that the model sees: less than all where the processor crops."""
        if not getattr(self._processor, "do_center_crop", None):
            return 0.0, 0.0, float(prepared.width), float(prepared.height)
        across, down = 1.0, 1.0  # pixels that the model gets for one of the picture
        if getattr(self._processor, "do_resize", None):
            across, down = _scales(dict(self._processor.size), prepared.width, prepared.height)
        wide, high = min(width / across, prepared.width), min(height / down, prepared.height)
        left, top = (prepared.width - wide) / 2, (prepared.height - high) / 2
        return left, top, left + wide, top + high


def _load_processor(folder: Path, known: dict[str, Any]) -> Any:
    """Pillow's form of a processor, which needs no torchvision and gives the same numbers everywhere.

    DINOv3's has none, but what it does to a picture is what a ViT's does, with ImageNet's mean and deviation.
    """
    from transformers import AutoImageProcessor
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    told = read_json(folder / "preprocessor_config.json")
    if not str(told.get("image_processor_type")).startswith("DINOv3"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **known)
    defaults = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
    return ViTImageProcessorPil.from_dict(defaults | told)


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
