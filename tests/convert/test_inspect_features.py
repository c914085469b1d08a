import json
from collections import Counter

import numpy as np
import pytest

from convert.inspection.features_folder import inspect_features
from convert.inspection.tallies import Columns
from convert.inspection.texts import TextTally, histogram, open_tokenizer
from tests.convert import own_features as own

GOLDEN = own.all_golden()
VOCAB = own.E2E / "vinvl"


def inspect(images, folder, tokens=None, max_regions=34, **options):
    return inspect_features(own.write_vinvl(folder, images, **options), tokens, max_regions)


def some(count=8):
    return [(image, d.regions.copy(), list(d.tags)) for image, d in list(GOLDEN.items())[:count]]


def test_the_golden_folder_is_described_without_a_problem():
    found = inspect_features(own.FEATURES, open_tokenizer(VOCAB, 50, 50), max_regions=10)
    counts = [len(d.regions) for d in GOLDEN.values()]
    values = np.concatenate([d.regions for d in GOLDEN.values()])
    assert found["problems"] == []
    assert (found["images"], found["regions"]) == (70, sum(counts))
    an_image = found["regions an image"]
    assert (an_image["least"], an_image["most"]) == (min(counts), max(counts))
    assert sum(an_image["histogram"].values()) == 70
    assert an_image["images with more than the 10 that training keeps"] == sum(count > 10 for count in counts)
    assert an_image["regions beyond"] == sum(max(0, count - 10) for count in counts)
    assert found["numbers a region"] == {"2054": 70}
    assert found["values"]["largest"] == values.max()
    assert found["values"]["mean"] == pytest.approx(values.mean(dtype=np.float64))
    assert found["values"]["standard deviation"] == pytest.approx(values.std(dtype=np.float64))
    assert found["values"]["share of zeros"] == pytest.approx((values == 0).mean())
    assert found["boxes"]["last columns"] == "x1,y1,x2,y2,h,w"
    assert found["boxes"]["scaled"] == "to [0, 1]"
    assert found["tags"]["distinct"] == len({tag for d in GOLDEN.values() for tag in d.tags})
    assert found["index"] == {
        "features.lineidx": "agrees with the 70 rows",
        "imageid2idx.json": "70 images, each in its row",
    }
    assert found["predictions.tsv"] == {"rows": 70, "predictions.lineidx": "agrees with the 70 rows"}


def test_rectangles_of_predictions_tell_the_order_of_x_and_y(tmp_path):
    found = inspect(some(), tmp_path / "right")["boxes"]["rectangles of predictions.tsv"]
    assert found["agree with corners as x1,y1,x2,y2"] == found["compared"] > 40
    assert found["agree with corners as y1,x1,y2,x2"] < 5
    swapped = [(image, r[:, [*range(2048), 2049, 2048, 2051, 2050, 2053, 2052]], tags) for image, r, tags in some()]
    predictions = []
    for image, r, _ in some():
        objects = [{"class": "cat", "rect": box} for box in own.pixel_boxes(r).tolist()]
        predictions.append((image, json.dumps({"objects": objects, "image_w": 640, "image_h": 480})))
    found = inspect(swapped, tmp_path / "swapped", predictions=predictions)["boxes"]["rectangles of predictions.tsv"]
    assert found["agree with corners as y1,x1,y2,x2"] == found["compared"]
    unsized = inspect(some(), tmp_path / "unsized", sized=False)["boxes"]["rectangles of predictions.tsv"]
    assert unsized["rows that do not say how large the picture is"] == 8


def test_oscars_order_of_width_and_height_is_a_problem(tmp_path):
    found = inspect([(image, own.oscar_order(r), tags) for image, r, tags in some()], tmp_path)
    assert found["boxes"]["last columns"] == "x1,y1,x2,y2,w,h"
    assert any("boxes are not encoded as VinVL's: 1 (x1,y1,x2,y2,w,h, scaled" in line for line in found["problems"])


def test_boxes_in_pixels_are_a_problem(tmp_path):
    scale = np.where(np.arange(2054) < 2048, 1, 480)
    found = inspect([(image, r * scale, tags) for image, r, tags in some()], tmp_path)
    assert found["boxes"]["scaled"] == "no: pixels"
    assert any("boxes are not encoded as VinVL's: 1" in line for line in found["problems"])


def test_images_whose_boxes_are_otherwise_are_listed(tmp_path):
    images = [(image, d.regions.copy(), list(d.tags)) for image, d in GOLDEN.items()]
    images[5][1][0, -1] += 0.2
    found = inspect(images, tmp_path)
    assert found["boxes"]["images with other boxes"] == 1
    assert f"boxes that are not x1,y1,x2,y2,h,w: 1 (row 5, image {images[5][0]})" in found["problems"]


def test_features_without_boxes_are_said_to_have_none(tmp_path):
    images = [(image, r[:, :2048], tags) for image, r, tags in some()]
    predictions = [(image, json.dumps([{"class": tag} for tag in tags])) for image, _, tags in images]
    found = inspect(images, tmp_path, predictions=predictions)
    assert found["numbers a region"] == {"2048": 8}
    assert found["boxes"]["last columns"] == "no box encoding"


def test_numbers_that_are_not_finite_are_counted_and_kept_out_of_the_sums(tmp_path):
    images = some()
    images[2][1][0, :3] = np.nan
    images[2][1][1, 4] = -np.inf
    images[6][1][0, 0] = np.inf
    found = inspect(images, tmp_path)
    assert (found["values"]["NaN"], found["values"]["infinite"]) == (3, 2)
    assert found["values"]["largest"] < 100
    [line] = [line for line in found["problems"] if line.startswith("NaN or infinite numbers: 2 (")]
    assert f"row 2, image {images[2][0]}: 3 NaN, 1 infinite" in line


def test_ids_that_are_double_or_unmatched_are_counted(tmp_path):
    images = some()
    index = {image: row for row, (image, _, _) in enumerate(images)}
    del index[images[3][0]]
    index |= {"999": 7, images[4][0]: 5}
    predictions = [(image, json.dumps([{"class": tag} for tag in tags])) for image, _, tags in images[1:]]
    predictions += [("777", "[]"), predictions[0], (images[0][0], "[]")]
    found = inspect([*images, images[2]], tmp_path, index=index, predictions=predictions)
    name = "predictions.tsv"
    assert {
        f"images in several rows: 1 ({images[2][0]} in rows 2 and 8)",
        "images of imageid2idx.json that are in no row: 1 (999)",
        f"images that imageid2idx.json lacks: 1 ({images[3][0]})",
        f"images that imageid2idx.json has in another row: 1 ({images[4][0]})",
        f"images of {name} without features: 1 (777)",
        f"images in several rows of {name}: 1 ({images[1][0]})",
        f"images with another number of detections than of regions: 1 ({images[0][0]} has 0 and {len(images[0][1])})",
    } <= set(found["problems"])


def test_an_image_that_predictions_lack_is_named(tmp_path):
    images = some()
    predictions = [(image, json.dumps([{"class": tag} for tag in tags])) for image, _, tags in images[1:]]
    found = inspect(images, tmp_path, predictions=predictions)
    assert f"images that predictions.tsv lacks: 1 ({images[0][0]})" in found["problems"]


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda lines: lines[:-1], "differs from row 7 on; features.tsv has 8 rows"),
        (lambda lines: [*lines[:3], "17", *lines[4:]], "differs from row 3 on; features.tsv has 8 rows"),
        (lambda lines: [*lines, "9999999999"], "differs from row 8 on; features.tsv has 8 rows"),
        (lambda lines: [*lines[:1], "x", *lines[2:]], "differs from row 1 on; features.tsv has 8 rows"),
    ],
)
def test_an_index_that_does_not_fit_is_said_to(tmp_path, spoil, found):
    path = own.write_vinvl(tmp_path, some())
    index = path.with_suffix(".lineidx")
    index.write_text("".join(f"{line}\n" for line in spoil(index.read_text().split())))
    report = inspect_features(path, None, 34)
    assert report["index"]["features.lineidx"] == found
    assert f"indices that do not fit: 1 (features.lineidx {found})" in report["problems"]


def test_files_that_are_not_there_are_said_to_be_and_are_no_problem(tmp_path):
    path = own.write_vinvl(tmp_path, some())
    for name in ("features.lineidx", "imageid2idx.json", "predictions.tsv"):
        (tmp_path / name).unlink()
    found = inspect_features(path, None, 34)
    assert found["index"] == {
        "features.lineidx": "none: rows are found by reading once",
        "imageid2idx.json": "none: images are found by reading once",
    }
    assert found["predictions.tsv"] == {"rows": "none: images have no tags"}
    assert found["problems"] == []


def test_rows_that_cannot_be_read_are_counted_and_the_others_described(tmp_path):
    path = own.write_vinvl(tmp_path, some())
    rows = path.read_text().splitlines(keepends=True)
    image, count, content = rows[1].split("\t")
    rows[1] = f"{image}\t{int(count) + 1}\t{content}"
    rows[2] = "\x01\t1\tAAAA\n"
    rows[3] = "\n"
    path.write_text("".join(rows))
    found = inspect_features(path, None, 34)
    assert found["images"] == 5
    [line] = [line for line in found["problems"] if line.startswith("rows that cannot be read: 3 (")]
    assert f"row 1 (line 2), image {image}: box count {int(count) + 1} with " in line
    assert "the image's id is '\\x01'" in line


def test_a_row_of_another_width_is_a_problem(tmp_path):
    images = some()
    images[4] = (images[4][0], images[4][1][:, 2:], images[4][2])
    found = inspect(images, tmp_path)
    assert found["numbers a region"] == {"2052": 1, "2054": 7}
    assert f"other width than the first image's: 1 (image {images[4][0]} has 2052)" in found["problems"]


def test_tokens_that_are_cut_off_are_counted(tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "dog"]))
    tally = TextTally(open_tokenizer(tmp_path, 5, 7))
    for text in ("dog", "red dog red", "red dog red dog", "dog " * 9, "red cat"):
        tally.add(text)
    found = tally.described()["tokens"]
    assert found["texts"] == 5
    assert found["tokens"] == 1 + 3 + 4 + 9 + 2
    assert found["most tokens"] == 9
    assert found["texts cut at 5 (3 and two special tokens)"] == 2
    assert found["tokens lost"] == 1 + 6
    assert found["unknown to the vocabulary"] == 1
    tags = TextTally(open_tokenizer(vocab, 5, 7), tags=True)
    tags.add("red dog " * 4)
    assert tags.described()["tokens"]["tokens lost"] == 8 - 5


def test_columns_tell_mean_and_deviation():
    values = np.random.default_rng(0).normal(3, 2, (50, 7)).astype(np.float32)
    columns = Columns()
    columns.add(values[:20])
    columns.add(values[20:])
    np.testing.assert_allclose(columns.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(columns.deviation, values.std(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, {}),
        ({0: 3, 2: 1}, {"0": 3, "1": 0, "2": 1}),
        ({5: 1, 99: 2}, {"0-9": 1, **{f"{k}0-{k}9": 0 for k in range(1, 9)}, "90-99": 2}),
    ],
)
def test_a_histogram_has_about_ten_ranges_without_gaps(counts, expected):
    assert histogram(Counter(counts)) == expected
