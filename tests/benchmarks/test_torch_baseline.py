"""The baseline of the benchmarks computes what the original computes."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from aladin_jax.models.backbone import BackboneConfig  # noqa: E402
from aladin_jax.models.matching_head import MatchingHeadConfig  # noqa: E402
from benchmarks import torch_baseline, torch_compiled  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden" / "unit"
PREFIXES = ("img_txt_enc.oscar_model.", "img_txt_enc.")


@pytest.fixture(autouse=True)
def single_thread():
    """Products this small only lose by being divided between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as data:
        return dict(data)


def load_batch(name: str) -> dict:
    with np.load(GOLDEN / "batches.npz") as data:
        batch = {key.split("/")[1]: torch.from_numpy(data[key]) for key in data.files if key.startswith(f"{name}/")}
    tags = batch["label_ids"].shape[1]
    return {**batch, "label_len": batch["image_mask"][:, :tags].sum(dim=1)}


def load_model() -> torch_baseline.BaselineModel:
    saved = torch.load(GOLDEN / "checkpoint.pth.tar", weights_only=False)["model"]
    model = torch_baseline.BaselineModel(
        BackboneConfig.from_dict(json.loads((GOLDEN / "vinvl" / "config.json").read_text())),
        MatchingHeadConfig(dropout=0.0),
    )
    weights = {}
    for name, tensor in saved.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        weights[name] = tensor
    missing = set(model.state_dict()) - set(weights)
    assert not missing
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model


def test_evaluation_scores_equal_the_originals_in_both_directions():
    with np.load(GOLDEN / "retrieval.npz") as data:
        golden = dict(data)
    images, captions = 10, 30
    regions, tokens = (
        torch_baseline.pad_for_evaluation(torch.from_numpy(golden[name][:n]))
        for name, n in (("region_embeddings", images), ("token_embeddings", captions))
    )
    assert regions.shape[1] == tokens.shape[1] == 71
    lengths = torch.from_numpy(golden["region_len"][:images]), torch.from_numpy(golden["caption_len"][:captions])
    for scores in torch_baseline.evaluation_scores(regions, lengths[0], tokens, lengths[1]):
        np.testing.assert_allclose(scores, golden["alignment_scores"][:images, :captions], atol=1e-5)


def test_embeddings_scores_and_alignment_loss_equal_the_originals(expected):
    model = load_model().eval()
    with torch.no_grad():
        out = model(load_batch("eval"))
        scores = torch_baseline.alignment_scores(out.regions, out.region_len, out.tokens, out.caption_len)
    np.testing.assert_allclose(out.image_vector, expected["forward/image_embedding"], atol=2e-5)
    np.testing.assert_allclose(out.caption_vector, expected["forward/caption_embedding"], atol=2e-5)
    np.testing.assert_allclose(scores, expected["alignment/MrSw/scores"], atol=1e-4)
    np.testing.assert_allclose(torch_baseline.hinge_triplet(scores), expected["alignment/MrSw/loss"], rtol=1e-4)


def test_three_training_steps_equal_the_originals(expected):
    model = load_model().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    step = torch_baseline.make_step(torch_baseline.original_losses(model), optimizer)
    assert_golden_steps(step, expected, load_batch)


@pytest.mark.parametrize("layout", torch_compiled.LAYOUTS)
def test_three_training_steps_without_the_padding_and_the_expansion_equal_the_originals(expected, layout):
    model = load_model().train()
    arrange, losses = torch_compiled.LAYOUTS[layout]
    step = torch_baseline.make_step(losses(model), torch_compiled.make_optimizer(model, 1e-4))

    def load(name):
        return arrange({key: value.numpy() for key, value in load_batch(name).items()}, "cpu")

    assert_golden_steps(step, expected, load)


def assert_golden_steps(step, expected, load):
    golden = {key.rsplit("/", 1)[1]: key for key in expected if key.startswith("train/alad-alignment-and-matching-dis")}
    for number in range(3):
        losses, norm = step(load(str(number)))
        for name, loss in losses.items():
            np.testing.assert_allclose(loss, expected[golden[name]][number], rtol=2e-3)
        np.testing.assert_allclose(norm, expected[golden["grad_norm"]][number], rtol=2e-3)


@pytest.mark.parametrize("layout", torch_compiled.LAYOUTS)
def test_forward_pass_and_losses_are_one_graph(layout):
    model = load_model().train()
    arrange, losses = torch_compiled.LAYOUTS[layout]
    batch = arrange({key: value.numpy() for key, value in load_batch("0").items()}, "cpu")
    found = torch._dynamo.explain(losses(model))(batch)
    assert found.graph_count == 1
    assert not found.break_reasons
