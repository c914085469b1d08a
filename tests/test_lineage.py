"""Which heads a model's training has reached is known from what it comes from."""

import json

import pytest

from aladin_jax import lineage
from aladin_jax.lineage import Stage


def converted(folder, fresh=(), **provenance):
    folder.mkdir()
    (folder / "provenance.json").write_text(json.dumps({"tensors": {"fresh": list(fresh)}, **provenance}))
    return lineage.lineage_of_model_folder(folder)


def test_a_backbone_alone_has_no_trained_head_and_an_aladin_checkpoint_both(tmp_path, golden_folder):
    backbone = converted(tmp_path / "vinvl", ["matching_head/layers/qkv/kernel"])
    assert lineage.untrained_heads(backbone) == ("matching", "alignment")
    assert lineage.untrained_heads(lineage.lineage_of_model_folder(golden_folder / "model")) == ()


def test_a_checkpoint_of_the_alignment_loss_alone_has_no_trained_matching_head(tmp_path):
    settings = {"config": {"training": {"loss-type": "alignment"}}}
    assert lineage.untrained_heads(converted(tmp_path / "aladin", checkpoint=settings)) == ("matching",)


def test_a_folder_that_does_not_say_where_it_is_from_is_not_blamed(tmp_path):
    assert lineage.untrained_heads(lineage.lineage_of_model_folder(tmp_path)) == ()
    assert lineage.untrained_heads(lineage.lineage_of_workdir(tmp_path, 5)) == ()


@pytest.mark.parametrize(("step", "untrained"), [(10, ("matching",)), (11, ())])
def test_a_head_is_trained_once_its_loss_has_acted(tmp_path, step, untrained):
    lineage.write_lineage(tmp_path, lineage.random_weights(88), {"alignment": 0, "distillation": 10})
    found = lineage.lineage_of_workdir(tmp_path, step)
    assert found[0] == Stage("random weights, seed 88", ())
    assert lineage.untrained_heads(found) == untrained


def test_what_an_ancestor_trained_counts_when_it_is_gone(tmp_path):
    lineage.write_lineage(tmp_path, (Stage("runs/gone", ("alignment",)),), {"distillation": 0})
    assert lineage.untrained_heads(lineage.lineage_of_workdir(tmp_path, 1)) == ()


@pytest.mark.parametrize("content", ["{}", '{"run": {"alignment": "x"}}', '{"run": {}, "ancestors": [1]}', "["])
def test_a_damaged_lineage_is_an_error_that_names_the_file(tmp_path, content):
    (tmp_path / "lineage.json").write_text(content)
    with pytest.raises(ValueError, match=r"lineage\.json"):
        lineage.lineage_of_workdir(tmp_path, 1)
