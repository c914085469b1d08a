"""An index of the golden end-to-end data, and one of drawn scenes; both with a small model."""

import json
import shutil

import pytest
from selenium import webdriver

from aladin_jax import model_folder
from aladin_jax.config import Settings
from aladin_jax.models.aladin import init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.pretrained import load
from aladin_jax.search.__main__ import main
from aladin_jax.search.indexing import Contents, create_index
from demo import builder


@pytest.fixture(scope="session")
def golden_model(golden_folder):
    return load(golden_folder / "model", Settings())


@pytest.fixture(scope="session")
def golden_index(golden_folder, golden_model):
    """The test split's index; tests that change it take a copy (`changing`)."""
    path = golden_folder / "index"
    create_index(path, golden_model, Contents(golden_folder / "data", "test"))
    return path


@pytest.fixture
def changing(golden_index, tmp_path):
    return shutil.copytree(golden_index, tmp_path / "index")


@pytest.fixture(scope="session")
def scenes_folder(tmp_path_factory):
    """`data`: drawn scenes, with pictures and boxes; `model`: one with random weights for them."""
    folder = tmp_path_factory.mktemp("scenes")
    builder.prepare(folder / "data", {"train": 8, "minival": 8, "test": 24}, seed=88)
    save_small_model(folder / "model", folder / "data" / "vocab.txt", builder.REGION_DIM)
    return folder


def save_small_model(folder, vocabulary, feature_dim):
    """A model with random weights."""
    backbone = BackboneConfig(
        vocab_size=len(vocabulary.read_text().split()),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=50,
        img_feature_dim=feature_dim,
    )
    config = model_folder.ModelConfig(backbone, MatchingHeadConfig())
    model_folder.save_model_folder(folder, init_params(*config, seed=1), config, vocabulary, {})


SCENES_SETTINGS = Settings(max_caption_len=24, max_labels_len=16, max_regions=10)


@pytest.fixture(scope="session")
def scenes_index(scenes_folder):
    path = scenes_folder / "index"
    model = load(scenes_folder / "model", SCENES_SETTINGS)
    create_index(path, model, Contents(scenes_folder / "data", "test"))
    return path


@pytest.fixture(scope="session")
def photographs(scenes_folder, tmp_path_factory):
    """`index` of photographs and captions, by `vit`, and `data` that it was made of."""
    # PyTorch, only where it is used.
    from convert import detect
    from tests.convert import tiny_encoders
    from tests.convert.tiny_detectors import PHOTOGRAPHS, photograph

    folder = tmp_path_factory.mktemp("photographs")
    (folder / "images").mkdir()
    names = [name for name in PHOTOGRAPHS if name.endswith(".png")]
    for name in names:
        shutil.copy(photograph(name), folder / "images" / name)
    captions = {name: f"a picture of a {colour} star." for name, colour in zip(names, ("red", "blue") * 3)}  # noqa: B905
    (folder / "captions.json").write_text(json.dumps([{"image": n, "caption": c} for n, c in captions.items()]))
    vit = tiny_encoders.save("vit", folder / "vit")
    arguments = ["--images", folder / "images", "--encoder", vit, "--output", folder / "data"]
    assert detect.main([*map(str, arguments), "--captions", f"test={folder / 'captions.json'}"]) == 0
    save_small_model(folder / "model", scenes_folder / "data" / "vocab.txt", tiny_encoders.WIDTH + 6)
    index = ["index", "--checkpoint", folder / "model", "--data", folder / "data", "--images", folder / "images"]
    assert main([*map(str, index), "--output", str(folder / "index")]) == 0
    return folder


@pytest.fixture(scope="session")
def chromium():
    if not shutil.which("chromedriver"):
        pytest.skip("needs Debian's packages chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--window-size=1200,900"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """Chromium, without what an earlier test left in its log."""
    chromium.get_log("browser")
    return chromium
