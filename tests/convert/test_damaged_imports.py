"""Damages to files of features and captions in others' formats: what is read is what stands there."""

import base64
import io
import json
import re
import zipfile
import zlib

import numpy as np
import pytest
import torch

from aladin_jax.errors import DataError
from aladin_jax.image_names import image_id
from convert.boxes import encode_boxes
from convert.importing.arrays import NpyFiles, NpzFiles
from convert.importing.bottom_up import BottomUpTsv
from convert.importing.caption_files import Uncaptioned
from convert.importing.captions import read_coco, read_flickr, read_karpathy, read_list
from convert.importing.oscar import OscarPt, OscarTsv
from convert.importing.predictions import DetectorTsv
from convert.importing.source import ImportedSource
from convert.inspection.features_folder import inspect_features
from convert.raw.vinvl_files import VinvlFiles
from tests.convert import own_features as own
from tests.corruption import Outcomes, damages

CASES = 52
GOLDEN = {image: (d.regions[:3, -40:], d.tags[:3]) for image, d in own.all_golden(limit=6).items()}
IMAGE = "473681"
NAMES = ("features", "boxes", "width", "height")


@pytest.fixture(autouse=True)
def as_for_users(unchecked):
    """Without type checks, as in a user's program: a damaged file must not end in one either."""


def run(path, folder, read, by_hand, accepted="read as it stands"):
    """Reads a file with every damage; `by_hand` says what should have been read where something was."""
    whole = path.read_bytes()
    own_result = read()
    compare(own_result, by_hand())
    outcomes = Outcomes()
    for what, content in damages(whole, CASES, seed=zlib.crc32(path.name.encode())):
        path.write_bytes(content)
        result = None
        with outcomes.sort(what, accepted, folder):
            result = read()
        if result is not None:
            compare(result, by_hand(), what)
    outcomes.check(CASES)


def compare(result, expected, what="the whole file"):
    if isinstance(expected, tuple):
        np.testing.assert_allclose(result[0], expected[0], rtol=1e-6, atol=1e-6, err_msg=what)
        assert result[1] == expected[1], what
    else:
        assert result == expected, what


def read_images(reader, folder, images):
    """Regions of all images, one after the other, and their tags: as the data set is built from them."""
    with reader:
        source = ImportedSource(reader, Uncaptioned("test", folder, images), skip_missing=False)
        with source.open(np.dtype(np.float32)) as opened:
            found = [opened.detections(image) for image in images]
    return np.concatenate([some.regions for some in found]), [tag for some in found for tag in some.tags]


def regions_of(features, boxes, width, height):
    """What a record's regions should be."""
    return np.concatenate([features, encode_boxes(np.asarray(boxes), int(width), int(height))], 1)


def test_a_damaged_npz(tmp_path):
    path = own.write_npz(tmp_path / "npz", IMAGE, *GOLDEN[IMAGE])

    def by_hand():
        with zipfile.ZipFile(path) as archive:
            numbers = [np.load(io.BytesIO(archive.read(f"{name}.npy"))) for name in NAMES]
            # Without classes there are no tags; where other images have them, the image is refused.
            named = "classes.npy" in archive.namelist()
            classes = np.load(io.BytesIO(archive.read("classes.npy"))).tolist() if named else []
        return regions_of(*numbers), classes

    run(path, tmp_path, lambda: read_images(NpzFiles(tmp_path / "npz"), tmp_path, [IMAGE]), by_hand)


@pytest.mark.parametrize("array", ["features", "boxes", "classes", "size"])
def test_a_damaged_npy(tmp_path, array):
    own.write_npy(tmp_path / "npy", IMAGE, *GOLDEN[IMAGE])

    def by_hand():
        names = ("features", "boxes", "size", "classes")
        features, boxes, size, classes = (np.load(tmp_path / "npy" / name / f"{IMAGE}.npy") for name in names)
        return regions_of(features, boxes, *size), classes.tolist()

    path = tmp_path / "npy" / array / f"{IMAGE}.npy"
    run(path, tmp_path, lambda: read_images(NpyFiles(tmp_path / "npy"), tmp_path, [IMAGE]), by_hand)


def test_a_damaged_bottom_up_tsv(tmp_path):
    path = own.write_tsv(tmp_path / "a.tsv", [own.bottom_up_row(image, r) for image, (r, _) in GOLDEN.items()])

    def read():
        return read_images(BottomUpTsv([path]), tmp_path, list(GOLDEN))

    def by_hand():
        rows = {}
        for line in path.read_bytes().removesuffix(b"\n").split(b"\n"):
            image, width, height, count, boxes, features = line.removesuffix(b"\r").split(b"\t")
            boxes, features = (
                np.frombuffer(base64.b64decode(x), "<f4").reshape(int(count), -1) for x in (boxes, features)
            )
            rows[image.decode()] = regions_of(features, boxes, float(width), float(height))
        return np.concatenate([rows[image] for image in GOLDEN]), []

    run(path, tmp_path, read, by_hand)


def test_a_damaged_feature_tsv_of_oscar(tmp_path):
    rows = [own.oscar_tsv_row(image, own.oscar_order(regions)) for image, (regions, _) in GOLDEN.items()]
    path = own.write_tsv(tmp_path / "a.feature.tsv", rows)

    def read():
        return read_images(OscarTsv([path]), tmp_path, list(GOLDEN))

    def by_hand():
        rows = {}
        for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
            image, text = line.split("\t")
            try:
                row = json.loads(text)
            except json.JSONDecodeError:  # of an image that has a whole row too
                continue
            regions = np.frombuffer(base64.b64decode(row["features"]), "<f4").reshape(row["num_boxes"], -1)
            rows[image] = own.oscar_order(regions)
        return np.concatenate([rows[image] for image in GOLDEN]), []

    run(path, tmp_path, read, by_hand)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # of what the comparison loads
def test_a_damaged_pt_of_oscar(tmp_path, zipped):
    path = tmp_path / f"feats{zipped}.pt"
    regions = {int(image): torch.tensor(own.oscar_order(r)) for image, (r, _) in GOLDEN.items()}
    torch.save(regions, path, _use_new_zipfile_serialization=zipped)

    def read():
        return read_images(OscarPt([path]), tmp_path, list(GOLDEN))

    def by_hand():
        found = {
            str(image): tensor.numpy()
            for image, tensor in torch.load(path, map_location="cpu", weights_only=True).items()
        }
        return np.concatenate([own.oscar_order(found[image]) for image in GOLDEN]), []

    run(path, tmp_path, read, by_hand)


def test_a_damaged_file_of_the_detectors_predictions(tmp_path):
    def row(image, regions, tags):
        boxes = own.pixel_boxes(regions).tolist()
        found = zip(boxes, tags, [own.base64_of(feature) for feature in regions[:, :-6]], strict=True)
        objects = [{"rect": box, "class": tag, "conf": 0.5, "feature": feature} for box, tag, feature in found]
        return [image, json.dumps({"image_h": own.HEIGHT, "image_w": own.WIDTH, "objects": objects})]

    path = own.write_tsv(tmp_path / "predictions.tsv", [row(image, *found) for image, found in GOLDEN.items()])

    def by_hand():
        rows = {}
        for line in path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n"):
            image, text = line.removesuffix("\r").split("\t")
            try:
                content = json.loads(text)
            except json.JSONDecodeError:  # of an image that has a whole row too
                continue
            width, height, objects = content["image_w"], content["image_h"], content["objects"]
            order = sorted(range(len(objects)), key=lambda k: -objects[k].get("conf", 0))
            objects = [objects[k] for k in order]
            boxes = np.clip([item["rect"] for item in objects], 0, [width, height, width, height])
            features = [np.frombuffer(base64.b64decode(item["feature"]), "<f4") for item in objects]
            rows[image] = regions_of(np.stack(features), boxes, width, height), [item["class"] for item in objects]
        read = [rows[image] for image in GOLDEN]
        return np.concatenate([regions for regions, _ in read]), [tag for _, tags in read for tag in tags]

    run(path, tmp_path, lambda: read_images(DetectorTsv([path]), tmp_path, list(GOLDEN)), by_hand)


CAPTIONS = {image: texts for some in own.captions().values() for image, texts in list(some.items())[:3]}


def texts(images):
    return {key: image.captions for key, image in images.items()}


def test_a_damaged_file_of_karpathy(tmp_path):
    path = own.write_karpathy(tmp_path / "dataset_coco.json", {"test": CAPTIONS})
    ours = {"train": "train", "restval": "train", "val": "minival", "test": "test"}

    def read():
        return {split: texts(images) for split, images in read_karpathy(path, restval=True).items()}

    def by_hand():
        splits = {}
        for image in json.loads(path.read_text(encoding="utf-8-sig"))["images"]:
            sentences = [sentence["raw"] for sentence in image["sentences"]]
            key = re.sub(r"\.jpg$", "", image["filename"]) if image.get("cocoid") is None else str(image["cocoid"])
            splits.setdefault(ours[image["split"]], {})[key] = sentences
        return splits

    run(path, tmp_path, read, by_hand)


def test_a_damaged_file_of_coco(tmp_path):
    path = own.write_coco(tmp_path / "captions.json", CAPTIONS)

    def by_hand():
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        found = {str(image["id"]): [] for image in content["images"]}
        for annotation in content["annotations"]:
            found[str(annotation["image_id"])].append(annotation["caption"])
        return {key: some for key, some in found.items() if some}

    run(path, tmp_path, lambda: texts(read_coco(path)), by_hand)


def test_a_damaged_token_file(tmp_path):
    path = own.write_flickr(tmp_path / "results.token", CAPTIONS)

    def by_hand():
        found = {}
        for line in path.read_bytes().decode("utf-8-sig").removesuffix("\n").split("\n"):
            head, caption = line.removesuffix("\r").split("\t", 1)
            name = re.sub(r"\.(jpg|jpeg|png|webp|bmp)$", "", head[: head.rindex("#")], flags=re.IGNORECASE)
            found.setdefault(name, []).append(caption)
        return found

    run(path, tmp_path, lambda: texts(read_flickr(path)), by_hand)


@pytest.mark.parametrize("name", ["features.tsv", "features.lineidx", "imageid2idx.json", "predictions.tsv"])
def test_an_inspection_always_ends_in_a_report_and_without_problems_all_can_be_read(tmp_path, name):
    path = own.write_vinvl(tmp_path, [(image, regions, tags) for image, (regions, tags) in GOLDEN.items()])
    faultless = 0
    for what, content in damages((tmp_path / name).read_bytes(), CASES, seed=zlib.crc32(name.encode())):
        (tmp_path / name).write_bytes(content)
        found = inspect_features(path, None, 34)
        json.dumps(found, allow_nan=False)
        if found["problems"]:
            continue
        faultless += 1
        try:
            with VinvlFiles(path, feature_dim=None) as files:
                read = [files.detections(image) for image in files.names()]
        except DataError as error:
            raise AssertionError(f"{what}: no problem was found, but {error}") from error
        assert len(read) == found["images"]
    print(f"{CASES} damaged files: {CASES - faultless} with problems, {faultless} without")
    assert faultless < CASES / 3


def test_a_damaged_list_of_captions(tmp_path):
    path = own.write_list(tmp_path / "captions.json", CAPTIONS)

    def by_hand():
        found = {}
        for entry in json.loads(path.read_text(encoding="utf-8-sig")):
            name = next(entry[key] for key in ("image", "file_name", "filename", "image_id") if key in entry)
            found.setdefault(image_id(str(name)), []).extend(
                [entry["caption"]] if isinstance(entry["caption"], str) else entry["caption"]
            )
        return found

    run(path, tmp_path, lambda: texts(read_list(path)), by_hand)


def test_a_damaged_table_of_captions(tmp_path):
    rows = [f"{image}.jpg| {k}| {text}" for image, some in CAPTIONS.items() for k, text in enumerate(some)]
    path = tmp_path / "results.csv"
    path.write_text("\n".join(["image_name| comment_number| comment", *rows]))

    def by_hand():
        found = {}
        for line in re.split("\r?\n", path.read_bytes().decode("utf-8-sig").rstrip("\r\n "))[1:]:
            name, _, caption = line.split("|", 2)
            found.setdefault(image_id(name.strip()), []).append(caption.strip())
        return found

    run(path, tmp_path, lambda: texts(read_flickr(path)), by_hand)
