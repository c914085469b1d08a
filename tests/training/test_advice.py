"""What is said before a run that a night would be lost to, and nothing before others."""

import importlib

import pytest

from aladin_jax.config import Config
from aladin_jax.evaluation.protocol import warn_of_few_images
from aladin_jax.lineage import Stage, random_weights
from aladin_jax.training.advice import warn_of_start
from aladin_jax.training.setup import make_objective

CONVERTED = (Stage("VinVL", ()),)
ALIGNED = (*CONVERTED, Stage("runs/alignment", ("alignment",)))
UNTAUGHT, HARDEST = "was never trained", "hardest negatives teach random weights nothing"


@pytest.mark.parametrize(
    ("name", "fields", "lineage", "said"),
    [
        ("matching_distill_finetune", {"init_from": "vinvl"}, CONVERTED, UNTAUGHT),
        ("matching_distill_finetune", {}, random_weights(0), UNTAUGHT),
        ("matching_distill_finetune", {"init_from": "runs/alignment"}, ALIGNED, None),
        ("matching_distill_finetune", {"init_from": "unknown"}, (), None),
        ("alignment_and_matching_distill", {"init_from": "vinvl"}, CONVERTED, None),
        ("alignment_triplet", {}, random_weights(0), HARDEST),
        ("matching_triplet_e2e", {}, random_weights(0), HARDEST),
        ("alignment_triplet", {"hardest": False}, random_weights(0), None),
        ("alignment_triplet", {"ranking_loss": "info_nce"}, random_weights(0), None),
        ("alignment_triplet", {"hardest_after": 100}, random_weights(0), None),
        ("alignment_triplet", {"init_from": "vinvl"}, CONVERTED, None),
    ],
)
def test_a_start_that_teaches_nothing_is_said(name, fields, lineage, said, caplog):
    values = importlib.import_module(f"configs.{name}").get_config()
    values.update(fields)
    config = Config.from_dict(values.to_dict())
    with caplog.at_level("WARNING", logger="absl"):
        warn_of_start(config, make_objective(config), lineage)
    if said:
        assert said in caplog.text
    else:
        assert not caplog.records


@pytest.mark.parametrize(("images", "said"), [(5, "R@5, R@10"), (8, "R@10"), (11, None)])
def test_fewer_images_than_a_recall_looks_at_are_said(images, said, caplog):
    with caplog.at_level("WARNING", logger="absl"):
        warn_of_few_images("minival", images, "validated on")
    if said:
        assert f"text to image, {said} is 100 whatever the model does" in caplog.text
    else:
        assert not caplog.records
