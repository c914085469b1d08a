import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aladin_jax.evaluation.recall import (
    fold_reports,
    retrieval_ranks,
    retrieval_report,
    select_images,
)

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = ["i2t/R@1", "i2t/R@5", "i2t/R@10", "i2t/medr", "i2t/meanr"]
KEYS += [key.replace("i2t", "t2i") for key in KEYS] + ["rsum"]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "unit/retrieval.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def five_each(golden):
    return np.repeat(np.arange(len(golden["region_len"])), 5)


def ranks_by_sorting(scores, image_of_caption):
    """The definition in words: sort each query's candidates, best first, later index first among equals."""

    def place(values):
        order = sorted(range(len(values)), key=lambda index: (-values[index], -index))
        return {index: rank for rank, index in enumerate(order)}

    rows, columns = [place(row) for row in scores], [place(column) for column in scores.T]
    images = [
        min(rows[image][c] for c in range(scores.shape[1]) if image_of_caption[c] == image)
        for image in range(scores.shape[0])
    ]
    return images, [columns[c][image_of_caption[c]] for c in range(scores.shape[1])]


@st.composite
def tied_tasks(draw):
    """Few distinct score values, so that most comparisons are ties; 1 to 4 captions an image, in any column order."""
    counts = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    image_of_caption = draw(st.permutations(np.repeat(np.arange(len(counts)), counts).tolist()))
    size = len(counts) * len(image_of_caption)
    values = draw(st.lists(st.sampled_from([-1.0, 0.0, 0.5]), min_size=size, max_size=size))
    return np.array(values, np.float32).reshape(len(counts), -1), np.array(image_of_caption)


def test_alignment_ranks_are_the_originals(golden, five_each):
    image_ranks, caption_ranks = retrieval_ranks(golden["alignment_scores"], five_each)
    np.testing.assert_array_equal(image_ranks, golden["alignment_i2t_ranks"])
    np.testing.assert_array_equal(caption_ranks, golden["alignment_t2i_ranks"])


def test_alignment_report_is_the_originals(golden, five_each):
    report = retrieval_report(golden["alignment_scores"], five_each)
    assert list(report) == KEYS
    assert [report[key] for key in KEYS[:5]] == golden["alignment_i2t"].tolist()
    assert [report[key] for key in KEYS[5:10]] == golden["alignment_t2i"].tolist()


def test_matching_recalls_are_the_originals(golden, five_each):
    report = retrieval_report(golden["matching_image"] @ golden["matching_caption"].T, five_each)
    assert [report[key] for key in KEYS if "R@" in key or key == "rsum"] == golden["matching"].tolist()


def test_a_report_can_be_written_as_json(golden, five_each):
    report = retrieval_report(golden["alignment_scores"], five_each)
    assert json.loads(json.dumps(report)) == report


@given(tied_tasks())
def test_ranks_are_those_of_sorting_with_the_later_index_first_among_equals(task):
    images, captions = ranks_by_sorting(*task)
    image_ranks, caption_ranks = retrieval_ranks(*task)
    assert image_ranks.tolist() == images
    assert caption_ranks.tolist() == captions


def test_a_model_that_scores_every_pair_alike_stands_at_chance():
    report = retrieval_report(np.zeros((100, 100), np.float32), np.arange(100))
    assert report["i2t/R@1"] == report["t2i/R@1"] == 1.0
    assert report["i2t/meanr"] == report["t2i/meanr"] == 50.5


def test_of_two_images_with_the_same_caption_only_the_later_one_is_first():
    image_ranks, _ = retrieval_ranks(np.array([[1.0, 1.0], [1.0, 1.0]]), np.array([0, 1]))
    assert image_ranks.tolist() == [1, 0]


def test_an_image_is_placed_by_the_best_of_however_many_captions_it_has():
    scores = np.array([[0.1, 0.9, 0.2, 0.5], [0.8, 0.7, 0.6, 0.3]])
    image_ranks, caption_ranks = retrieval_ranks(scores, np.array([0, 1, 1, 0]))
    assert image_ranks.tolist() == [1, 1]
    assert caption_ranks.tolist() == [1, 1, 0, 0]


def test_the_median_rank_of_an_even_number_of_queries_is_rounded_down():
    scores = np.array([[4.0, 0.0, 0.0, 0.0], [2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0]])
    report = retrieval_report(scores, np.arange(4))  # image ranks 0, 1, 0, 3: median 0.5
    assert report["i2t/medr"] == 1.0
    assert report["i2t/meanr"] == 2.0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_an_error_and_not_a_perfect_rank(bad):
    with pytest.raises(ValueError, match="image 1: a score is NaN or infinite"):
        retrieval_ranks(np.array([[1.0, 0.0], [0.0, bad]]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("image_of_caption", "message"),
    [
        ([0, 0, 1], "scores have 2 captions"),
        ([0, 2], "outside the 2 images"),
        ([-1, 0], "outside the 2 images"),
        ([0, 0], r"1 of 2 images have no caption \(first: \[1\]\)"),
    ],
)
def test_captions_that_do_not_fit_the_scores_are_an_error(image_of_caption, message, unchecked):
    with pytest.raises(ValueError, match=message):
        retrieval_report(np.zeros((2, 2)), np.array(image_of_caption))


def test_a_selection_keeps_only_its_images_and_their_captions_in_the_order_asked_for():
    scores = np.arange(15.0).reshape(3, 5)
    selected, image_of_caption = select_images(scores, np.array([2, 0, 1, 2, 0]), [2, 0])
    assert selected.tolist() == [[10, 13, 11, 14], [0, 3, 1, 4]]
    assert image_of_caption.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(("images", "message"), [([1, 1], "more than once"), ([3], r"lie in 0\.\.2"), ([], "at least")])
def test_a_selection_of_images_that_are_not_there_is_an_error(images, message):
    with pytest.raises(ValueError, match=message):
        select_images(np.zeros((3, 3)), np.arange(3), images)


def test_each_fold_ranks_its_own_images_and_captions_alone(golden, five_each):
    scores = golden["alignment_scores"]
    folds = [
        retrieval_report(scores[start : start + 20, 5 * start : 5 * (start + 20)], np.repeat(np.arange(20), 5))
        for start in (0, 20, 40)
    ]
    average = fold_reports(scores, five_each, num_folds=3, fold_size=20)
    assert list(average) == KEYS
    for key in KEYS:
        assert average[key] == pytest.approx(np.mean([fold[key] for fold in folds]), abs=1e-12)
    assert average["i2t/R@1"] > retrieval_report(scores, five_each)["i2t/R@1"]  # 20 candidates are easier than 60


def test_folds_that_need_more_images_than_there_are_are_an_error(golden, five_each):
    with pytest.raises(ValueError, match="5 folds of 1000 images need as many images, there are 60"):
        fold_reports(golden["alignment_scores"], five_each, num_folds=5, fold_size=1000)


def test_recall_is_imported_without_an_array_framework():
    code = "import sys, aladin_jax.evaluation.recall; print({'tensorflow', 'jax', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
