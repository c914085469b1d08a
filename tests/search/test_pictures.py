"""Pictures of an index, out of a folder as people have them."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from aladin_jax.image_names import image_id
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from convert.features import main as import_features
from demo.region_features import REGION_DIM
from tests.convert.tiny_detectors import photograph

FOUND = ["a.JPG", "two/b.jpeg", "three/b.jpeg", "東京.jpg", "大阪.jpg", "side.jpg", "deep.TIF"]
LOST = ["gone.png", "cut.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`data`, a data set of images that are called by ids; `images`, their pictures, but for one, and one cut short."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    (folder / "features").mkdir()
    photo = Image.open(photograph("coffee.png")).convert("RGB").resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in (*FOUND, *LOST):
        np.savez(
            folder / "features" / f"{image_id(name)}.npz",
            features=generator.normal(size=(3, REGION_DIM - 6)),
            boxes=[[0, 0, 20, 20]] * 3,
            width=40,
            height=60,
        )
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, **({"exif": exif} if name == "side.jpg" else {}))
    Image.fromarray(np.full((40, 60), 32768, np.uint16)).save(folder / "images" / "deep.TIF")
    (folder / "images" / "gone.png").rename(folder / "images" / "gone.svg")
    (folder / "images" / "cut.png").write_bytes(photograph("coffee.png").read_bytes()[:9000])
    assert import_features(["--features", str(folder / "features"), "--output", str(folder / "data")]) == 0
    return folder


@pytest.fixture
def indexed(folder, scenes_folder, tmp_path, capfd):
    command = ["index", "--checkpoint", scenes_folder / "model", "--data", folder / "data", "--images"]
    lengths = ["--max_caption_len", "24", "--max_labels_len", "16"]
    arguments = [*command, folder / "images", "--output", tmp_path / "index", *lengths]
    assert main([str(argument) for argument in arguments]) == 0
    return Index(tmp_path / "index"), capfd.readouterr().err


def picture(index, name):
    return Image.open(io.BytesIO(index.picture(index.row(image_id(name)))))


def test_pictures_are_found_whatever_their_ending_folder_or_script_and_the_index_knows_their_files(indexed):
    index, _ = indexed
    assert {index.file(index.row(image_id(name))) for name in FOUND} == set(FOUND)
    assert all(index.picture(index.row(image_id(name))) for name in FOUND)


def test_pictures_are_upright_and_of_eight_bits(indexed):
    index, _ = indexed
    assert picture(index, "a.JPG").size == (60, 40)
    assert picture(index, "side.jpg").size == (40, 60)
    assert abs(np.asarray(picture(index, "deep.TIF")).mean() - 128) < 3


def test_what_is_not_found_or_not_readable_is_counted_and_named(indexed):
    index, said = indexed
    assert "note: 1 of 9 pictures not found: gone\n" in said
    assert "note: 1 of 9 pictures not readable: cut.png\n" in said
    assert "note: passed over: 1 files whose endings are no picture's (1 .svg): gone.svg\n" in said
    assert [index.picture(index.row(name)) for name in ("gone", "cut")] == [b"", b""]


def test_results_name_the_file(indexed, capfd):
    index, _ = indexed
    assert main(["query", "--index", str(index.path), "a red square", "--json", "--k", "9"]) == 0
    found = {hit["id"]: hit["file"] for hit in json.loads(capfd.readouterr().out)["results"]}
    assert found == {image_id(name): "" if name == "gone.png" else name for name in (*FOUND, *LOST)}
