"""A regime changes what the paper's table says; impossible values are refused."""

import importlib
import re
import typing
from pathlib import Path

import pytest

from aladin_jax import config as fields
from aladin_jax import losses
from aladin_jax.checked import Within
from aladin_jax.config import Config
from aladin_jax.models.aladin import MODEL_GROUPS
from aladin_jax.scores import similarity
from aladin_jax.training import objective
from aladin_jax.training.loop import train
from convert.original import original_config
from convert.sources import read_vinvl
from convert.torch_files import load_torch
from tests.golden_data import E2E, REGIMES

ROOT = Path(__file__).parents[1]


def flattened(name):
    config = importlib.import_module(f"configs.{name}").get_config()

    def walk(node, prefix):
        for key in node:
            value = node[key]
            yield from walk(value, f"{prefix}{key}.") if hasattr(value, "to_dict") else [(f"{prefix}{key}", value)]

    return dict(walk(config, ""))


COMMON = flattened("common")


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
    "lr_cooldown": 0.0,
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
    *("profile_steps", "compilation_cache", "eval.batch_size", "model.kernels", "eval.override"),
    *("eval.metrics", "eval.rankings", "eval.ranking_length", "eval.caption_ids", "eval.pmrp_dir", "eval.relevance"),
    *("hardest_after", "mask_same_image"),
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
    assert files == {*TABLE, "common", "demo", "improved", "__init__"}


def test_the_improved_regime_changes_how_the_same_model_is_taught_and_nothing_else():
    found, original = flattened("improved"), flattened("alignment_and_matching_distill")
    changed = {field for field in original if found[field] != original[field]}
    assert changed == {
        *("loss_weights.matching", "hardest_after", "mask_same_image", "warmup_steps", "lr_cooldown", "lr_step_epochs")
    }
    Config.from_dict(importlib.import_module("configs.improved").get_config().to_dict())


def changed(name, **fields):
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(fields)
    return config


def bounded(kind, section=""):
    """The fields of a dataclass that are numbers, with their bounds."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        if hasattr(hint, "__dataclass_fields__"):
            yield from bounded(hint, f"{section}{name}.")
        for part in (hint, *typing.get_args(hint)):
            if typing.get_origin(part) is typing.Annotated:
                yield f"{section}{name}", *typing.get_args(part)


BOUNDED = {field: (kind, bounds) for field, kind, bounds in bounded(Config)}


@pytest.mark.parametrize("field", BOUNDED)
def test_a_number_out_of_its_bounds_is_refused_by_name(field):
    kind, bounds = BOUNDED[field]
    least, below = Within(*bounds)
    value = kind(least - 1)
    with pytest.raises(ValueError, match=rf"^{re.escape(field)} is {value}; it must be at least {least}"):
        Config.from_dict(changed("alignment_triplet", **{field: value}).to_dict())
    if below != float("inf"):
        with pytest.raises(ValueError, match=rf"^{re.escape(field)} is {below}.*; it must be .* below {below}$"):
            Config.from_dict(changed("alignment_triplet", **{field: kind(below)}).to_dict())


def test_counts_and_rates_are_bounded():
    at_least_one = {field for field, (_, bounds) in BOUNDED.items() if bounds.least == 1}
    assert {"batch_size", "micro_batches", "num_epochs", "num_steps", "log_every", "checkpoint_every"} <= at_least_one
    assert {"data.max_regions", "eval.fold_size", "eval.batch_size"} <= at_least_one
    not_negative = {field for field, (_, bounds) in BOUNDED.items() if bounds.least == 0}
    assert {"learning_rate", "lr_step_epochs", "warmup_steps", "seed", "eval_every", "model.dropout"} <= not_negative
    assert {"activate_distillation_after", "profile_steps", "eval.num_folds", "loss_weights.matching"} <= not_negative


IMPOSSIBLE = [
    ({"frozen": ("backbon",)}, "frozen has 'backbon'; choose among backbone, matching_head"),
    ({"model.dtype": "float16"}, "model.dtype is 'float16'; choose one of float32, bfloat16"),
    ({"model.kernels": "triton"}, "model.kernels is 'triton'; choose one of auto, xla, pallas"),
    ({"ranking_loss": "triplet"}, "ranking_loss is 'triplet'; choose one of hinge, info_nce"),
    ({"pooling": "max"}, "pooling is 'max'; choose one of MrSw"),
    ({"measure": "l2"}, "measure is 'l2'; choose one of dot, cosine, order"),
    ({"distillation_mode": "kl"}, "distillation_mode is 'kl'; choose one of listnet"),
    ({"eval.metrics": ("recall", "mrr")}, "eval.metrics has 'mrr'; choose among recall, eccv, ndcg"),
    ({"eval.relevance": "grades.csv"}, "eval.relevance is set, but eval.metrics has no ndcg"),
    ({"learning_rate": float("nan")}, "learning_rate is nan; expected a finite number"),
]


@pytest.mark.parametrize(("change", "message"), IMPOSSIBLE, ids=[next(iter(change)) for change, _ in IMPOSSIBLE])
def test_an_impossible_value_is_refused_with_the_field_and_the_choices(change, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}"):
        Config.from_dict(changed("alignment_triplet", **change).to_dict())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("matching_distill_finetune", {"activate_distillation_after": 1}, "is 1, but there is no other loss to train"),
        ("common", {}, "all loss weights are 0; give at least one of alignment, matching, distillation"),
    ],
)
def test_losses_that_no_epoch_could_train_with_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        Config.from_dict(changed(name, **change).to_dict())


def test_a_run_that_could_train_nothing_ends_before_it_leaves_a_trace(tmp_path):
    config = Config.from_dict(changed("alignment_triplet", frozen=("backbone",)).to_dict())
    with pytest.raises(ValueError, match=r"frozen is .*, which leaves nothing that alignment could train"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_value_of_another_type_or_a_missing_field_is_refused_by_name():
    given = changed("alignment_triplet").to_dict()
    for value, expected in ((3.5, "a whole number"), (True, "a whole number"), ("8", "a whole number")):
        with pytest.raises(ValueError, match=f"^batch_size is {value!r}; expected {expected}"):
            Config.from_dict({**given, "batch_size": value})
    with pytest.raises(ValueError, match=r"^there is no field data\.shuffle"):
        Config.from_dict({**given, "data": {name: x for name, x in given["data"].items() if name != "shuffle"}})
    with pytest.raises(ValueError, match="unknown field 'batch_sise'"):
        Config.from_dict({**given, "batch_sise": 3})


def test_choices_are_those_of_the_functions_behind_them():
    choices = typing.get_args
    assert choices(fields.Pooling) == choices(similarity.Pooling)
    assert choices(fields.Measure) == choices(similarity.Measure)
    assert choices(fields.DistillationMode) == choices(losses.DistillationMode)
    assert choices(fields.RankingLoss) == choices(objective.RankingLoss)
    assert choices(fields.Group) == MODEL_GROUPS


@pytest.mark.parametrize("name", [*TABLE, "demo"])
def test_the_regimes_themselves_pass_the_checks(name):
    assert Config.from_dict(changed(name).to_dict()).to_dict() == changed(name).to_dict()
