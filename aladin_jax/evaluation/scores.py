"""A split's scores: every image and every caption encoded once, all pairs scored with both heads."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from aladin_jax.data.records import Split
from aladin_jax.encoding import Encoder
from aladin_jax.models.aladin import Params
from aladin_jax.scores.all_pairs import all_alignment_scores
from aladin_jax.scores.similarity import matching_scores
from aladin_jax.training.objective import Objective


def score_split(
    encoder: Encoder, params: Params, split: Split, images: np.ndarray | None = None, *, objective: Objective
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Scores all pairs of images and of their captions with both heads.

    Args:
        encoder: of the model; regions and words are compared in its number format, scores are float32 either way.
        params: on the devices.
        split: where the images are.
        images: records to take, in order; None for all.
        objective: says which pooling and which measure.

    Returns:
        {"matching": [i, c], "alignment": [i, c]}, and the image (position in `images`) of every caption.
    """
    images = np.arange(split.num_images) if images is None else images
    encoded_images = encoder.encode_images(params, split, images)
    captions, image_of_caption = encoder.encode_captions(params, split, images)
    vectors = jnp.asarray(encoded_images.vectors), jnp.asarray(captions.vectors)
    matching = matching_scores(*vectors, measure=objective.measure)
    parts = encoded_images.parts, captions.parts
    alignment = all_alignment_scores(*parts, pooling=objective.pooling, dtype=encoder.dtype)
    return {"matching": np.asarray(matching), "alignment": alignment}, image_of_caption
