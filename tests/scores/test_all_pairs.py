"""All-pairs and re-ranking scores on ragged vectors, against the golden scores and against `similarity`."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.scores import all_pairs, ragged, similarity
from aladin_jax.scores.maxsim import best_region
from aladin_jax.scores.ragged import Ragged

GOLDEN = Path(__file__).parents[1] / "golden" / "unit" / "retrieval.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as data:
        return dict(data)


@pytest.fixture(scope="module")
def sides(golden):
    return (
        ragged.ragged_regions(golden["region_embeddings"], golden["region_len"]),
        ragged.ragged_words(golden["token_embeddings"], golden["caption_len"]),
    )


def random_ragged(lengths, d, seed=0) -> Ragged:
    vectors = np.random.default_rng(seed).standard_normal((sum(lengths), d), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Ragged(vectors, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def plain_scores(images: Ragged, captions: Ragged) -> np.ndarray:
    """MrSw with the evaluation's floor, pair by pair, in float64."""
    scores = np.zeros((len(images.lengths), len(captions.lengths)))
    for i in range(len(images.lengths)):
        regions = images.vectors[images.offsets[i] : images.offsets[i + 1]].astype(float)
        for c in range(len(captions.lengths)):
            words = captions.vectors[captions.offsets[c] : captions.offsets[c + 1]].astype(float)
            scores[i, c] = np.maximum((words @ regions.T).max(axis=1, initial=0), 0).sum()
    return scores


def test_all_pairs_equal_the_originals_evaluation(golden, sides):
    scores = all_pairs.all_alignment_scores(*sides)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, golden["alignment_scores"], atol=1e-5)


@pytest.mark.parametrize("pooling", similarity.POOLINGS)
def test_every_pooling_equals_the_padded_scores(golden, sides, pooling):
    images, captions = np.arange(12), np.arange(50)
    padded = similarity.alignment_scores(
        jnp.asarray(golden["region_embeddings"][images]),
        jnp.asarray(golden["region_len"][images]),
        jnp.asarray(golden["token_embeddings"][captions]),
        jnp.asarray(golden["caption_len"][captions]),
        pooling=pooling,
        floor="always",
    )
    scores = all_pairs.all_alignment_scores(sides[0].take(images), sides[1].take(captions), pooling=pooling)
    np.testing.assert_allclose(scores, padded, atol=2e-5)


def test_packing_drops_what_does_not_take_part_and_normalises():
    x = np.arange(1, 2 * 6 * 3 + 1, dtype=np.float32).reshape(2, 6, 3)

    def unit(rows):
        return rows / np.linalg.norm(rows, axis=-1, keepdims=True)

    regions = ragged.ragged_regions(x, np.array([4, 1]))
    np.testing.assert_array_equal(regions.offsets, [0, 3, 3])
    np.testing.assert_allclose(regions.vectors, unit(x[0, 1:4]), rtol=1e-6)
    words = ragged.ragged_words(x, np.array([3, 6]))  # [CLS] piece [SEP]: the last word piece goes, none is left
    np.testing.assert_array_equal(words.offsets, [0, 0, 3])
    np.testing.assert_allclose(words.vectors, unit(x[1, 1:4]), rtol=1e-6)


def test_batches_joined_equal_all_at_once(golden, sides):
    tokens, lengths = golden["token_embeddings"], golden["caption_len"]
    parts = [ragged.ragged_words(tokens[k : k + 100], lengths[k : k + 100]) for k in (0, 100, 200)]
    joined = ragged.concatenate(parts)
    np.testing.assert_array_equal(joined.offsets, sides[1].offsets)
    np.testing.assert_array_equal(joined.vectors, sides[1].vectors)


def test_captions_without_words_and_images_without_regions_score_zero():
    images, captions = random_ragged([5, 0, 3], 16), random_ragged([0, 4, 0], 16, seed=1)
    for pooling in similarity.POOLINGS:
        scores = all_pairs.all_alignment_scores(images, captions, pooling=pooling)
        assert np.all(scores[1] == 0)
        assert np.all(scores[:, [0, 2]] == 0)
        assert np.all(scores[[0, 2], 1] != 0)
    assert all_pairs.all_alignment_scores(images, captions.take(np.array([], int))).shape == (3, 0)
    assert all_pairs.all_alignment_scores(images.take(np.array([], int)), captions).shape == (0, 3)


def test_a_word_unlike_all_regions_counts_as_zero_even_for_the_longest_image():
    regions = np.tile([[1.0, 0.0]], (3, 1)).astype(np.float32)
    words = np.array([[-1.0, 0.0], [0.6, 0.8]], np.float32)
    scores = all_pairs.all_alignment_scores(Ragged(regions, np.array([0, 3])), Ragged(words, np.array([0, 2])))
    np.testing.assert_allclose(scores, [[0.6]], rtol=1e-6)


COPIES = """
import numpy as np
from aladin_jax.scores import all_pairs
from tests.scores.test_all_pairs import random_ragged

rng = np.random.default_rng(3)
images, captions = random_ragged(rng.integers(0, 35, 45), 768), random_ragged(rng.integers(0, 24, 120), 768, seed=1)
image_copies, caption_copies = rng.permutation(np.arange(3 * 45) % 45), rng.permutation(np.arange(3 * 120) % 120)
for dtype in ("float32", "bfloat16"):
    scores = all_pairs.all_alignment_scores(images.take(image_copies), captions.take(caption_copies), dtype=dtype)
    by_image = np.argsort(image_copies, kind="stable").reshape(45, 3)
    by_caption = np.argsort(caption_copies, kind="stable").reshape(120, 3)
    grouped = scores[by_image[:, :, None, None], by_caption[None, None]]  # [45, 3, 120, 3]
    print(dtype, np.count_nonzero(grouped != grouped[:, :1, :, :1]))
"""


def test_equal_images_and_equal_captions_tie_to_the_last_bit_wherever_they_stand():
    # In a process of its own, for programs compiled as users' are: not quickly, as in these tests.
    process = subprocess.run(
        [sys.executable, "-c", COPIES],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.stdout.splitlines() == ["float32 0", "bfloat16 0"], process.stderr


def test_large_collections_are_scored_in_parts(monkeypatch):
    # More words than the device holds at a time, more images than a tile holds, and more than one caption tile.
    size = all_pairs.CPU_TILE._replace(words=256, images=64, resident_words=1024)
    monkeypatch.setattr(all_pairs, "CPU_TILE", size)
    images, captions = random_ragged([1, 2, 9] * 60, 8), random_ragged([33, 0, 47] * 40, 8, seed=1)
    scores = all_pairs.all_alignment_scores(images, captions)
    np.testing.assert_allclose(scores, plain_scores(images, captions), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiles_of_an_accelerators_size_give_the_same_scores(sides, monkeypatch, dtype):
    expected = all_pairs.all_alignment_scores(*sides, dtype=dtype)
    monkeypatch.setattr(all_pairs, "CPU_TILE", all_pairs.ACCELERATOR_TILE)
    np.testing.assert_allclose(all_pairs.all_alignment_scores(*sides, dtype=dtype), expected, atol=1e-5)


def test_bfloat16_and_float16_vectors_move_scores_little(sides):
    exact = all_pairs.all_alignment_scores(*sides)
    rough = all_pairs.all_alignment_scores(*sides, dtype="bfloat16")
    assert 0 < np.abs(rough - exact).max() < 0.05
    halves = [side._replace(vectors=side.vectors.astype(np.float16)) for side in sides]
    assert 0 < np.abs(all_pairs.all_alignment_scores(*halves) - exact).max() < 5e-3


@pytest.mark.parametrize("pooling", ["MrSw", "symm"])
def test_candidates_of_one_query_score_as_among_all_pairs_in_the_order_chosen(golden, sides, pooling):
    images, captions = sides
    everything = all_pairs.all_alignment_scores(images, captions, pooling=pooling)
    chosen_images, chosen_captions = np.array([59, 3, 3, 17]), np.array([299, 0, 41])
    words = captions.take(np.array([7])).vectors
    regions = images.take(np.array([7])).vectors
    np.testing.assert_allclose(
        ragged.scores_of_caption(words, images, chosen_images, pooling=pooling),
        everything[chosen_images, 7],
        atol=1e-5,
    )
    np.testing.assert_allclose(
        ragged.scores_of_image(regions, captions, chosen_captions, pooling=pooling),
        everything[7, chosen_captions],
        atol=1e-5,
    )


def test_candidates_without_words_or_regions_score_zero():
    images, captions = random_ragged([0, 5, 0, 0, 3, 0], 16), random_ragged([0, 2, 0, 4], 16, seed=1)
    expected = plain_scores(images, captions)
    for caption in range(4):
        words = captions.take(np.array([caption])).vectors
        scores = ragged.scores_of_caption(words, images, np.arange(6))
        np.testing.assert_allclose(scores, expected[:, caption], atol=1e-6)
    for image in range(6):
        scores = ragged.scores_of_image(images.take(np.array([image])).vectors, captions, np.arange(4))
        np.testing.assert_allclose(scores, expected[image], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_candidates_are_scored_in_blocks_as_among_all_pairs(tmp_path, dtype):
    images, captions = random_ragged([20 + k % 14 for k in range(300)], 24), random_ragged([7, 0, 9] * 100, 24, seed=1)
    mapped = []
    for side in (images, captions):
        np.save(tmp_path / f"{len(mapped)}.npy", side.vectors.astype(dtype))
        mapped.append(side._replace(vectors=np.load(tmp_path / f"{len(mapped)}.npy", mmap_mode="r")))
    images, captions = mapped
    everything = all_pairs.all_alignment_scores(images, captions)
    chosen = np.random.default_rng(2).integers(0, 300, 250)
    words = captions.take(np.array([6])).vectors.astype(np.float32)
    regions = images.take(np.array([6])).vectors.astype(np.float32)
    assert images.lengths[chosen].sum() > 3 * ragged.BLOCK_ROWS
    for some in (chosen, np.arange(300)):  # taken out of the file, and where they lie
        np.testing.assert_allclose(ragged.scores_of_caption(words, images, some), everything[some, 6], atol=1e-6)
        np.testing.assert_allclose(ragged.scores_of_image(regions, captions, some), everything[6, some], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("words", [1, 5, 10, 17, 47])
def test_equal_candidates_tie_to_the_last_bit_wherever_they_stand(words, dtype):
    rng = np.random.default_rng(4)
    images = random_ragged(rng.integers(1, 35, 40), 768)
    images = images._replace(vectors=images.vectors.astype(dtype))
    copies = rng.permutation(np.arange(5 * 40) % 40)
    scores = ragged.scores_of_caption(random_ragged([words], 768, seed=1).vectors, images.take(copies), np.arange(200))
    by_image = scores[np.argsort(copies, kind="stable")].reshape(40, 5)
    np.testing.assert_array_equal(by_image, by_image[:, :1].repeat(5, axis=1))


def test_every_number_of_float16_counts_as_what_it_is():
    bits = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = bits[np.isfinite(bits)][:, None]
    similarities = ragged._similarities(finite, np.array([[0.5]], np.float32))
    np.testing.assert_array_equal(similarities, finite.astype(np.float32) / 2)


def test_the_explanations_best_region_is_the_kernels():
    words, regions = random_ragged([9], 16).vectors, random_ragged([33], 16, seed=1).vectors
    regions[20] = regions[4]
    value, region = best_region(jnp.asarray(words), jnp.asarray(regions)[None], region_axis=1)
    value_on_host, region_on_host = ragged.best_region(words, regions)
    np.testing.assert_allclose(value_on_host, value[:, 0], atol=1e-6)
    np.testing.assert_array_equal(region_on_host, region[:, 0])


@pytest.mark.parametrize(("pooling", "programs"), [("MrSw", 0), ("symm", 2)])
def test_re_ranking_compiles_little_for_ever_new_lengths_and_numbers_of_candidates(pooling, programs):
    images = random_ragged([20 + k % 4 for k in range(300)], 24)
    before = ragged._pooled._cache_size()
    for words in range(1, 17, 5):
        query = random_ragged([words], 24).vectors
        ragged.scores_of_caption(query, images, np.arange(100 + 2 * words), pooling=pooling)
    assert ragged._pooled._cache_size() <= before + programs


def test_unknown_pooling_and_vectors_of_two_models_are_refused(sides, unchecked):
    images, captions = sides
    with pytest.raises(ValueError, match="pooling is 'max'; choose one of MrSw"):
        all_pairs.all_alignment_scores(images, captions, pooling="max")
    with pytest.raises(ValueError, match="image vectors have 32 features, caption vectors 8"):
        all_pairs.all_alignment_scores(images, random_ragged([3], 8))
    with pytest.raises(ValueError, match="image vectors have 32 features, caption vectors 8"):
        ragged.scores_of_caption(random_ragged([3], 8).vectors, images, np.arange(3))
