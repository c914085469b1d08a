"""Every regime's configuration trains on the golden files as the original did."""

import numpy as np
import pytest

from aladin_jax.training.initial import initial_weights
from aladin_jax.training.loop import train
from aladin_jax.weights import read_weights
from tests.golden_data import REGIMES, converted, e2e_expected


@pytest.mark.parametrize("name", REGIMES)
def test_a_regime_s_first_steps_are_the_original_s_and_what_is_frozen_stays(
    name, small_run, scalars, differences, tmp_path
):
    config = small_run(name, num_steps=4)
    train(config, tmp_path)
    found, before, trained = scalars(tmp_path), converted("e2e").params, read_weights(tmp_path)[0]
    for group in trained:
        stays = np.array_equal(*(params[group]["layers"]["qkv"]["kernel"] for params in (before, trained)))
        assert stays == (group in config.frozen or (name, group) == ("alignment_triplet", "matching_head"))
    for step, expected in enumerate(e2e_expected()["train"][REGIMES[name]], start=1):
        differences.check("e2e loss of 4 steps", found["train/loss"][step], expected["loss"], rtol=2e-3)
        differences.check("e2e gradient norm", found["train/grad_norm"][step], expected["grad_norm"], rtol=1e-3)
        for key in (key for key in expected if key.startswith("loss/")):
            tag = f"train/loss_{key.removeprefix('loss/')}"
            differences.check("e2e loss components", found[tag][step], expected[key], rtol=2e-3)


def test_two_epochs_with_a_late_distillation_and_a_learning_rate_drop_are_the_original_s(
    small_run, scalars, differences, tmp_path, capsys
):
    config = small_run(
        "alignment_and_matching_distill", num_epochs=2, activate_distillation_after=1, lr_step_epochs=1, eval_every=7
    )
    train(config, tmp_path)
    found = scalars(tmp_path)
    steps = e2e_expected()["two_epochs"]["steps"]
    assert sorted(found["train/loss"]) == list(range(1, len(steps) + 1))
    assert sorted(found["train/loss_distillation"]) == list(range(8, 15))
    for step, expected in enumerate(steps, start=1):
        differences.check("two epochs, loss", found["train/loss"][step], expected["loss"], rtol=2e-3)
        differences.check("two epochs, gradient norm", found["train/grad_norm"][step], expected["grad_norm"], rtol=1e-3)
        rate = found["train/learning_rate"][step]
        differences.check("two epochs, learning rate", rate, expected["learning_rate"], rtol=1e-6)
    assert sorted(found["minival/matching/rsum"]) == [7, 14]
    printed = capsys.readouterr().out  # the table that evaluation prints
    assert [f"{found['minival/matching/rsum'][step]:.1f}" in printed for step in (7, 14)] == [True, True]
    assert printed.count("image to text") == 4

    # The workdir is what another run can start from: its best checkpoint, of the larger rsum of both heads.
    sums = {step: found["minival/matching/rsum"][step] + found["minival/alignment/rsum"][step] for step in (7, 14)}
    best = max(sums, key=lambda step: (sums[step], -step))
    params, model_config, vocabulary, described, *_ = read_weights(tmp_path)
    assert described == f"best checkpoint of {tmp_path}, step {best}"
    assert model_config.backbone.hidden_size == 64
    assert vocabulary is not None
    assert params.keys() == {"backbone", "matching_head"}


def test_a_frozen_backbone_needs_weights_to_start_from(small_run, tmp_path):
    config = small_run("matching_distill_finetune", init_from="", **{"model.vocabulary": "vocab.txt"})
    with pytest.raises(ValueError, match="frozen has 'backbone', whose weights would be random; set init_from"):
        train(config, tmp_path)


def test_regions_of_another_width_get_a_projection_of_their_own(small_run):
    params, model, *_ = initial_weights(small_run("alignment_triplet"), feature_dim=2048)
    assert params["backbone"]["region_projection"]["kernel"].shape == (2048, 64)
    assert model.backbone.img_feature_dim == 2048
    word = params["backbone"]["embeddings"]["word"]
    np.testing.assert_array_equal(word, converted("e2e").params["backbone"]["embeddings"]["word"])
