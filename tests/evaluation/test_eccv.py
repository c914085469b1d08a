"""ECCV Caption and CxC, with the package's ground truth on COCO's ids, and with one to be worked out by hand."""

import json
import logging
import warnings

import numpy as np
import pytest

from aladin_jax.errors import DataError
from aladin_jax.evaluation.eccv import EccvCaption
from aladin_jax.evaluation.recall import report_of_ranks
from aladin_jax.evaluation.retrieval import Collection, Retrieval

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "failed to import `ujson`")
    pytest.importorskip("eccv_caption")


def test_with_each_image_s_own_captions_first_recalls_are_perfect_and_the_others_nearly():
    metric = EccvCaption()
    truth = metric._metrics.coco_gts["i2t"]
    image_of_caption = np.repeat(np.arange(len(truth)), [len(own) for own in truth.values()])
    captions = [str(caption) for own in truth.values() for caption in own]
    scores = np.random.default_rng(0).random((len(truth), len(captions)), np.float32)
    scores[image_of_caption, np.arange(len(captions))] = np.linspace(3, 2, len(captions))  # in their order
    retrieval = Retrieval(scores, Collection([str(i) for i in truth], image_of_caption, captions, [""] * len(captions)))
    assert report_of_ranks(retrieval.ranks["i2t"], retrieval.ranks["t2i"])["rsum"] == 600
    found = metric(retrieval)
    assert found["i2t/CxC R@1"] == pytest.approx(99.92, abs=1e-9)
    assert found["t2i/CxC R@1"] == pytest.approx(99.996, abs=1e-3)
    assert found["i2t/ECCV R@1"] == pytest.approx(99.841, abs=1e-3)
    assert found["t2i/ECCV R@1"] == 100
    assert not any("PMRP" in name for name in found)


COLLECTION = Collection(["1", "2", "3"], np.array([0, 0, 1, 1, 2, 2]), ["10", "11", "20", "21", "30", "31"], [""] * 6)
# Best first: image 1 finds 20, 10, 11, 30; image 2 finds 20, 21, 31, 30; image 3 finds 10, 20, 11, 21.
# Caption 10 finds 3, 1, 2; 11: 3, 1, 2; 20: 2, 3, 1; 21: 2, 3, 1; 30: 2, 1, 3; 31: 2, 3, 1.
SCORES = np.array([[5, 4, 6, 1, 3, 0], [1, 0, 9, 8, 6, 7], [9, 7, 8, 6, 1, 5]], np.float32)


@pytest.fixture
def metric():
    """The package with a ground truth of three images, two captions each."""
    metric = EccvCaption()
    metric._metrics.coco_gts = {
        "i2t": {1: [10, 11], 2: [20, 21], 3: [30, 31]},
        "t2i": {10: [1], 11: [1], 20: [2], 21: [2], 30: [3], 31: [3]},
    }
    metric._metrics.cxc_gts = {"i2t": {1: [10, 11, 20], 3: [30]}, "t2i": {10: [1], 20: [2], 30: [3, 1], 31: [3]}}
    metric._metrics.eccv_gts = {"i2t": {1: [10, 11, 30], 2: [20, 21]}, "t2i": {10: [1, 3], 31: [3]}}
    return metric


def test_values_are_those_worked_out_by_hand(metric):
    found = metric(Retrieval(SCORES, COLLECTION))
    expected = {
        # Image 1 has 3 positives: of 20, 10, 11 the second and third, at precisions 1/2 and 2/3. Image 2 has all.
        "i2t/ECCV mAP@R": ((1 / 2 + 2 / 3) / 3 + 1) / 2,
        "i2t/ECCV R-Precision": (2 / 3 + 1) / 2,
        "i2t/ECCV R@1": 1 / 2,
        # Caption 10 finds 3 and 1, both right. Caption 31 has one positive and finds 2 first.
        "t2i/ECCV mAP@R": 1 / 2,
        "t2i/ECCV R-Precision": 1 / 2,
        "t2i/ECCV R@1": 1 / 2,
        # Image 1's first, 20, is right by CxC; image 3 has 30 last, of six.
        "i2t/CxC R@1": 1 / 2,
        "i2t/CxC R@5": 1 / 2,
        "i2t/CxC R@10": 1,
        "t2i/CxC R@1": 1 / 4,
        "t2i/CxC R@5": 1,
        "t2i/CxC R@10": 1,
    }
    assert found == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_captions_beyond_the_ground_truth_are_left_out_and_counted(metric, caplog):
    more = COLLECTION._replace(
        image_of_caption=np.append(COLLECTION.image_of_caption, [0, 2]),
        caption_ids=[*COLLECTION.caption_ids, "5", "6"],
        captions=[""] * 8,
    )
    scores = np.concatenate([SCORES, np.full((3, 2), 50, np.float32)], axis=1)
    with caplog.at_level(logging.WARNING):
        found = metric(Retrieval(scores, more))
    assert "left out 2 captions that ECCV Caption does not know" in caplog.text
    assert found == metric(Retrieval(SCORES, COLLECTION))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_ids": ["1", "2", "4"]}, "COCO's 3 test images: 1 of them are not among the 3 images here"),
        ({"caption_ids": [f"1#{k}" for k in range(6)]}, "6 of COCO's 6 test captions are not among the ids here"),
        (
            {"caption_ids": ["20", "21", "10", "11", "30", "31"]},
            "is of image 1 here, of 2 in COCO; give COCO's caption ids",
        ),
    ],
)
def test_ids_that_are_not_coco_s_are_refused(metric, change, problem):
    with pytest.raises(DataError) as caught:
        metric(Retrieval(SCORES, COLLECTION._replace(**change)))
    assert problem in str(caught.value)


def test_pmrp_is_the_precision_at_r_of_its_own_files(metric, tmp_path):
    truth = {"pm_image_to_caption": {1: [20, 11], 3: [10, 20]}, "pm_caption_to_image": {10: [1], 20: [2, 3]}}
    for name, items in truth.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(items))
    with_pmrp = EccvCaption(str(tmp_path))
    for name in ("coco_gts", "cxc_gts", "eccv_gts"):
        setattr(with_pmrp._metrics, name, getattr(metric._metrics, name))
    found = with_pmrp(Retrieval(SCORES, COLLECTION))
    assert found["i2t/PMRP"] == pytest.approx(100 * (1 / 2 + 1) / 2)
    assert found["t2i/PMRP"] == pytest.approx(100 * (0 + 1) / 2)


def test_pmrp_without_its_files_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no pm_image_to_caption\.json"):
        EccvCaption(str(tmp_path))
