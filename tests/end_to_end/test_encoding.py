"""What is encoded from the golden files for evaluation and search."""

import jax
import numpy as np
import pytest

from aladin_jax import sharding
from aladin_jax.config import Settings
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.encoding import Encoder
from aladin_jax.models.aladin import bind
from aladin_jax.pretrained import make_tokenizer
from tests.golden_data import E2E, arrays, converted

ATOL = 2e-5


@pytest.fixture(scope="module")
def encode(golden_inputs):
    """Encodes images of `test` and all their captions, so many at once."""
    params, model_config = converted("e2e")
    params = jax.tree.map(jax.numpy.asarray, params)
    tokenizer = make_tokenizer(model_config, E2E / "vinvl" / "vocab.txt", "vinvl", Settings())
    split = Split(open_dataset(golden_inputs["data.dir"]), "test", model_config.backbone.img_feature_dim)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])

    def encode(images, batch_size):
        encoder = Encoder(bind(*model_config), tokenizer, max_regions=34, batch_size=batch_size, mesh=mesh)
        images = np.asarray(images)
        return encoder.encode_images(params, split, images), *encoder.encode_captions(params, split, images)

    return encode


@pytest.fixture(scope="module")
def first_images(encode):
    return encode([0, 1], 16)


def test_vectors_regions_and_words_are_the_originals(first_images, differences):
    images, captions, image_of_caption = first_images
    golden = arrays("e2e/embeddings.npz")
    group = "e2e embeddings: matching vectors"
    differences.check(group, images.vectors[image_of_caption[:8]], golden["image_embedding"], atol=ATOL)
    differences.check(group, captions.vectors[:8], golden["caption_embedding"], atol=ATOL)
    for pair in range(8):
        regions = images.parts.take(image_of_caption[[pair]]).vectors
        expected = golden["region_embeddings"][pair, 1 : golden["region_len"][pair]]
        differences.check("e2e embeddings: regions and words", regions, expected, atol=ATOL)
        words = captions.parts.take(np.array([pair])).vectors
        expected = golden["token_embeddings"][pair, 1 : golden["caption_len"][pair] - 2]
        differences.check("e2e embeddings: regions and words", words, expected, atol=ATOL)


def test_order_and_batch_size_do_not_matter_and_the_last_batch_is_filled_up(encode, first_images):
    images, captions, image_of_caption = encode([7, 1, 0], 4)
    assert len(images.vectors) == 3
    assert len(captions.vectors) == len(image_of_caption) == 15
    np.testing.assert_array_equal(image_of_caption, np.repeat([0, 1, 2], 5))
    expected_images, expected_captions, _ = first_images
    np.testing.assert_allclose(images.vectors[[2, 1]], expected_images.vectors, atol=2e-6)
    np.testing.assert_allclose(captions.vectors[[*range(10, 15), *range(5, 10)]], expected_captions.vectors, atol=2e-6)
    found = images.parts.take(np.array([2, 1]))
    np.testing.assert_array_equal(found.offsets, expected_images.parts.offsets)
    np.testing.assert_allclose(found.vectors, expected_images.parts.vectors, atol=2e-6)
