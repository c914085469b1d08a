"""A detector of the DETR family, from a local folder: boxes, classes and the vectors of its queries.

Each query of such a detector ends as one vector, from which its box and its class are read: the region's feature.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from aladin_jax.errors import DataError
from convert.detection.picture_model import PictureModel, Prepared
from convert.importing.regions import PixelRegions


class Detector(PictureModel):
    """A detector and what prepares pictures for it."""

    def __init__(self, folder: Path, device: str):
        """Loads the detector.

        Args:
            folder: see `PictureModel`.
            device: such as "cpu" or "cuda".

        Raises:
            DataError: as `PictureModel`, or its classes have no names.
        """
        super().__init__(folder, device, "detector")
        self._names: dict[int, str] = self.model.config.id2label
        if set(self._names) != set(range(len(self._names))):
            raise DataError("id2label does not name all classes", "mend config.json", path=folder)

    def extract(self, batch: Sequence[Prepared], *, threshold: float, max_regions: int) -> list[PixelRegions]:
        """Detects in pictures of one shape; regions are by falling score, in [0, 1], and within the picture.

        Args:
            batch: prepared pictures.
            threshold: regions with a lower score are left out.
            max_regions: as many of a picture's regions are kept, those of the highest scores.

        Raises:
            DataError: the model's outputs are not those of this family.
        """
        outputs = self(batch)
        logits, boxes = outputs.logits.float(), outputs.pred_boxes.float()
        queries = logits.shape[1]
        hidden = outputs.last_hidden_state.float()
        if self.model.config.model_type == "yolos":
            hidden = hidden[:, -queries:]  # before them stand the picture's patches
        if hidden.ndim != 3 or hidden.shape[1] != queries or boxes.shape[1] != queries:
            raise DataError(
                f"{queries} boxes, but hidden states of shape {list(hidden.shape)}",
                "only detectors whose queries have one vector each (DETR, RT-DETR, YOLOS, ...) give regions",
                path=self.folder,
            )
        scores, classes = _classify(
            logits, len(self._names), getattr(self.model.config, "use_focal_loss", None) is False
        )
        hidden, boxes, scores, classes = (values.cpu().numpy() for values in (hidden, boxes, scores, classes))
        if not all(np.isfinite(values).all() for values in (hidden, boxes, scores)):
            raise DataError("the detector's outputs are not finite", "try another --device", path=self.folder)
        found = []
        for k, (_, width, height) in enumerate(batch):
            corners = _corners(boxes[k], width, height)
            kept = np.flatnonzero((scores[k] >= threshold) & (corners[:, 2:] > corners[:, :2]).all(1))
            kept = kept[np.argsort(-scores[k, kept], kind="stable")][:max_regions]
            names = [self._names[number] for number in classes[k, kept].tolist()]
            found.append(PixelRegions(hidden[k, kept], corners[kept], names, scores[k, kept], width, height))
        return found


def _corners(boxes: Float[np.ndarray, "r 4"], width: int, height: int) -> Float[np.ndarray, "r 4"]:
    """x1, y1, x2, y2 in pixels, within the picture, of centres and sizes as shares of it."""
    centre, half = boxes[:, :2].astype(np.float64), boxes[:, 2:].astype(np.float64) / 2
    return np.clip(np.concatenate([centre - half, centre + half], 1), 0, 1) * [width, height, width, height]


def _classify(logits: torch.Tensor, num_classes: int, softmax: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Each query's most likely class and its probability, both [b, queries].

    Detectors with one more column than classes have "no object" in the last; the others judge each class apart, unless
    their classes exclude each other (`softmax`).
    """
    if softmax or logits.shape[-1] == num_classes + 1:
        scores, classes = logits.softmax(-1)[..., :-1].max(-1)
    else:
        scores, classes = logits.sigmoid().max(-1)
    return scores, classes
