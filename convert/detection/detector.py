"""A detector of the DETR family, from a local folder: boxes, classes and the vectors of its queries.

Each query of such a detector ends as one vector, from which its box and its class are read: the region's feature.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from aladin_jax.errors import DataError, first_line


class Prepared(NamedTuple):
    """A picture as a detector takes it.

    Attributes:
        inputs: tensors by the model's argument, without the axis of the batch.
        width: of the picture in pixels.
        height: of the picture in pixels.
    """

    inputs: dict[str, torch.Tensor]
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Pictures of one shape can be one batch without padding, so that none depends on its neighbours."""
        return tuple(self.inputs["pixel_values"].shape)


class Found(NamedTuple):
    """What a detector found in one picture, by falling score.

    Attributes:
        features: [r, d].
        boxes: x1, y1, x2, y2 in pixels, within the picture, [r, 4].
        classes: names; None of an encoder, which has none.
        scores: [r], in [0, 1]; None of an encoder.
    """

    features: Float[np.ndarray, "r d"]
    boxes: Float[np.ndarray, "r 4"]
    classes: list[str] | None
    scores: Float[np.ndarray, " r"] | None


class Detector:
    """A model and what prepares pictures for it."""

    def __init__(self, folder: Path, device: str):
        """Loads the model.

        Args:
            folder: as `save_pretrained` writes it: config.json, weights, preprocessor_config.json.
            device: such as "cpu" or "cuda".

        Raises:
            DataError: there is no such folder, it is not a detector, or a package is missing for it.
        """
        # From here, because it takes seconds.
        from transformers import AutoImageProcessor, AutoModelForObjectDetection
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # what is wrong with the weights is an error below
        if not folder.is_dir():
            raise DataError("no such folder", "check --detector", path=folder)
        for name in ("config.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise DataError(f"there is no {name} in it", "download all files of the detector", path=folder)
        try:
            # Pillow's processor needs no torchvision, and gives the same numbers everywhere.
            known: Any = {"local_files_only": True, "trust_remote_code": False}  # else it would ask at the terminal
            self._processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", **known)
            loaded: Any = AutoModelForObjectDetection.from_pretrained(folder, output_loading_info=True, **known)
            self._model = loaded[0].eval().to(device)
        except ImportError as error:
            cause = " ".join(str(error).split()).partition(". ")[0][:200]
            raise DataError(f"the detector needs a package that is not here ({cause})", path=folder) from error
        except Exception as error:  # damaged files and wrong configurations end in exceptions of every kind
            raise DataError(f"no detector that can be loaded ({first_line(error)})", path=folder) from error
        if absent := sorted(loaded[1]["missing_keys"]):
            problem = f"{len(absent)} tensors of the detector are missing, such as {absent[0]}"
            raise DataError(problem, "its weights are not those of a whole detector", path=folder)
        self._device = device
        self._arguments = inspect.signature(self._model.forward).parameters.keys()
        self._names: dict[int, str] = self._model.config.id2label
        if set(self._names) != set(range(len(self._names))):
            raise DataError("id2label does not name all classes", "mend config.json", path=folder)
        self._folder = folder

    def prepare(self, image: Image.Image) -> Prepared:
        """Resizes and normalises a picture as the detector was trained."""
        inputs = self._processor(images=image, return_tensors="pt")
        kept = {name: values[0] for name, values in inputs.items() if name in self._arguments}
        return Prepared(kept, *image.size)

    def detect(self, batch: Sequence[Prepared], *, threshold: float, max_regions: int) -> list[Found]:
        """Detects in pictures of one shape.

        Args:
            batch: prepared pictures.
            threshold: regions with a lower score are left out.
            max_regions: as many of a picture's regions are kept, those of the highest scores.

        Raises:
            DataError: the model's outputs are not those of this family.
        """
        inputs = {
            name: torch.stack([prepared.inputs[name] for prepared in batch]).to(self._device)
            for name in batch[0].inputs
        }
        with torch.inference_mode():
            outputs = self._model(**inputs)
        logits, boxes = outputs.logits.float(), outputs.pred_boxes.float()
        queries = logits.shape[1]
        hidden = outputs.last_hidden_state.float()
        if self._model.config.model_type == "yolos":
            hidden = hidden[:, -queries:]  # before them stand the picture's patches
        if hidden.ndim != 3 or hidden.shape[1] != queries or boxes.shape[1] != queries:
            raise DataError(
                f"{queries} boxes, but hidden states of shape {list(hidden.shape)}",
                "only detectors whose queries have one vector each (DETR, RT-DETR, YOLOS, ...) give regions",
                path=self._folder,
            )
        scores, classes = _classify(logits, len(self._names), self._softmax())
        hidden, boxes, scores, classes = (values.cpu().numpy() for values in (hidden, boxes, scores, classes))
        if not all(np.isfinite(values).all() for values in (hidden, boxes, scores)):
            raise DataError("the detector's outputs are not finite", "try another --device", path=self._folder)
        found = []
        for k, prepared in enumerate(batch):
            corners = _corners(boxes[k], prepared.width, prepared.height)
            kept = np.flatnonzero((scores[k] >= threshold) & (corners[:, 2:] > corners[:, :2]).all(1))
            kept = kept[np.argsort(-scores[k, kept], kind="stable")][:max_regions]
            names = [self._names[number] for number in classes[k, kept].tolist()]
            found.append(Found(hidden[k, kept], corners[kept], names, scores[k, kept]))
        return found

    def _softmax(self) -> bool:
        """Whether classes exclude each other although "no object" has no column of its own."""
        return getattr(self._model.config, "use_focal_loss", None) is False


def _corners(boxes: Float[np.ndarray, "r 4"], width: int, height: int) -> Float[np.ndarray, "r 4"]:
    """x1, y1, x2, y2 in pixels, within the picture, of centres and sizes as shares of it."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    return np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1) * [width, height, width, height]


def _classify(logits: torch.Tensor, num_classes: int, softmax: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query's most likely class and its probability, both [b, queries].

    Detectors with one more column than classes have "no object" in the last; the others judge each class apart.
    """
    if softmax or logits.shape[-1] == num_classes + 1:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
    else:
        scores, classes = logits.sigmoid().max(-1)
    return scores, classes
