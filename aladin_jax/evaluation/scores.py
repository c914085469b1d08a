"""A split's scores: every image and every caption encoded once, all pairs scored with both heads."""

from __future__ import annotations

import numpy as np

from aladin_jax.data.records import Split
from aladin_jax.encoding import Encoder, Scores, score_pairs
from aladin_jax.models.aladin import Params
from aladin_jax.scores.similarity import Measure, Pooling


def score_split(
    encoder: Encoder,
    params: Params,
    split: Split,
    images: np.ndarray | None = None,
    *,
    pooling: Pooling = "MrSw",
    measure: Measure = "dot",
) -> tuple[Scores, np.ndarray]:
    """Scores all pairs of images and of their captions with both heads.

    Args:
        encoder: of the model; regions and words are compared in its number format, scores are float32 either way.
        params: on the devices.
        split: where the images are.
        images: records to take, in order; None for all.
        pooling: of alignment scores.
        measure: of matching scores.

    Returns:
        The scores [i, c], and the image (position in `images`) of every caption.
    """
    images = np.arange(split.num_images) if images is None else images
    encoded_images = encoder.encode_images(params, split, images)
    captions, image_of_caption = encoder.encode_captions(params, split, images)
    scores = score_pairs(encoded_images, captions, pooling=pooling, measure=measure, dtype=encoder.dtype)
    return scores, image_of_caption
