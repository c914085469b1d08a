import json

import numpy as np
import pytest

from aladin_jax.data.box_encoding import HEIGHT_WIDTH, WIDTH_HEIGHT, WIDTH_HEIGHT_AREA
from aladin_jax.errors import DataError
from convert.boxes import LayoutTally, encode_boxes
from convert.raw.vinvl_files import VinvlFiles
from tests.convert.raw.raw_vinvl import GOLDEN_FEATURES, read_rows

BOXES = np.array([[10.0, 20.0, 60.0, 40.0], [0.0, 0.0, 200.0, 100.0]])


def golden_regions():
    with VinvlFiles(GOLDEN_FEATURES) as files:
        return {image: files.detections(image).regions for image in files.names()}


def verdict_of(regions_by_image):
    tally = LayoutTally()
    for row, (image, regions) in enumerate(regions_by_image.items()):
        tally.add(regions, row, image)
    return tally


def test_a_box_becomes_corners_height_and_width_as_shares_of_the_picture():
    encoded = encode_boxes(BOXES, width=200, height=100)
    assert encoded.dtype == np.float32
    np.testing.assert_allclose(encoded, [[0.05, 0.2, 0.3, 0.4, 0.2, 0.25], [0, 0, 1, 1, 1, 1]], atol=1e-7)


def test_encodings_of_the_predicted_boxes_are_those_of_the_golden_features():
    regions = golden_regions()
    compared = 0
    for image, text in read_rows(GOLDEN_FEATURES.with_name("predictions.tsv"), 70):
        found = json.loads(text)
        if isinstance(found, list):  # does not say how large the picture is
            continue
        boxes = np.array([item["rect"] for item in found["objects"]])
        encoded = encode_boxes(boxes, found["image_w"], found["image_h"])
        # The rectangles are rounded to hundredths of a pixel.
        np.testing.assert_allclose(encoded, regions[image.decode()][:, -6:], atol=0.01 / 480 * 1.01)
        compared += len(boxes)
    assert compared > 200


def test_a_box_up_to_a_pixel_beyond_the_picture_is_clipped():
    encoded = encode_boxes(np.array([[-1.0, 0.0, 201.0, 100.5]]), 200, 100)
    np.testing.assert_array_equal(encoded, [[0, 0, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("box", "found"),
    [
        ([10, 20, 5, 40], r"x2 < x1 or y2 < y1; boxes are x1, y1, x2, y2, not x, y, width, height"),
        ([10, 20, 60, 19], r"x2 < x1 or y2 < y1"),
        (
            [10, 20, 201.5, 40],
            r"outside the picture of 200 x 100 pixels; boxes and size have to be of the same picture",
        ),
        ([-1.5, 20, 60, 40], r"outside the picture"),
        ([10, 20, np.nan, 40], r"not finite"),
        ([10, 20, np.inf, 40], r"not finite"),
    ],
)
def test_an_impossible_box_is_refused_naming_it(box, found):
    with pytest.raises(DataError, match=rf"image 7: box 1 is \(.*\): {found}"):
        encode_boxes(np.array([BOXES[0], box]), 200, 100, image="7")


def test_boxes_that_are_scaled_already_are_refused():
    with pytest.raises(DataError, match=r"scaled to \[0, 1\] already; give boxes in pixels"):
        encode_boxes(BOXES / 200, 200, 100)


@pytest.mark.parametrize("size", [(0, 100), (200, 0), (-5, 100), (200, 1 << 21)])
def test_an_impossible_picture_is_refused(size):
    with pytest.raises(DataError, match=rf"a picture of {size[0]} x {size[1]} pixels"):
        encode_boxes(BOXES, *size)


def test_vinvls_layout_is_found_in_the_golden_features_with_reasons():
    layout, scaled, reason = verdict_of(golden_regions()).verdict()
    assert layout == HEIGHT_WIDTH
    assert scaled is True
    assert "x1,y1,x2,y2,h,w fits 599 of 599" in reason
    assert "no corner is above 1" in reason


def test_oscars_layout_is_told_from_vinvls():
    swapped = {image: regions[:, [*range(2052), 2053, 2052]] for image, regions in golden_regions().items()}
    assert verdict_of(swapped).verdict().layout == WIDTH_HEIGHT


def test_a_layout_with_the_area_is_found():
    regions = {}
    for image, r in golden_regions().items():
        h, w = r[:, -2:-1], r[:, -1:]
        regions[image] = np.concatenate([r[:, :-2], w, h, w * h], 1)
    assert verdict_of(regions).verdict().layout == WIDTH_HEIGHT_AREA


def test_boxes_in_pixels_are_told_from_scaled_ones():
    pixels = {image: np.concatenate([r[:, :-6], r[:, -6:] * 480], 1) for image, r in golden_regions().items()}
    layout, scaled, reason = verdict_of(pixels).verdict()
    assert layout == HEIGHT_WIDTH
    assert scaled is False
    assert "corners are above 1" in reason


def test_features_alone_have_no_layout():
    rng = np.random.default_rng(0)
    features = {str(n): np.maximum(rng.normal(size=(9, 50)), 0).astype(np.float32) for n in range(40)}
    assert verdict_of(features).verdict().layout is None
    # Zeros would fit every layout: they say nothing.
    assert "no region with a box that could tell" in verdict_of({"1": np.zeros((5, 50), np.float32)}).verdict().reason


def test_square_boxes_leave_open_which_is_the_height():
    encoded = {str(n): encode_boxes(np.array([[n, n, 2 * n + 9, 2 * n + 9]]), 100, 100) for n in range(1, 20)}
    layout, _, reason = verdict_of(encoded).verdict()
    assert layout is None
    assert "boxes are square" in reason


def test_images_whose_regions_do_not_fit_are_listed():
    regions = golden_regions()
    regions["437534"][1, -2] += 0.1
    tally = verdict_of(regions)
    assert tally.verdict().layout == HEIGHT_WIDTH
    assert tally.exceptions(HEIGHT_WIDTH) == (1, [(3, "437534")])
