"""Every field is used and explained; a regime changes what the paper's table says; impossible values are refused."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aladin_jax import configuration
from aladin_jax.training.loop import train
from tests.golden_data import REGIMES

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


@pytest.mark.parametrize("name", TABLE)
def test_a_regime_changes_only_losses_frozen_parts_and_schedule(name):
    weights, frozen, epochs = TABLE[name]
    expected = COMMON | {f"loss_weights.{loss}": weight for loss, weight in weights.items()}
    expected |= {"frozen": frozen, "lr_step_epochs": epochs}
    found = flattened(name)
    if "alignment" in weights and "distillation" in weights:  # the only one in which a loss may wait for another
        expected["activate_distillation_after"] = found["activate_distillation_after"]
    assert found == expected


def test_there_is_a_configuration_for_every_regime_of_the_original():
    assert TABLE.keys() == REGIMES.keys()
    files = {path.stem for path in (ROOT / "configs").glob("*.py")}
    assert files == {*TABLE, "common", "demo", "__init__"}


def test_the_defaults_are_the_originals():
    expected = {
        "learning_rate": 1e-5,
        "grad_clip": 2.0,
        "batch_size": 32,
        "num_epochs": 20,
        "warmup_steps": 0,
        "seed": 88,
        "margin": 0.2,
        "hardest": True,
        "pooling": "MrSw",
        "measure": "dot",
        "distillation_mode": "listnet",
        "model.dropout": 0.1,
        "data.max_caption_len": 50,
        "data.max_labels_len": 50,
        "data.max_regions": 34,
        "lr_gamma": 0.1,
    }
    assert {field: COMMON[field] for field in expected} == expected


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
