"""Features and captions as people have them, each through the commands to a data set or to one line."""

import importlib
import json
import shlex

import numpy as np
import pytest

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.image_names import image_id
from convert import coco_ir, features, inspect
from tests.convert import own_features as own

CAPTIONS = own.captions()
GOLDEN = own.all_golden()
SOME = {image: GOLDEN[image] for image in list(CAPTIONS["test"])[:4]}
IMAGE = "473681"  # has 6 regions


@pytest.fixture
def prepare(tmp_path, capsys):
    """Runs convert.features; gives the splits as records by id, and what was said on stderr."""

    def prepare(*options, command=features, output=tmp_path / "out"):
        status = command.main([str(option) for option in [*options, "--output", output]])
        captured = capsys.readouterr()
        said = captured.err.replace("\r", "\n")
        assert status == 0, said
        dataset = open_dataset(output)
        splits = {name: Split(dataset, name) for name in dataset.splits}
        return {n: {s.ids[k]: s.read(k) for k in range(s.num_images)} for n, s in splits.items()}, captured.out + said

    return prepare


@pytest.fixture
def refuse(tmp_path, capsys):
    """Runs a command that ends in one line; gives the line."""

    def refuse(*options, command=features):
        assert command.main([str(option) for option in [*options, "--output", tmp_path / "out"]]) == 1
        error = capsys.readouterr().err.replace("\r", "\n").strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert not list((tmp_path / "out").rglob("*.json"))
        return error

    return refuse


def same_regions(found, images, atol=3e-7):
    for image, record in found.items():
        np.testing.assert_allclose(record.regions, images[image].regions, atol=atol)


# Features without index files, tags or captions


@pytest.mark.parametrize("command", [features, coco_ir])
def test_vinvls_features_without_index_files_and_predictions(tmp_path, prepare, command):
    path = own.write_vinvl(tmp_path / "in", [(image, d.regions, d.tags) for image, d in GOLDEN.items()])
    for file in path.parent.iterdir():
        if file != path:
            file.unlink()
    options = {
        features: ["--format", "vinvl", "--features", path, "--captions", own.E2E / "coco_ir"],
        coco_ir: ["--img_feat_file", path, "--data_dir", own.E2E / "coco_ir", "--num_workers", 2],
    }[command]
    splits, _ = prepare(*options, command=command)
    assert {name: list(images) for name, images in splits.items()} == {n: list(c) for n, c in CAPTIONS.items()}
    for records in splits.values():
        same_regions(records, GOLDEN, atol=0)
        assert all(record.tags == [] for record in records.values())


def test_features_alone_become_images_to_be_searched(tmp_path, prepare):
    path = own.write_vinvl(tmp_path / "in", [(image, d.regions, d.tags) for image, d in SOME.items()])
    for command, options in ((features, ["--features", path]), (coco_ir, ["--img_feat_file", path])):
        splits, said = prepare(*options, command=command, output=tmp_path / command.__name__)
        assert list(splits) == ["test"]
        assert list(splits["test"]) == list(SOME)
        assert all(record.captions == [] for record in splits["test"].values())
        assert "there are no captions: the images can be searched, not trained on" in said


def detector_row(image, regions, tags, *, scores=None, **changes):
    """A row of predictions.tsv as the detector writes it, features included."""
    scores = np.linspace(0.9, 0.3, len(tags)) if scores is None else scores
    objects = [
        {"rect": box, "class": tag, "conf": float(score), "feature": own.base64_of(feature)}
        for box, tag, score, feature in zip(
            own.pixel_boxes(regions).tolist(), tags, scores, regions[:, :-6], strict=True
        )
    ]
    return [image, json.dumps({"image_h": own.HEIGHT, "image_w": own.WIDTH, "objects": objects} | changes)]


@pytest.mark.parametrize("command", [features, coco_ir])
def test_the_detectors_predictions_alone(tmp_path, prepare, command):
    rows = [detector_row("0", SOME[IMAGE].regions[:0], [])]
    rows += [detector_row(image, d.regions, d.tags) for image, d in SOME.items()]
    path = own.write_tsv(tmp_path / "predictions.tsv", rows)
    splits, said = prepare("--features" if command is features else "--img_feat_file", path, command=command)
    assert list(splits) == ["test"]
    assert list(splits["test"]) == list(SOME)  # what nothing was detected in is left out
    same_regions(splits["test"], SOME)
    assert {image: record.tags for image, record in splits["test"].items()} == {i: d.tags for i, d in SOME.items()}
    assert "regions have 2054 numbers" in said


def test_the_detectors_predictions_with_captions(tmp_path, prepare):
    path = own.write_tsv(tmp_path / "predictions.tsv", [detector_row(i, d.regions, d.tags) for i, d in GOLDEN.items()])
    splits, _ = prepare("--img_feat_file", path, "--data_dir", own.E2E / "coco_ir", command=coco_ir)
    assert {n: {i: r.captions for i, r in s.items()} for n, s in splits.items()} == CAPTIONS


def test_the_detectors_boxes_are_clipped_to_the_picture(tmp_path, prepare):
    regions, tags = SOME[IMAGE]
    image, text = detector_row(IMAGE, regions, tags)
    row = json.loads(text)
    row["objects"][0]["rect"] = [-31.5, 100, 2000, 480.2]
    path = own.write_tsv(tmp_path / "predictions.tsv", [[image, json.dumps(row)]])
    splits, _ = prepare("--features", path)
    np.testing.assert_allclose(splits["test"][IMAGE].regions[0, -6:], [0, 100 / 480, 1, 1, 380 / 480, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda row: row.pop("image_w"), "image_w and image_h are not there; boxes are scaled by the picture's size"),
        (lambda row: row["objects"][1].pop("feature"), "object 1 has no feature; regions are then in features.tsv"),
        (lambda row: row["objects"][1].update(feature="AAAA"), "feature of object 1 takes 3 bytes, unlike the others"),
        (lambda row: row["objects"][1].update(feature="*"), "feature of object 1: not base64"),
        (lambda row: row["objects"][1].update(rect=[1, 2, 3]), "rect of object 1 is a value of type list, expected x1"),
        (lambda row: row["objects"][1].update(rect=[9, 9, 2, 12]), "box 1 is (9, 9, 2, 12): x2 < x1 or y2 < y1"),
        (lambda row: row["objects"][1].update(conf="x"), "conf of object 1 is 'x', expected a number"),
        (lambda row: row["objects"][1].update({"class": 3}), "class of object 1 is 3, expected a text"),
    ],
)
def test_a_bad_row_of_the_detectors_predictions_is_named(tmp_path, refuse, change, found):
    row = json.loads(detector_row(IMAGE, *SOME[IMAGE])[1])
    change(row)
    path = own.write_tsv(tmp_path / "predictions.tsv", [[IMAGE, json.dumps(row)]])
    error = refuse("--format", "predictions", "--features", path)
    assert error.startswith(f"error: {path}, row 0 (line 1), image {IMAGE}: ")
    assert found in error


# Names that are written otherwise


NAMES = {
    "without ending": lambda n: f"COCO_val2014_{n:012}",
    "with ending": lambda n: f"COCO_val2014_{n:012}.jpg",
    "in a folder": lambda n: f"val2014/COCO_val2014_{n:012}.jpg",
    "UNITER's": lambda n: f"coco_val2014_{n:012}",
    "a number": str,
    "a number with zeros": lambda n: f"{n:012}",
    "a number after words": lambda n: f"my_data_{n:012}",
    "in capitals": lambda n: f"COCO_VAL2014_{n:012}.JPG",
}


@pytest.mark.parametrize("captions_format", ["karpathy", "coco", "list", "flickr"])
@pytest.mark.parametrize("name", NAMES)
def test_features_are_found_whichever_way_their_names_are_written(tmp_path, prepare, name, captions_format):
    rows = [own.bottom_up_row(NAMES[name](int(image)), d.regions) for image, d in SOME.items()]
    path = own.write_tsv(tmp_path / "a.tsv", rows)
    content = {image: CAPTIONS["test"][image] for image in SOME}
    if captions_format == "karpathy":
        captions = own.write_karpathy(tmp_path / "dataset.json", {"test": content})
    elif captions_format == "coco":
        captions = f"test={own.write_coco(tmp_path / 'captions.json', content)}"
    elif captions_format == "list":
        entries = [{"image": f"val2014/{own.coco_name(i)}.jpg", "caption": texts} for i, texts in content.items()]
        (tmp_path / "test.json").write_text(json.dumps(entries))
        captions = f"test={tmp_path / 'test.json'}"
    else:
        content = {own.coco_name(image): texts for image, texts in content.items()}
        captions = f"test={own.write_flickr(tmp_path / 'results.token', content)}"
    splits, said = prepare("--features", path, "--captions", captions)
    assert list(splits["test"]) == list(SOME)
    same_regions(splits["test"], SOME)
    assert {image: r.captions for image, r in splits["test"].items()} == {i: CAPTIONS["test"][i] for i in SOME}
    assert "note: features of 4 images are found " in said


def test_flickrs_names_are_found_without_ending_and_with_a_prefix(tmp_path, prepare):
    regions, _ = SOME[IMAGE]
    rows = [own.bottom_up_row(name, regions[:k]) for k, name in enumerate(["1000092795", "flickr30k_000010002456"], 1)]
    path = own.write_tsv(tmp_path / "a.tsv", rows)
    captions = own.write_flickr(tmp_path / "results.token", {"1000092795": ["one"], "10002456": ["two"]})
    splits, _ = prepare("--features", path, "--captions", f"test={captions}")
    assert {i: (len(r.regions), r.captions) for i, r in splits["test"].items()} == {
        "1000092795": (1, ["one"]),
        "10002456": (2, ["two"]),
    }


@pytest.mark.parametrize(
    ("there", "captioned", "found"),
    [
        (["a/1", "b/1"], ["1.jpg"], "'1.jpg' may be 'a/1' or 'b/1'"),
        (["Cat", "CAT"], ["cat.jpg"], "'cat.jpg' may be 'Cat' or 'CAT'"),
        (["0017", "017"], ["17.jpg"], "'17.jpg' may be '0017' or '017'"),
        (["1"], ["a/1.jpg", "b/1.jpg"], "its features, '1', are found for image a~1 too"),
        (["b/1"], ["a/1.jpg"], "have no features"),
        (["cat_1"], ["dog_1.jpg"], "have no features"),
    ],
)
def test_names_that_could_be_several_images_are_refused(tmp_path, refuse, there, captioned, found):
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row(name, SOME[IMAGE].regions) for name in there])
    (tmp_path / "test.json").write_text(json.dumps([{"image": name, "caption": "a"} for name in captioned]))
    error = refuse("--features", path, "--captions", f"test={tmp_path / 'test.json'}")
    assert found in error


def test_a_picture_whose_number_and_name_are_of_two_features_is_refused(tmp_path, refuse):
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row(name, SOME[IMAGE].regions) for name in ("1", "2")])
    content = {
        "images": [{"id": 1, "file_name": "2.jpg"}, {"id": 2, "file_name": "1.jpg"}],
        "annotations": [{"image_id": k, "caption": "a"} for k in (1, 2)],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    error = refuse("--features", path, "--captions", f"test={tmp_path / 'captions.json'}")
    assert "'2.jpg' (number 1) may be '2' or '1'" in error


# Features in NumPy's files


def bottom_up_npz(folder, name, regions, numbers, scores, **changes):
    """As bottom-up-attention.pytorch saves it: `numbers` of classes count the background as 0."""
    info = {
        "image_id": name,
        "image_h": own.HEIGHT,
        "image_w": own.WIDTH,
        "num_boxes": len(regions),
        "objects_id": np.array(numbers),
        "objects_conf": np.array(scores, np.float32),
        "attrs_id": np.array(numbers),
        "attrs_conf": np.array(scores, np.float32),
    }
    arrays = {
        "x": regions[:, :-6],
        "bbox": own.pixel_boxes(regions).astype(np.float32),
        "num_bbox": len(regions),
        "image_h": own.HEIGHT,
        "image_w": own.WIDTH,
        "info": info,
    }
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / f"{name}.npz", **arrays | changes)


def test_npz_of_bottom_up_attention_pytorch(tmp_path, prepare):
    regions, _ = SOME[IMAGE]
    bottom_up_npz(tmp_path / "npz", IMAGE, regions, [1, 3, 0, 2, 1, 1], np.linspace(0.9, 0.3, 6))
    (tmp_path / "names.txt").write_text("cat\ndog,hound\ntree\n")
    splits, _ = prepare("--features", tmp_path / "npz", "--class_names", tmp_path / "names.txt")
    same_regions(splits["test"], SOME)
    assert splits["test"][IMAGE].tags == ["cat", "tree", "dog", "cat", "cat"]  # the third region is background
    (tmp_path / "names.txt").write_text("__background__\ncat\ndog\ntree\n")
    more = ["--class_names", tmp_path / "names.txt"]
    splits, _ = prepare("--features", tmp_path / "npz", *more, output=tmp_path / "with_background")
    assert splits["test"][IMAGE].tags == ["cat", "tree", "dog", "cat", "cat"]
    splits, said = prepare("--features", tmp_path / "npz", output=tmp_path / "without")
    assert splits["test"][IMAGE].tags == []
    assert "note: classes are numbers: without --class_names images have no tags" in said


def test_npz_with_features_that_are_turned_and_without_info(tmp_path, prepare):
    regions, _ = SOME[IMAGE]
    bottom_up_npz(tmp_path / "npz", IMAGE, regions, [1] * 6, [0.5] * 6, x=regions[:, :-6].T.copy(), info=0)
    splits, said = prepare("--features", tmp_path / "npz")
    same_regions(splits["test"], SOME)
    assert "note: the features have no classes" in said


def test_npz_that_is_filled_up_beyond_its_regions(tmp_path, prepare):
    regions, _ = SOME[IMAGE]
    filled = np.concatenate([regions, np.zeros((4, 2054), np.float32)])
    boxes = own.pixel_boxes(filled).astype(np.float32)
    bottom_up_npz(tmp_path / "npz", IMAGE, regions, [1] * 6, [0.5] * 6, x=filled[:, :-6], bbox=boxes)
    splits, _ = prepare("--features", tmp_path / "npz")
    same_regions(splits["test"], SOME)


class Attack:
    def __reduce__(self):
        return (open, ("attacked", "w"))


@pytest.mark.parametrize("hostile", [Attack(), {"objects_id": Attack()}, np.array([Attack()], object)])
def test_what_is_pickled_in_an_npz_runs_nothing(tmp_path, prepare, monkeypatch, hostile):
    monkeypatch.chdir(tmp_path)
    bottom_up_npz(tmp_path / "npz", IMAGE, SOME[IMAGE].regions, [1] * 6, [0.5] * 6, info=hostile)
    splits, said = prepare("--features", tmp_path / "npz")
    assert splits["test"][IMAGE].tags == []
    assert "note: info is not read: it names io.open" in said
    assert not (tmp_path / "attacked").exists()


def test_npz_of_uniter(tmp_path, prepare):
    folder = tmp_path / "npz"
    folder.mkdir()
    regions, _ = SOME[IMAGE]
    shares = np.zeros((6, 4), np.float16)
    shares[range(6), [1, 3, 0, 2, 1, 1]] = 1
    arrays = {
        "features": regions[:, :-6].astype(np.float16),
        "norm_bb": own.oscar_order(regions)[:, -6:].astype(np.float16),
        "conf": np.linspace(0.9, 0.3, 6).astype(np.float16),
        "soft_labels": shares,
    }
    np.savez_compressed(folder / f"coco_val2014_{int(IMAGE):012}.npz", **arrays)
    (tmp_path / "names.txt").write_text("cat\ndog\ntree\n")
    captions = own.write_karpathy(tmp_path / "dataset_coco.json", {"test": {IMAGE: CAPTIONS["test"][IMAGE]}})
    splits, _ = prepare("--features", folder, "--class_names", tmp_path / "names.txt", "--captions", captions)
    same_regions(splits["test"], SOME, atol=2e-3)
    assert splits["test"][IMAGE].tags == ["cat", "tree", "dog", "cat", "cat"]


def test_boxes_that_are_no_shares_of_the_picture_are_refused(tmp_path, refuse):
    (tmp_path / "npz").mkdir()
    regions, _ = SOME[IMAGE]
    np.savez(tmp_path / "npz" / "1.npz", features=regions[:, :-6], norm_bb=own.pixel_boxes(regions))
    error = refuse("--features", tmp_path / "npz")
    assert f"{tmp_path}/npz/1.npz, image 1: boxes are not shares of the picture, in [0, 1]; give boxes in pix" in error


# Rows of bottom-up attention


def test_base64_that_python_printed_as_bytes(tmp_path, prepare):
    rows = [own.bottom_up_row(image, d.regions) for image, d in SOME.items()]
    rows = [[*row[:4], f"b'{row[4]}'", f"b'{row[5]}'"] for row in rows]
    splits, _ = prepare("--features", own.write_tsv(tmp_path / "a.tsv", rows))
    same_regions(splits["test"], SOME)


@pytest.mark.parametrize("first", [True, False])
def test_an_image_in_two_rows_one_of_which_is_cut_short(tmp_path, prepare, first):
    rows = [own.bottom_up_row(image, d.regions) for image, d in SOME.items()]
    cut = [[*rows[1][:4], rows[1][4][:20]], [*rows[2][:5], rows[2][5][:-100]]]
    path = own.write_tsv(tmp_path / "a.tsv", [*cut, *rows] if first else [*rows, *cut, rows[3]])
    splits, said = prepare("--features", path)
    same_regions(splits["test"], SOME)
    assert list(splits["test"]) == ([*list(SOME)[1:3], next(iter(SOME)), list(SOME)[3]] if first else list(SOME))
    assert f"note: {path}: {2 if first else 3} images are in more than one row" in said
    assert f"the whole row is taken, {2 if first else 3} others that are cut short or the same are left out" in said


def test_a_row_cut_between_two_numbers_is_not_taken_for_a_whole_one(tmp_path, prepare):
    row = own.bottom_up_row(IMAGE, SOME[IMAGE].regions)
    cut = [*row[:5], row[5][: 6 * 4 * 4 * 16]]  # six regions of narrower features
    splits, _ = prepare("--features", own.write_tsv(tmp_path / "a.tsv", [cut, row]))
    same_regions(splits["test"], SOME)


def test_an_image_in_two_whole_rows_that_differ(tmp_path, refuse):
    regions = SOME[IMAGE].regions
    rows = [own.bottom_up_row(IMAGE, regions), own.bottom_up_row(IMAGE, regions[::-1])]
    path = own.write_tsv(tmp_path / "a.tsv", rows)
    error = refuse("--features", path)
    assert f"{path}, row 1 (line 2), image {IMAGE}: row 0 of {path} is this image's too, and differs; keep" in error


# Ids


def test_names_in_other_scripts_and_of_two_folders_have_ids_of_their_own_that_stay(tmp_path, prepare):
    names = ["東京.jpg", "大阪.jpg", "yummy/taco.jpg", "sad/taco.jpg", "image (1).jpg", "image_1.jpg"]
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row(name, SOME[IMAGE].regions) for name in names])
    splits, _ = prepare("--features", path)
    ids = list(splits["test"])
    assert ids == [image_id(name) for name in names]
    assert ids[2:4] == ["yummy~taco", "sad~taco"]
    assert ids[5] == "image_1"
    path = own.write_tsv(tmp_path / "b.tsv", [own.bottom_up_row(name, SOME[IMAGE].regions) for name in names[1::2]])
    splits, _ = prepare("--features", path, output=tmp_path / "fewer")
    assert list(splits["test"]) == ids[1::2]


def test_two_names_of_one_id_are_refused(tmp_path, refuse):
    rows = [own.bottom_up_row(name, SOME[IMAGE].regions) for name in ("a.jpg", "a.png")]
    error = refuse("--features", own.write_tsv(tmp_path / "a.tsv", rows))
    assert "a.tsv, image a: 'a.jpg' and 'a.png' make one id; rename one" in error


# Paths that are not of this machine, and text files from anywhere


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs"])
@pytest.mark.parametrize(
    "command",
    [
        ["convert.features", "--features", "{}", "--output", "out"],
        ["convert.features", "--features", "in", "--output", "{}"],
        ["convert.features", "--features", "in", "--captions", "test={}", "--output", "out"],
        ["convert.coco_ir", "--img_feat_file", "{}", "--output", "out"],
        ["convert.coco_ir", "--img_feat_file", "in", "--output", "{}"],
        ["convert.detect", "--images", "{}", "--detector", "in", "--output", "out"],
        ["convert.detect", "--images", "in", "--detector", "in", "--output", "{}"],
        ["convert.checkpoint", "--vinvl", "{}", "--output", "out"],
        ["convert.checkpoint", "--bert", "in", "--output", "{}"],
        ["convert.export", "--workdir", "{}", "--output", "out"],
        ["convert.export", "--workdir", "in", "--output", "{}"],
        ["convert.inspect", "{}"],
        ["demo.__main__", "--output", "{}"],
        ["aladin_jax.search.__main__", "index", "--checkpoint", "{}", "--data", "in", "--output", "out"],
        ["aladin_jax.search.__main__", "index", "--checkpoint", "in", "--data", "in", "--output", "{}"],
        ["aladin_jax.search.__main__", "query", "--index", "{}", "two dogs"],
    ],
)
def test_a_path_of_an_object_store_is_refused_by_every_command(tmp_path, capsys, monkeypatch, command, scheme):
    monkeypatch.chdir(tmp_path)
    own.write_tsv(tmp_path / "in", [own.bottom_up_row(IMAGE, SOME[IMAGE].regions)])
    module, *options = command
    main = importlib.import_module(module).main
    assert main([option.format(f"{scheme}://bucket/run") for option in options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {scheme}://bucket/run: only files and folders of this machine are read and written; "
    )
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# What inspect says


def first_lines(path, capsys, *more):
    """The first two lines that convert.inspect prints of something, what they say, and its last line."""
    assert inspect.main([str(path), *map(str, more)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (kind, what), (taken, by) = (line.split("  ", 1) for line in lines[:2])
    assert (kind, taken) == ("kind", "taken by")
    return what.strip(), by.strip(), lines[-1]


def write_features(kind, folder):
    folder.mkdir()
    if kind == "npz":
        for image, (regions, tags) in SOME.items():
            own.write_npz(folder, image, regions, tags)
    elif kind == "bottom-up-attention.pytorch":
        for image, (regions, _) in SOME.items():
            bottom_up_npz(folder, image, regions, [1] * len(regions), [0.5] * len(regions))
    elif kind == "npy":
        for image, (regions, tags) in SOME.items():
            own.write_npy(folder, image, regions, tags)
    elif kind == "vinvl":
        own.write_vinvl(folder, [(image, d.regions, d.tags) for image, d in SOME.items()])
    else:
        rows = {
            "bottom_up_tsv": lambda image, d: own.bottom_up_row(image, d.regions),
            "oscar_tsv": lambda image, d: own.oscar_tsv_row(image, d.regions),
            "predictions": lambda image, d: detector_row(image, d.regions, d.tags),
        }[kind]
        own.write_tsv(folder / "predictions.tsv", [rows(image, d) for image, d in SOME.items()])
        return folder / "predictions.tsv"
    return folder


KINDS = ["npz", "bottom-up-attention.pytorch", "npy", "vinvl", "bottom_up_tsv", "oscar_tsv", "predictions"]


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_says_which_command_takes_features_and_it_does(tmp_path, capsys, kind):
    path = write_features(kind, tmp_path / "in")
    what, by, last = first_lines(path, capsys)
    assert what.startswith("region features")
    assert last == "no problems found"
    words = (
        by.replace(" --data_dir CAPTIONS", "").replace(" --labels LABELS", "").replace("DATA", str(tmp_path / "out"))
    )
    _, _, module, *options = shlex.split(words)
    assert importlib.import_module(module).main(options) == 0
    capsys.readouterr()
    what, by, last = first_lines(tmp_path / "out", capsys)
    assert what == "data set without captions"
    assert by.startswith("python -m aladin_jax.search index --checkpoint MODEL --data ")
    assert last == "no problems found"


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_converter_refuses_is_a_problem_for_inspect(tmp_path, capsys, kind):
    path = write_features(kind, tmp_path / "in")
    files = [path] if path.is_file() else [file for file in path.rglob("*.*") if file.is_file()]
    file = max(files, key=lambda file: file.stat().st_size)
    file.write_bytes(file.read_bytes()[:-200])
    status = inspect.main([str(path)])  # 1 where not one image can be read
    captured = capsys.readouterr()
    assert "PROBLEMS: " in captured.out if status == 0 else captured.err.startswith("error: ")
    assert features.main(["--features", str(path), "--output", str(tmp_path / "out")]) == 1


@pytest.mark.parametrize("kind", ["karpathy", "coco", "list", "flickr", "coco_ir"])
def test_inspect_says_which_command_takes_captions_and_it_does(tmp_path, capsys, kind):
    path = write_features("vinvl", tmp_path / "in")
    content = {image: CAPTIONS["test"][image] for image in SOME}
    named = {own.coco_name(image): texts for image, texts in content.items()}
    captions = {
        "karpathy": lambda: own.write_karpathy(tmp_path / "dataset_coco.json", {"test": content}),
        "coco": lambda: own.write_coco(tmp_path / "captions.json", content),
        "list": lambda: own.write_list(tmp_path / "captions.json", named),
        "flickr": lambda: own.write_flickr(tmp_path / "captions.txt", named),
        "coco_ir": lambda: own.save(content, tmp_path / "test_captions.pt").parent,
    }[kind]()
    what, by, last = first_lines(captions, capsys)
    assert "captions" in what
    assert last == "no problems found"
    words = by.replace("SPLIT=", "test=").replace("FEATURES", str(path / "features.tsv"))
    _, _, module, *options = shlex.split(words.replace("DATA", str(tmp_path / "out")))
    assert importlib.import_module(module).main(options) == 0
    capsys.readouterr()
    what, by, last = first_lines(tmp_path / "out", capsys)
    assert what == "data set"
    assert by.startswith("python -m aladin_jax.main --config CONFIG --workdir RUN --config.data.dir=")


def test_inspect_holds_captions_against_features_as_the_converter_does(tmp_path, capsys):
    rows = [own.bottom_up_row(f"coco_val2014_{int(image):012}", d.regions) for image, d in list(SOME.items())[1:]]
    features_path = own.write_tsv(tmp_path / "a.tsv", rows)
    captions = own.write_karpathy(tmp_path / "dataset_coco.json", {"test": {image: ["a"] for image in SOME}})
    assert inspect.main([str(captions), "--against", str(features_path), "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["captioned images"], found["with features"]) == (4, 3)
    missing = next(iter(SOME))
    assert found["problems"] == [f"captioned images without features in {features_path}: 1 ({missing})"]
