"""Every field is used and explained; a regime changes what the paper's table says; impossible values are refused."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aladin_jax import configuration
from aladin_jax.training.loop import train
from convert.original import original_config
from convert.sources import read_vinvl
from convert.torch_files import load_torch
from tests.golden_data import E2E, REGIMES

ROOT = Path(__file__).parents[1]
SOURCE = "\n".join(path.read_text() for path in (ROOT / "aladin_jax").rglob("*.py"))


def flattened(name):
    config = importlib.import_module(f"configs.{name}").get_config()

    def walk(node, prefix):
        for key in node:
            value = node[key]
            yield from walk(value, f"{prefix}{key}.") if hasattr(value, "to_dict") else [(f"{prefix}{key}", value)]

    return dict(walk(config, ""))


COMMON = flattened("common")


@pytest.mark.parametrize("field", [*COMMON, "model.backbone"])
def test_every_field_is_read_by_the_program(field):
    group = "loss_weights.to_dict()" if field.startswith("loss_weights.") else field
    assert re.search(rf"\bconfig\.{re.escape(group)}(?![\w.]*\s=[^=])", SOURCE), field


def test_every_field_is_explained():
    explained = False
    for line in (ROOT / "configs" / "common.py").read_text().splitlines():
        line = line.strip()
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        elif line.startswith("config.") and not line.endswith("config_dict.ConfigDict()"):
            assert explained, line


# Loss weights, what is frozen, and the epochs between two drops of the learning rate.
TABLE = {
    "alignment_triplet": ({"alignment": 1.0}, (), 15),
    "matching_triplet_finetune": ({"matching": 1.0}, ("backbone",), 10),
    "matching_distill_finetune": ({"distillation": 1.0}, ("backbone",), 10),
    "matching_triplet_e2e": ({"matching": 1.0}, (), 15),
    "alignment_and_matching_distill": ({"alignment": 1.0, "distillation": 1.0}, (), 15),
    "alignment_and_matching_triplet_distill": ({"alignment": 1.0, "distillation": 1.0, "matching": 0.1}, (), 15),
}


# What the original's configurations and flags say, the same in all six regimes.
PUBLISHED = {
    "data.max_caption_len": 50,
    "data.max_labels_len": 50,
    "data.max_regions": 34,
    "data.shuffle": True,
    "model.dtype": "float32",
    "model.dropout": 0.1,
    "model.backbone_dropout": None,  # the backbone's own, 0.1
    "model.num_layers": 2,
    "model.num_heads": 4,
    "learned_loss_weights": False,
    "ranking_loss": "hinge",
    "margin": 0.2,
    "hardest": True,
    "pooling": "MrSw",
    "measure": "dot",
    "distillation_mode": "listnet",
    "activate_distillation_after": 0,
    "batch_size": 32,
    "num_epochs": 20,
    "num_steps": None,
    "learning_rate": 1e-5,
    "lr_gamma": 0.1,
    "warmup_steps": 0,
    "grad_clip": 2.0,
    "seed": 88,
    "log_every": 10,
    "eval_every": 7000,
    "eval.split": "test",
    "eval.validation_split": "minival",
    "eval.image_keys": "",
    "eval.num_folds": 5,
    "eval.fold_size": 1000,
}
# What the original does not have: where files are, and how things are computed and kept.
OURS = {
    *("init_from", "resume_from", "reinitialize_scheduler", "data.dir", "data.num_threads", "data.num_workers"),
    *("data.prefetch", "model.vocabulary", "micro_batches", "fsdp", "remat", "pack_tokens", "checkpoint_every"),
    *("profile_steps", "compilation_cache", "eval.batch_size"),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_field_of_a_regime_is_the_originals_published_value(name):
    weights, frozen, epochs = TABLE[name]
    found = flattened(name)
    expected = PUBLISHED | {"frozen": frozen, "lr_step_epochs": epochs}
    expected |= {f"loss_weights.{loss}": weights.get(loss, 0.0) for loss in ("alignment", "matching", "distillation")}
    assert {field: value for field, value in found.items() if field not in OURS} == expected
    assert {field: found[field] for field in OURS} == {field: COMMON[field] for field in OURS}


def test_the_original_would_write_the_same_configuration_into_its_checkpoint():
    """The YAML in a checkpoint of the regime, but for the batch of 8 that it was made with."""
    content = load_torch(E2E / "checkpoint_as_saved.pth.tar")
    settings = importlib.import_module("configs.alignment_and_matching_distill").get_config().to_dict()
    model = read_vinvl(E2E / "vinvl", E2E / "checkpoint_as_saved.pth.tar").model_config
    found = original_config(settings, model)
    found["training"] |= {"bs": 8, "warmup-period": 1000}  # of no effect without a warm-up
    assert found == content["config"]


def test_there_is_a_configuration_for_every_regime_of_the_original():
    assert TABLE.keys() == REGIMES.keys()
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert files == {*TABLE, "common", "demo", "__init__"}


def changed(name, **fields):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(fields)
    return config


@pytest.mark.parametrize("field", configuration.AT_LEAST_ONE)
def test_a_count_of_nothing_is_refused_by_name(field):
    with pytest.raises(ValueError, match=rf"{re.escape(field)} is 0; it must be at least 1"):
        configuration.check_ranges(changed("alignment_triplet", **{field: 0}))


@pytest.mark.parametrize("field", configuration.NOT_NEGATIVE)
def test_a_negative_number_is_refused_by_name(field):
    value = -type(COMMON[field])(1)
    with pytest.raises(ValueError, match=rf"{re.escape(field)} is {value}; it must be at least 0"):
        configuration.check_ranges(changed("alignment_triplet", **{field: value}))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("alignment_triplet", {"frozen": ("backbon",)}, "frozen has 'backbon'; choose among backbone, matching_head"),
        ("alignment_triplet", {"frozen": ("backbone",)}, "frozen is .*, which leaves nothing that alignment could tra"),
        ("matching_distill_finetune", {"activate_distillation_after": 1}, "is 1, but there is no other loss to train"),
        ("common", {}, "all loss weights are 0; give at least one of alignment, matching, distillation"),
        ("alignment_triplet", {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_run_that_could_train_nothing_ends_before_it_leaves_a_trace(tmp_path, name, fields, message):
    with pytest.raises(ValueError, match=message):
        train(changed(name, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", TABLE)
def test_the_regimes_themselves_pass_the_checks(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    configuration.check_ranges(config)
    configuration.check_training(config)


def test_an_unknown_field_on_the_command_line_is_refused(tmp_path):
    flags = ["--config", "configs/alignment_triplet.py", "--workdir", str(tmp_path / "run"), "--config.learning_rat=1"]
    done = subprocess.run(
        [sys.executable, "-m", "aladin_jax.main", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "learning_rat" in done.stderr
    assert not (tmp_path / "run").exists()
