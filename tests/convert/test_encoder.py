"""Features of any vision backbone: a grid of its patches, with the grid's boxes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.errors import DataError
from convert.detect import main
from convert.detection.encoder import VisionEncoder, choose_grid, pool
from tests.convert import tiny_detectors, tiny_encoders
from tests.convert.tiny_detectors import PHOTOGRAPHS, photograph


@pytest.fixture(scope="module", params=tiny_encoders.KINDS)
def encoder(request, tmp_path_factory):
    return VisionEncoder(tiny_encoders.save(request.param, tmp_path_factory.mktemp(request.param)), "cpu")


def encode(encoder, image, max_regions):
    [found] = encoder.extract([encoder.prepare(image)], max_regions=max_regions)
    return found


def test_every_family_sees_a_grid_of_cells_that_fill_what_it_sees(encoder):
    image = Image.open(photograph("coffee.png")).convert("RGB")
    found = encode(encoder, image, 100)
    whole, cells = found.boxes[0], found.boxes[1:]
    assert found.features.shape == (17, tiny_encoders.WIDTH)  # the picture, and 4 x 4 patches
    assert (found.classes, found.scores) == (None, None)
    areas = np.prod(cells[:, 2:] - cells[:, :2], 1)
    np.testing.assert_allclose(areas.sum(), np.prod(whole[2:] - whole[:2]), rtol=1e-6)
    assert whole.min() >= 0
    assert (whole[2:] <= np.array(image.size)).all()
    np.testing.assert_allclose(found.features[0], found.features[1:].mean(0), atol=1e-4)
    assert np.std(found.features[1:], axis=0).max() > 0.01


def test_a_cell_is_where_its_box_says(encoder):
    """A change in one place of a picture moves the features of its cell more than those of any other."""
    image = Image.open(photograph("coffee.png")).convert("RGB").resize((120, 80))
    before = encode(encoder, image, 17)
    for cell in (1, 7, 16):
        changed = image.copy()
        changed.paste("magenta", tuple(round(value) for value in before.boxes[cell]))
        moved = np.linalg.norm(encode(encoder, changed, 17).features - before.features, axis=1)[1:]
        neighbourhood = np.abs(before.boxes[1:] - before.boxes[cell]).max(1) < 1
        assert moved[neighbourhood] > np.median(moved)


def test_what_a_processor_crops_is_in_no_box(tmp_path):
    encoder = VisionEncoder(tiny_encoders.save("dinov2", tmp_path), "cpu")
    found = encode(encoder, Image.new("RGB", (128, 64)), 5)  # resized to itself, of which 56 x 56 are seen
    np.testing.assert_allclose(found.boxes[0], [36, 4, 92, 60])


@pytest.mark.parametrize(
    ("patches", "most", "shape"),
    [((14, 14), 33, (5, 6)), ((14, 14), 49, (7, 7)), ((4, 4), 99, (4, 4)), ((7, 14), 8, (2, 4)), ((9, 9), 0, None)],
)
def test_the_grid_has_at_most_so_many_cells_and_the_patches_proportion(patches, most, shape):
    assert choose_grid(patches, most) == shape


def test_a_patch_in_two_cells_counts_in_each_by_its_share():
    patches = np.array([[[0.0], [3.0], [6.0]]])
    np.testing.assert_allclose(pool(patches, (1, 2)).reshape(-1), [1, 5])
    np.testing.assert_allclose(pool(patches, (1, 3)), patches)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in PHOTOGRAPHS[:4]:
        shutil.copy(photograph(name), folder / name)
    return folder


def run(images, model, output, *more):
    options = ["--images", images, "--encoder", model, "--output", output, "--device", "cpu", *more]
    return main([str(option) for option in options])


def test_photographs_become_a_data_set_without_tags_and_a_run_goes_on_where_it_was(images, tmp_path, capfd):
    model = tiny_encoders.save("vit", tmp_path / "vit")
    assert run(images, model, tmp_path / "out", "--max_regions", "7") == 0
    assert "Features of another encoder than the model's need training" in capfd.readouterr().out
    split = Split(open_dataset(tmp_path / "out"), "test")
    records = [split.read(k) for k in range(split.num_images)]
    assert [record.regions.shape for record in records] == [(7, tiny_encoders.WIDTH + 6)] * 4
    assert all(record.tags == [] for record in records)
    np.testing.assert_allclose(records[0].regions[0, -6:], [0, 0, 1, 1, 1, 1])
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "detections").glob("*.npz")}
    next(iter(files)).unlink()
    assert run(images, model, tmp_path / "out", "--max_regions", "7") == 0
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "out" / "detections").glob("*.npz")}
    assert len([file for file in files if again[file] != files[file]]) == 1
    assert run(images, model, tmp_path / "out", "--max_regions", "8") == 1
    assert "max_regions was 7, is 8" in capfd.readouterr().err


def test_what_is_no_vision_backbone_is_refused(tmp_path, images, capfd):
    yolos = tiny_detectors.save("yolos", tmp_path / "yolos")
    with pytest.raises(DataError, match="--detector"):
        VisionEncoder(yolos, "cpu")
    (tmp_path / "empty").mkdir()
    assert run(images, tmp_path / "empty", tmp_path / "out") == 1
    assert "there is no config.json in it" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        run(images, yolos, tmp_path / "out", "--score_threshold", "0.5")
