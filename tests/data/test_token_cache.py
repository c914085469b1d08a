"""Tokens kept between epochs are those that the tokenizer gives, whoever made them."""

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.token_cache import TokenCache


@pytest.fixture
def split(numbered):
    return Split(open_dataset(numbered), "train")


@pytest.fixture
def pairs(split):
    return np.array([18, 0, 5, 5, 2])


def look_up(cache, split, pairs, records=None):
    images = split.images_of_pairs(pairs)
    records = records or {image: split.read(image) for image in set(images.tolist())}
    return [*cache.tokenize_captions(split, pairs, images, records), *cache.tokenize_tags(images, records)]


def expected(split, tokenizer, pairs):
    images = split.images_of_pairs(pairs)
    captions = [split.read(image).captions for image in range(split.num_images)]
    flat = [caption for some in captions for caption in some]
    tags = [split.read(image).tags for image in images.tolist()]
    return [*tokenizer.tokenize_captions([flat[pair] for pair in pairs]), *tokenizer.tokenize_tags(tags)]


def assert_equal(found, other):
    for array, other_array in zip(found, other, strict=True):
        assert array.dtype == other_array.dtype
        np.testing.assert_array_equal(array, other_array)


def other_texts(split, pairs):
    """Records that a cache which knows their rows has no need to look at."""
    return {
        image: split.read(image)._replace(captions=["p99"] * split.caption_counts[image], tags=["t9"])
        for image in set(split.images_of_pairs(pairs).tolist())
    }


def test_a_first_and_a_second_look_give_what_the_tokenizer_gives(split, tokenizer, pairs):
    cache = TokenCache(split, tokenizer)
    assert_equal(look_up(cache, split, pairs), expected(split, tokenizer, pairs))
    assert_equal(look_up(cache, split, pairs), expected(split, tokenizer, pairs))


def test_a_text_is_tokenised_once_with_all_captions_of_its_image(split, tokenizer):
    cache = TokenCache(split, tokenizer)
    look_up(cache, split, np.array([1]))  # of the image whose pairs are 1, 2 and 3
    again = np.array([3, 2, 1])
    assert_equal(look_up(cache, split, again, other_texts(split, again)), expected(split, tokenizer, again))


def test_another_process_finds_the_rows_that_one_made(split, tokenizer, pairs):
    cache = TokenCache(split, tokenizer)
    elsewhere = pickle.loads(pickle.dumps(cache))
    look_up(elsewhere, split, pairs)
    assert_equal(look_up(cache, split, pairs, other_texts(split, pairs)), expected(split, tokenizer, pairs))


def test_a_row_that_is_half_written_is_made_again(split, tokenizer, pairs):
    cache = TokenCache(split, tokenizer)
    look_up(cache, split, pairs)
    for rows in (cache._captions, cache._labels):
        rows[:, -1] = 7  # what another process has not written yet
    assert_equal(look_up(cache, split, pairs), expected(split, tokenizer, pairs))


def test_the_file_goes_with_the_cache(split, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cache = TokenCache(split, tokenizer)
    assert [path.name for path in Path(tmp_path).glob("*/*")]
    del cache
    gc.collect()
    assert not list(tmp_path.iterdir())
