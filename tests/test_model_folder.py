import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest

from aladin_jax.model_folder import (
    ModelConfig,
    expected_shapes,
    load_model_folder,
    read_description,
    read_provenance,
    save_model_folder,
    write_description,
)
from aladin_jax.models.aladin import init_params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig

CONFIG = ModelConfig(
    BackboneConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        img_feature_dim=6,
    ),
    MatchingHeadConfig(num_layers=1, num_heads=2, dropout=0.25),
)


@pytest.fixture(scope="module")
def params():
    draw = np.random.default_rng(0).standard_normal
    shapes = jax.eval_shape(lambda: init_params(*CONFIG, seed=0))
    return jax.tree.map(lambda leaf: draw(leaf.shape, np.float32), shapes)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("[PAD]\ngröße\r\n".encode())
    return path


@pytest.fixture
def folder(tmp_path, params, vocabulary):
    save_model_folder(tmp_path / "model", params, CONFIG, vocabulary, {"from": "here"})
    return tmp_path / "model"


def test_what_is_saved_comes_back_bit_for_bit(folder, params, vocabulary):
    loaded, config, loaded_vocabulary = load_model_folder(folder)
    assert config == CONFIG
    assert loaded_vocabulary == folder / "vocab.txt"
    assert (folder / "vocab.txt").read_bytes() == vocabulary.read_bytes()
    assert read_provenance(folder) == {"from": "here"}
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(loaded))
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_a_folder_may_come_without_a_vocabulary(tmp_path, params):
    save_model_folder(tmp_path / "a/b/model", params, CONFIG, None, {})
    assert load_model_folder(tmp_path / "a/b/model")[2] is None


def test_a_workdir_keeps_the_description_without_parameters(tmp_path, vocabulary):
    write_description(tmp_path, CONFIG, vocabulary)
    assert read_description(tmp_path) == (CONFIG, tmp_path / "vocab.txt")
    with pytest.raises(ValueError, match="there is no params;"):
        load_model_folder(tmp_path)


def test_shapes_have_the_layers_on_their_first_axis():
    shapes = expected_shapes(CONFIG)
    assert shapes["backbone/layers/qkv/kernel"] == (2, 8, 24)
    assert shapes["backbone/region_projection/kernel"] == (6, 8)
    assert shapes["matching_head/layers/output_norm/scale"] == (1, 8)


def test_an_existing_folder_is_replaced_only_on_request(folder, params):
    with pytest.raises(ValueError, match=r"already exists.*--overwrite"):
        save_model_folder(folder, params, CONFIG, None, {})
    save_model_folder(folder, jax.tree.map(lambda x: x * 2, params), CONFIG, None, {"second": True}, overwrite=True)
    loaded, _, vocabulary = load_model_folder(folder)
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new, 2 * old), loaded, params)
    assert vocabulary is None
    assert read_provenance(folder) == {"second": True}
    assert sorted(p.name for p in folder.parent.iterdir()) == ["model", "words.txt"]


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"hidden_size 8 .* not a multiple of the matching head's 3"):
        expected_shapes(CONFIG._replace(matching_head=MatchingHeadConfig(num_heads=3)))


@pytest.mark.parametrize("path", ["mine", "mine/thesis.tex"])
def test_what_is_no_model_folder_is_never_replaced(tmp_path, params, path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="is no model folder"):
        save_model_folder(tmp_path / path, params, CONFIG, None, {}, overwrite=True)
    assert (tmp_path / "mine/thesis.tex").read_text() == "x"


def test_a_link_is_never_replaced(tmp_path, folder, params):
    os.symlink(folder, tmp_path / "link")
    with pytest.raises(ValueError, match="is no model folder"):
        save_model_folder(tmp_path / "link", params, CONFIG, None, {}, overwrite=True)


def test_a_failure_while_saving_leaves_nothing_behind(tmp_path, params):
    with pytest.raises(TypeError):
        save_model_folder(tmp_path / "model", params, CONFIG, None, {"not": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_failure_while_replacing_leaves_the_earlier_folder(folder, params):
    before = sorted(p.name for p in folder.parent.iterdir())
    with pytest.raises(TypeError):
        save_model_folder(folder, params, CONFIG, None, {"not": object()}, overwrite=True)
    load_model_folder(folder)
    assert sorted(p.name for p in folder.parent.iterdir()) == before


def test_the_rest_of_a_killed_conversion_is_cleared_by_the_next(tmp_path, params):
    rest = tmp_path / ".model.unfinished"
    rest.mkdir()
    (rest / "junk").write_text("x")
    save_model_folder(tmp_path / "model", params, CONFIG, None, {})
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model/junk").exists()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="nothing: no such folder"):
        load_model_folder(tmp_path / "nothing")


def test_an_unfinished_folder_is_refused(folder):
    (folder / "model.json").unlink()
    with pytest.raises(ValueError, match=r"there is no model\.json; .* unfinished"):
        load_model_folder(folder)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("{", "not a JSON file"),
        ("[]", "expected a JSON object, found list"),
        ("[" * 100_000, "not a JSON file"),
        ('{"backbone": {}}', "there is no object 'matching_head'"),
        ('{"backbone": {"hidden_size": 1e999}, "matching_head": {}}', "'hidden_size' is inf, not a finite number"),
        ('{"backbone": {"layer_norm_eps": NaN}, "matching_head": {}}', "not a finite number"),
        ('{"backbone": {"hidden_size": "8"}, "matching_head": {}}', "hidden_size is '8'"),
        ('{"backbone": {}, "matching_head": {"num_layers": 0}}', "num_layers of the matching head is 0"),
        ('{"backbone": {}, "matching_head": {"num_heads": true}}', "num_heads of the matching head is True"),
        ('{"backbone": {}, "matching_head": {"dropout": 1}}', "dropout of the matching head is 1"),
    ],
)
def test_a_bad_description_is_refused_with_its_cause(folder, text, cause):
    (folder / "model.json").write_text(text)
    with pytest.raises(ValueError, match=cause) as caught:
        load_model_folder(folder)
    assert "model.json" in str(caught.value)


def test_parameters_of_another_size_are_refused_by_name(folder):
    values = json.loads((folder / "model.json").read_text())
    values["backbone"] |= {"intermediate_size": 16, "use_img_layernorm": False}
    (folder / "model.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_model_folder(folder)
    assert "backbone/layers/intermediate/kernel is float32[2, 8, 12], the model has float32[2, 8, 16]" in str(
        caught.value
    )
    assert "backbone/region_norm/scale is not of this model" in str(caught.value)


def test_a_changed_byte_in_the_parameters_is_found(folder):
    for file in [path for path in (folder / "params").rglob("*") if path.is_file() and path.stat().st_size]:
        content = bytearray(file.read_bytes())
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(ValueError, match=r"params: damaged: its files differ from params\.sha256"):
            load_model_folder(folder)
        file.write_bytes(content)
    load_model_folder(folder)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_checksums_can_be_verified_without_this_project(folder):
    subprocess.run(["sha256sum", "--quiet", "--strict", "-c", "params.sha256"], cwd=folder, check=True)


def test_an_empty_params_folder_is_refused(folder):
    shutil.rmtree(folder / "params")
    (folder / "params").mkdir()
    with pytest.raises(ValueError, match="params: damaged"):
        load_model_folder(folder)
    (folder / "params.sha256").write_text("")
    with pytest.raises(ValueError, match="params: not arrays"):
        load_model_folder(folder)
