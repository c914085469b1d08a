"""The drawn pictures: captions are true, features see pixels only, the data set is whole or not there."""

import dataclasses
import hashlib
import io
import re

import numpy as np
import pytest
from PIL import Image

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from demo import builder, quality
from demo.__main__ import main
from demo.captions import CAPTIONS, describe
from demo.claims import Related
from demo.detections import detect
from demo.drawing import draw
from demo.region_features import FEATURE_DIM, REGION_DIM, region_features
from demo.scene import COLOURS, RADII, SIDE, sample_scene
from demo.silhouettes import KINDS
from demo.wording import SYNONYMS, vocabulary
from tests.processes import stop_at

SCENES = [sample_scene("test", index) for index in range(200)]
SIZES = {"train": 6, "minival": 2, "test": 3}
MEANING = {phrase: value for value, phrases in SYNONYMS.items() for phrase in phrases}


def test_records_are_the_same_to_the_bit_on_every_machine():
    digest = hashlib.sha256()
    for split in ("train", "minival", "test"):
        record = builder.scene_record(split, 7)
        # The PNG's bytes are zlib's choice; its pixels are not.
        digest.update(np.asarray(Image.open(io.BytesIO(record["image"]))).tobytes())
        digest.update(record["regions"].tobytes() + record["boxes"].tobytes())
        digest.update(repr((record["id"], record["tags"], record["captions"])).encode())
    assert digest.hexdigest() == "cbb60b5cedf2d93e98184e2b389c77e18146c7f0a582e727230c922dbb314e54"


def test_no_two_pictures_are_alike_within_or_between_splits_or_seeds():
    scenes = [
        sample_scene(split, i, seed) for split in ("train", "minival", "test") for i in range(40) for seed in (1, 2)
    ]
    assert len({draw(scene).tobytes() for scene in scenes}) == len(scenes)


def test_features_do_not_change_when_the_labels_of_the_same_pixels_do():
    scene = SCENES[0]
    shapes = tuple(dataclasses.replace(shape, colour="pink", size="medium") for shape in scene.shapes)
    relabelled = dataclasses.replace(scene, shapes=shapes)
    boxes = detect(scene).boxes
    assert describe(relabelled) != describe(scene)
    np.testing.assert_array_equal(region_features(draw(relabelled), boxes), region_features(draw(scene), boxes))


def test_a_change_of_colour_changes_the_features_of_the_boxes_that_hold_it_alone():
    scene = next(scene for scene in SCENES if detect(scene).boxes.shape[0] == 4)
    boxes = np.array([shape.box for shape in scene.shapes])
    red = dataclasses.replace(scene.shapes[0], rgb=COLOURS["red"])
    blue = dataclasses.replace(scene.shapes[0], rgb=COLOURS["blue"])
    before, after = (
        region_features(draw(dataclasses.replace(scene, shapes=(shape, *scene.shapes[1:]))), boxes)
        for shape in (red, blue)
    )
    assert np.abs(before[0] - after[0]).mean() > 0.05
    np.testing.assert_array_equal(before[1:], after[1:])


def test_a_boxs_features_do_not_depend_on_the_boxes_beside_it():
    image, boxes = draw(SCENES[0]), detect(SCENES[0]).boxes
    alone = np.concatenate([region_features(image, box[None]) for box in boxes])
    np.testing.assert_array_equal(region_features(image, boxes), alone)


def test_features_have_the_scale_of_a_detectors_and_end_with_the_boxs_place():
    scene = SCENES[1]
    boxes = detect(scene).boxes
    regions = np.concatenate([region_features(draw(scene), detect(scene).boxes) for scene in SCENES[:30]])
    assert regions.shape[1] == REGION_DIM
    assert regions.dtype == np.float32
    assert regions.min() == 0
    assert regions[:, :FEATURE_DIM].mean() == pytest.approx(0.4, abs=0.03)
    x1, y1, x2, y2 = (boxes / SIDE).T
    place = region_features(draw(scene), boxes)[:, FEATURE_DIM:]
    np.testing.assert_allclose(place, np.stack([x1, y1, x2, y2, y2 - y1, x2 - x1], 1), atol=1e-6)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-1, 0, 9, 9), (0, 0, 9, SIDE + 1), (0, 0, np.nan, 9)])
def test_a_box_that_is_empty_or_outside_the_picture_is_refused(box):
    with pytest.raises(ValueError, match="outside the 144 x 144 picture"):
        region_features(draw(SCENES[0]), np.array([box]))


def test_a_linear_probe_reads_colour_and_kind_from_features_of_unseen_boxes():
    accuracy = quality.probe([sample_scene("train", index) for index in range(300)], SCENES[:100])
    assert accuracy["colour"] >= 0.95
    assert accuracy["kind"] >= 0.9


@pytest.mark.usefixtures("unchecked")  # millions of calls, each of which others check
def test_a_perfect_model_would_rank_nearly_all_test_pictures_and_captions_first():
    best = quality.ceiling(SCENES)
    assert best.image_to_text >= 0.95
    assert best.text_to_image >= 0.95


def test_a_scene_has_five_different_captions_of_moderate_length():
    for scene in SCENES:
        captions = [caption.text for caption in describe(scene)]
        assert len(set(captions)) == len(captions) == CAPTIONS
        assert all(6 <= len(caption.split()) <= 20 for caption in captions)


def shapes_named(text, scene):
    """The shapes that a sentence's noun phrases mean, in order, found from its words alone."""
    sizes, colours, kinds = (
        "|".join(word for name in names for word in SYNONYMS.get(name, (name,))) for names in (RADII, COLOURS, KINDS)
    )
    for size, colour, kind in re.findall(rf"\ban? (?:({sizes}) )?({colours}) ({kinds})\b", text):
        size, colour, kind = (MEANING.get(word, word) for word in (size, colour, kind))
        found = [s for s in scene.shapes if (s.colour, s.kind) == (colour, kind) and size in ("", s.size)]
        assert len(found) == 1, f"{text!r} names a {size} {colour} {kind} that is not there"
        yield found[0]


def test_every_shape_that_a_caption_names_is_in_the_picture():
    for scene in SCENES:
        for caption in describe(scene):
            named = list(shapes_named(caption.text, scene))
            assert 2 <= len(named) == len(set(named))


def test_words_for_sides_and_places_agree_with_where_the_shapes_lie():
    sides = {
        "left of": (-1, 0),
        "right of": (1, 0),
        "above": (0, -1),
        "over": (0, -1),
        "below": (0, 1),
        "under": (0, 1),
    }
    ways = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "upper": (0, -1), "bottom": (0, 1), "lower": (0, 1)}
    seen = set()
    for scene in SCENES:
        for caption in describe(scene):
            named = list(shapes_named(caption.text, scene))
            for word, (dx, dy) in sides.items():
                if re.search(rf"\b{word}\b", caption.text):
                    a, b = named[:2]
                    assert dx * (a.x - b.x) + dy * (a.y - b.y) >= 18, caption.text
                    seen.add(word)
            places = re.findall(r"(?:in|at) the (?:(top|upper|bottom|lower) (left|right)|middle|centre)", caption.text)
            for shape, words in zip(named, places, strict=False):
                for word in filter(None, words):
                    dx, dy = ways[word]
                    assert dx * (shape.x - SIDE / 2) + dy * (shape.y - SIDE / 2) > 15, caption.text
                    seen.add(word)
                if not any(words):
                    assert max(abs(shape.x - SIDE / 2), abs(shape.y - SIDE / 2)) < 20, caption.text
    assert seen == set(sides) | set(ways)


def test_words_for_number_size_background_and_hiding_agree_with_the_scene():
    numbers = {"three": 3, "four": 4, "five": 5}
    for scene in SCENES:
        for caption in describe(scene):
            named = list(shapes_named(caption.text, scene))
            words = re.findall(r"\w+", caption.text)
            radii = sorted(shape.radius for shape in scene.shapes)
            for word in numbers.keys() & set(words):
                assert len(scene.shapes) == numbers[word]
            if {"largest", "biggest", "bigger"} & set(words):
                assert named[0].radius == radii[-1] > radii[-2]
            if "smallest" in words:
                assert named[1].radius == radii[0] < radii[1]
            if "background" in words or "wall" in words:
                assert scene.background.tone in words
                assert scene.background.pattern in {MEANING.get(word, word) for word in words}
            if re.search("hides|in front of|hidden behind", caption.text):
                front, back = named if "behind" not in words else named[::-1]
                without = dataclasses.replace(scene, shapes=tuple(s for s in scene.shapes if s != front))
                assert scene.shapes.index(front) > scene.shapes.index(back)
                x1, y1, x2, y2 = back.box
                assert (draw(scene) != draw(without))[y1:y2, x1:x2].any()


def test_a_caption_that_says_the_opposite_is_not_true():
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    said = [(scene, claim) for scene in SCENES for caption in describe(scene) for claim in caption.claims]
    related = [(scene, claim) for scene, claim in said if isinstance(claim, Related)]
    assert len(related) > 100
    for scene, claim in related:
        assert claim.holds(scene)
        assert not claim._replace(relation=opposite[claim.relation]).holds(scene)
        assert not Related(claim.second, claim.relation, claim.first).holds(scene)


def test_detections_are_mostly_right_at_times_wrong_and_never_name_a_colour():
    right = wrong = missed = 0
    for scene in SCENES:
        boxes, tags = detect(scene)
        assert boxes[0].tolist() == [0, 0, SIDE, SIDE]
        assert len(boxes) == len(tags)
        assert set(tags[1:]) <= set(KINDS)
        for shape in scene.shapes:
            near = np.abs(boxes[1:] - np.array(shape.box)).max(1) <= 0.08 * 2.5 * shape.radius + 0.1
            missed += not near.any()
            right += sum(tag == shape.kind for tag, close in zip(tags[1:], near, strict=True) if close)
            wrong += sum(tag != shape.kind for tag, close in zip(tags[1:], near, strict=True) if close)
    assert 0.02 < missed / (missed + right) < 0.08
    assert 0.04 < wrong / (wrong + right) < 0.16


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    output = tmp_path_factory.mktemp("scenes")
    assert builder.prepare(output, SIZES)
    return output


def test_the_vocabulary_has_every_word_whole_and_spells_the_others(prepared):
    tokenizer = CaptionTokenizer(prepared / builder.VOCABULARY, max_caption_len=40, max_labels_len=40)
    tokens = vocabulary()
    unknown = tokens.index("[UNK]")
    for scene in SCENES:
        for text in [*(caption.text for caption in describe(scene)), " ".join(detect(scene).tags)]:
            ids, lengths = tokenizer.tokenize_captions([text])
            assert [tokens[i] for i in ids[0, 1 : lengths[0] - 1]] == re.findall(r"\w+|[,.]", text)
    ids, _ = tokenizer.tokenize_captions(["Zebras & 7 quickly-jumping Élans?"])
    assert unknown not in ids
    assert len(set(tokens)) == len(tokens) < 250


def test_prepared_records_hold_what_was_drawn_in_the_order_of_the_metadata(prepared):
    dataset = open_dataset(prepared)
    assert dataset.metadata["feature_dim"] == REGION_DIM
    for name, size in SIZES.items():
        split = Split(dataset, name, feature_dim=REGION_DIM)
        assert split.caption_counts.tolist() == [CAPTIONS] * size
        assert dataset.metadata["splits"][name]["skipped"] == 0
        for index in range(size):
            expected = builder.scene_record(name, index)
            assert split.read(index)[0] == split.ids[index] == expected["id"]
            assert split.read(index).tags == expected["tags"]
            assert split.read(index).captions == expected["captions"]
            np.testing.assert_array_equal(split.read(index).regions, expected["regions"])
            picture, boxes = split.picture(index)
            np.testing.assert_array_equal(boxes, expected["boxes"])
            np.testing.assert_array_equal(Image.open(io.BytesIO(picture)), draw(sample_scene(name, index)))


def test_preparing_again_draws_nothing_and_another_size_is_refused(prepared, capsys):
    arguments = ["--output", str(prepared), "--train", "6", "--minival", "2", "--test"]
    files = {path: path.stat().st_mtime_ns for path in prepared.rglob("*record*")}
    assert main([*arguments, "3"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*arguments, "4"]) == 1
    assert re.search("error: .*holds .*'test': 3.*asked for .*'test': 4", capsys.readouterr().err)
    assert files == {path: path.stat().st_mtime_ns for path in prepared.rglob("*record*")}


def test_a_killed_run_leaves_no_data_set_and_the_same_command_then_finishes(tmp_path, capsys):
    command = ["--output", str(tmp_path / "out"), "--train", "6", "--minival", "2", "--test", "2"]
    stop_at("os.rename", r"/incomplete\.\w+_1\.0\.0$", "demo", *command, log=tmp_path / "log")
    assert list(tmp_path.rglob("incomplete.*"))
    with pytest.raises(ValueError, match="no prepared data set"):
        open_dataset(tmp_path / "out")
    assert main(command) == 0
    assert "10 pictures is ready" in capsys.readouterr().out
    assert Split(open_dataset(tmp_path / "out"), "train").num_images == 6
    assert not list(tmp_path.rglob("incomplete.*"))


def test_a_preview_shows_pictures_in_a_png(tmp_path, capsys):
    assert main(["--preview", str(tmp_path / "sheet.png")]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert len(set(sheet.convert("RGB").resize((64, 64)).get_flattened_data())) > 200
    assert main(["--preview", str(tmp_path / "sheet.jpg")]) == 1
    assert "error: " in capsys.readouterr().err


def test_sizes_that_leave_a_split_empty_are_refused(tmp_path, capsys):
    assert main(["--output", str(tmp_path), "--minival", "0"]) == 1
    assert "needs at least 1 picture" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
