import numpy as np
import pytest

from aladin_jax.evaluation.retrieval import Collection, Retrieval


def make_collection(captions_of_image):
    """Images "10", "11", ... with so many captions each, called "100", "101", ..."""
    image_of_caption = np.repeat(np.arange(len(captions_of_image)), captions_of_image)
    return Collection(
        image_ids=[str(10 + image) for image in range(len(captions_of_image))],
        image_of_caption=image_of_caption,
        caption_ids=[str(100 + caption) for caption in range(len(image_of_caption))],
        captions=[f"text {caption}" for caption in range(len(image_of_caption))],
    )


@pytest.fixture
def small():
    """Three images with 2, 1 and 2 captions; two scores of the first row are equal."""
    scores = np.array([[3, 5, 1, 5, 0], [9, 8, 7, 6, 5], [0, 1, 2, 3, 4]], np.float32)
    return Retrieval(scores, make_collection([2, 1, 2]))
