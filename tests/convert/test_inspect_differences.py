import numpy as np
import pytest

from convert.dataset.coco_ir import prepare
from convert.inspection.differences import compare_features, match_boxes
from convert.inspection.kinds import DATA_SET, FEATURES, Thing
from tests.convert import own_features as own

GOLDEN = own.all_golden(limit=12)


def golden(change=lambda regions: regions):
    return [(image, change(d.regions.copy()), list(d.tags)) for image, d in GOLDEN.items()]


def compare(folder, images):
    first, second = (own.write_vinvl(folder / name, some) for name, some in (("1", golden()), ("2", images)))
    return compare_features(Thing(FEATURES, first, "vinvl"), Thing(FEATURES, second, "vinvl"))


def total():
    return sum(len(d.regions) for d in GOLDEN.values())


def test_a_copy_does_not_differ(tmp_path):
    found = compare(tmp_path, golden())
    assert found["images"] == {"of the first": 12, "of the second": 12, "in both": 12}
    assert found["images with as many regions"] == found["images with the same tags"] == 12
    assert found["matched regions"]["number"] == found["matched regions"]["at the same position"] == total()
    assert found["matched regions"]["mean overlap"] == pytest.approx(1)
    assert found["cosine of matched regions"]["equal in every number"] == total()
    assert found["cosine of matched regions"]["mean"] == pytest.approx(1)
    assert found["columns"]["largest difference of means, in deviations"] == 0
    assert found["problems"] == []


def test_a_data_set_does_not_differ_from_the_features_it_was_made_of(tmp_path):
    folder = prepare(own.E2E / "coco_ir", own.FEATURES, tmp_path).folder
    found = compare_features(Thing(FEATURES, own.FEATURES, "vinvl"), Thing(DATA_SET, folder))
    assert found["images"]["in both"] == 70
    assert found["cosine of matched regions"]["equal in every number"] == found["matched regions"]["number"] == 605


def test_regions_in_another_order_are_matched_by_their_boxes(tmp_path):
    found = compare(tmp_path, golden(lambda regions: regions[::-1]))
    assert found["matched regions"]["number"] == total()
    middle = sum(len(d.regions) % 2 for d in GOLDEN.values())
    assert found["matched regions"]["at the same position"] == middle
    assert found["cosine of matched regions"]["equal in every number"] == total()


def test_features_of_another_run_are_told_by_cosine_and_columns(tmp_path):
    rng = np.random.default_rng(0)

    def noisy(regions):
        regions[:, :2048] += rng.normal(0, 0.05, (len(regions), 2048)) + 0.2
        return regions

    found = compare(tmp_path, golden(noisy))
    assert 0.1 < found["cosine of matched regions"]["mean"] < 0.9
    assert found["cosine of matched regions"]["equal in every number"] == 0
    shift = found["columns"]["mean of the second"] - found["columns"]["mean of the first"]
    assert shift == pytest.approx(0.2, abs=0.01)


def test_the_cosine_is_that_of_the_features_alone(tmp_path):
    def mixed(regions):
        regions[:, :2048] += np.roll(regions[:, :2048], 1, axis=1)
        return regions

    found = compare(tmp_path, golden(mixed))
    a = np.concatenate([d.regions[:, :2048] for d in GOLDEN.values()]).astype(np.float64)
    b = np.concatenate([regions[:, :2048] for _, regions, _ in golden(mixed)]).astype(np.float64)
    expected = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert 0.1 < expected.mean() < 0.9
    assert found["cosine of matched regions"]["mean"] == pytest.approx(expected.mean())


def test_images_that_only_one_has_are_named(tmp_path):
    first = next(iter(GOLDEN))
    images = [*golden()[1:], ("999", GOLDEN[first].regions, GOLDEN[first].tags)]
    found = compare(tmp_path, images)
    assert found["images"]["in both"] == 11
    assert found["problems"] == [
        f"images that only {tmp_path / '1' / 'features.tsv'} has: 1 ({first})",
        f"images that only {tmp_path / '2' / 'features.tsv'} has: 1 (999)",
    ]


def test_features_of_another_width_are_compared_as_far_as_they_can_be(tmp_path):
    found = compare(tmp_path, golden(lambda regions: regions[:, 1000:]))
    assert found["matched regions"]["number"] == total()
    assert "cosine of matched regions" not in found
    assert found["problems"] == ["features of other widths cannot be compared: 1 (2048 and 1048)"]


def test_features_without_boxes_are_matched_by_position(tmp_path):
    found = compare(tmp_path, golden(lambda regions: regions[:, :2048]))
    assert found["matched regions"]["how"] == "by their position"
    assert found["matched regions"]["number"] == total()
    assert found["cosine of matched regions"]["equal in every number"] == total()


def test_an_image_that_cannot_be_read_is_counted_and_the_others_compared(tmp_path):
    images = golden()
    images[4][1][0, 0] = np.nan
    found = compare(tmp_path, images)
    assert found["matched regions"]["number"] == total() - len(images[4][1])
    assert found["problems"][0].startswith("images that cannot be compared: 1 (")


def test_an_image_without_regions_in_one_of_them_does_not_keep_the_others_from_being_compared(tmp_path):
    images = golden()
    images[4] = (images[4][0], images[4][1][:0], [])
    found = compare(tmp_path, images)
    assert found["problems"] == []
    left = total() - len(golden()[4][1])
    assert found["cosine of matched regions"]["equal in every number"] == found["matched regions"]["number"] == left


def test_boxes_match_if_each_is_the_others_best_and_they_overlap_by_half():
    one = np.array([[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 9, 10], [50, 50, 60, 60]], np.float32)
    two = np.array([[20, 20, 30, 28], [0, 0, 10, 10], [55, 50, 65, 60]], np.float32)
    first, second, overlap = match_boxes(one, two)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(0, 1), (1, 0)]
    np.testing.assert_allclose(overlap, [1, 0.8])
