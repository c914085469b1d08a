"""nDCG with ROUGE-L and with people's grades, against `rouge-score`, `ir-measures` and values worked out by hand."""

import logging

import ir_measures
import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer

from aladin_jax.errors import DataError
from aladin_jax.evaluation.grades import read_grades, relevance_of_grades
from aladin_jax.evaluation.metrics import make_metrics
from aladin_jax.evaluation.ndcg import CUTOFF, Ndcg
from aladin_jax.evaluation.retrieval import Retrieval
from aladin_jax.evaluation.rouge import rouge_l
from tests.evaluation.conftest import make_collection


class Spaces:
    """The words of TERN's and TERAN's code, for rouge-score."""

    def tokenize(self, text):
        return text.lower().split(" ")


def test_rouge_l_is_that_of_the_papers_worked_out_by_hand(tmp_path):
    captions = ["A dog runs", "a  cat", "The dog sat and runs", "Runs a dog."]
    found = rouge_l(make_collection([2, 2])._replace(captions=captions), tmp_path)

    def f(precision, recall):
        return 2.44 * precision * recall / (recall + 1.44 * precision)

    expected = [
        [1, 1, f(2 / 5, 2 / 3), f(1 / 3, 1 / 3)],  # "runs a dog.": "a" or "runs"; "dog." is another word than "dog"
        # The precision is of one caption, the recall of another: "dog runs" of five words, "a" or "runs" of three.
        [f(2 / 3, 2 / 5), f(1 / 3, 1 / 3), 1, 1],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rouge_l_has_the_precisions_and_recalls_of_rouge_score(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array(["a", "the", "Dog", "dog", "dog.", "cat", "runs", "on", "é", ""])
    counts = rng.integers(1, 6, 90)  # more images than are compared at once
    captions = [" ".join(rng.choice(words, rng.integers(1, 9))) for _ in range(counts.sum())]
    collection = make_collection(counts)._replace(captions=captions)
    found = rouge_l(collection, tmp_path)
    scorer = RougeScorer(["rougeL"], tokenizer=Spaces())
    for image, caption in zip(rng.integers(0, 90, 300), rng.integers(0, len(captions), 300), strict=True):
        own = np.flatnonzero(collection.image_of_caption == image)
        pairs = [scorer.score(captions[r], captions[caption])["rougeL"] for r in own]
        precision, recall = max(pair.precision for pair in pairs), max(pair.recall for pair in pairs)
        expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
        assert found[image, caption] == pytest.approx(expected, abs=1e-6)


def test_rouge_l_is_computed_once_for_the_same_captions(tmp_path):
    collection = make_collection([2, 1])
    first = rouge_l(collection, tmp_path / "cache")
    [file] = (tmp_path / "cache").iterdir()
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(rouge_l(collection, tmp_path / "cache"), first)
    assert file.stat().st_mtime_ns == written
    rouge_l(collection._replace(captions=["other", "captions", "here"]), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def oracle(scores, gains):
    """ir-measures' nDCG, whose gains are whole numbers and the relevances themselves."""
    rows, columns = (range(size) for size in scores.shape)
    run = {str(q): {str(d): float(scores[q, d]) for d in columns} for q in rows}
    truth = {str(q): {str(d): int(gains[q, d]) for d in columns} for q in rows if gains[q].any()}
    return 100 * ir_measures.calc_aggregate([ir_measures.nDCG @ CUTOFF], truth, run)[ir_measures.nDCG @ CUTOFF]


def test_ndcg_is_that_of_ir_measures_in_both_directions(caplog):
    rng = np.random.default_rng(1)
    collection = make_collection([3] * 30)
    relevance = (rng.integers(0, 5, (30, 90)) * (rng.random((30, 90)) < 0.3)).astype(np.float32)
    relevance[7] = relevance[:, 11] = 0  # queries that nothing is relevant to
    retrieval = Retrieval(rng.random((30, 90), np.float32), collection)
    with caplog.at_level(logging.INFO):
        found = Ndcg("graded", lambda _: relevance)(retrieval)
    gains = 2**relevance - 1
    assert found["i2t/nDCG@25 graded"] == pytest.approx(oracle(retrieval.scores, gains), abs=1e-9)
    assert found["t2i/nDCG@25 graded"] == pytest.approx(oracle(retrieval.scores.T, gains.T), abs=1e-9)
    assert "i2t: 1 of 30 queries have no relevant item" in caplog.text
    assert found["i2t/nDCG@25 graded/low"] < found["i2t/nDCG@25 graded"] < found["i2t/nDCG@25 graded/high"]


def test_the_best_order_has_100_and_of_equal_scores_the_later_item_is_first(small):
    relevance = small.scores / 9
    assert Ndcg("", lambda _: relevance)(small)["i2t/nDCG@25 "] == pytest.approx(100)
    equal = Retrieval(np.zeros((3, 5), np.float32), small.collection)
    found = Ndcg("", lambda _: np.tile(np.float32([0, 0, 0, 0, 1]), (3, 1)))(equal)
    assert found["i2t/nDCG@25 "] == found["i2t/nDCG@25 /low"] == found["i2t/nDCG@25 /high"] == 100


FLICKR = make_collection([2, 2])._replace(
    image_ids=["10_ab", "20_cd"], caption_ids=["10_ab.jpg#0", "10_ab.jpg#1", "20_cd#0", "20_cd#1"]
)


@pytest.mark.parametrize(
    "lines",
    [
        ["10_ab.jpg\t20_cd.jpg#1\t1\t2\t3", "20_cd.jpg\t10_ab.jpg#0\t4\t4\t4"],  # as Flickr8k's ExpertAnnotations.txt
        ["10_ab,20_cd#1,1", "20_cd.jpg,10_ab.jpg#0,3"],
        ["query,item,grade", '"20_cd#1","10_ab",1', '"10_ab.jpg#0","20_cd","3"', ""],
    ],
)
def test_grades_are_taken_by_the_ids_of_images_and_captions(lines, tmp_path):
    path = tmp_path / "grades"
    path.write_text("\n".join(lines))
    found = relevance_of_grades(read_grades(path), path, FLICKR)
    np.testing.assert_allclose(found, [[0, 0, 0, 1], [3, 0, 0, 0]])


def test_numbers_that_are_an_image_s_and_a_caption_s_are_told_apart_by_their_column(tmp_path):
    collection = make_collection([1, 1])._replace(image_ids=["1", "2"], caption_ids=["2", "3"])
    path = tmp_path / "grades.csv"
    path.write_text("2,2,1\n3,1,2\n")  # captions first
    np.testing.assert_array_equal(relevance_of_grades(read_grades(path), path, collection), [[0, 2], [1, 0]])


def test_rows_of_other_images_are_counted_and_named(tmp_path, caplog):
    path = tmp_path / "grades.csv"
    path.write_text("10_ab,20_cd#1,1\n30_ef,20_cd#1,2\n10_ab,40#0,2\n")
    metric = make_metrics(["ndcg"], pmrp_dir="", relevance=str(path), cache=tmp_path)["ndcg"]
    with caplog.at_level(logging.WARNING):
        found = metric(Retrieval(np.eye(2, 4, 3, dtype=np.float32), FLICKR))
    assert "2 of 3 rows are of images or captions that are not evaluated, such as '30_ef', '40#0'" in caplog.text
    assert found["i2t/nDCG@25 graded"] == found["t2i/nDCG@25 graded"] == 100


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("10_ab,10_ab.jpg#0,1\n10_ab,20_cd#1", "row 1 (line 2): 2 fields ('10_ab,20_cd#1'), expected query id"),
        ("10_ab,10_ab.jpg#0,1\n10_ab,20_cd#1,good", "row 1 (line 2): grade 'good', expected a number from 0 to 10"),
        ("10_ab,10_ab.jpg#0,nan", "row 0 (line 1): grade 'nan', expected a number from 0 to 10"),
        ("10_ab\t10_ab.jpg#0\t0\t1\t2", "row 0 (line 1): grade '0', expected a number from 1 to 4"),
        ("10_ab,20_cd#1,1\n10_ab.jpg,20_cd.jpg#1,2", "row 1 (line 2): row 0 is of this pair too; keep one of them"),
        ("10_ab,20_cd#1,0", "no pair has a grade above 0"),
        ("", "no pair has a grade above 0"),
        ("30_ef,40#0,1", "1 of 1 rows are of images or captions that are not evaluated, such as '40#0'; give the ids"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_its_row(lines, problem, tmp_path):
    path = tmp_path / "grades"
    path.write_text(lines)
    with pytest.raises(DataError) as caught:
        relevance_of_grades(read_grades(path), path, FLICKR)
    assert problem in str(caught.value)
