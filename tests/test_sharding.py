"""One device and eight, with parameters on all or shared out, give the same losses, gradients and parameters."""

import os

import jax
import numpy as np
import pytest

from aladin_jax import sharding
from tests.processes import run
from tests.sharded_runs import MESHES

EIGHT = ("4x2", "2x4", "fused 4x2")
ONE = {"4x2": "1", "2x4": "1", "fused 4x2": "fused 1"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The results of tests/sharded_runs.py by mesh."""
    folder = tmp_path_factory.mktemp("sharding")
    file, log = folder / "runs.npz", folder / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8")
        assert run("tests.sharded_runs", file, log=log) == 0, log.read_text()
    with np.load(file) as data:
        results = dict(data)
    return {
        mesh: {name.removeprefix(f"{mesh}/"): array for name, array in results.items() if name.startswith(f"{mesh}/")}
        for mesh in MESHES
    }


def of_kind(run, kind):
    return {name.removeprefix(f"{kind}/"): array for name, array in run.items() if name.startswith(f"{kind}/")}


@pytest.mark.parametrize("mesh", EIGHT)
def test_losses_and_norms_of_every_step_are_those_of_one_device(runs, mesh):
    for step in range(MESHES[mesh][2]):
        for name in ("loss", "loss_alignment", "loss_matching", "loss_distillation", "grad_norm"):
            expected = runs[ONE[mesh]][f"{name}/{step}"]
            np.testing.assert_allclose(runs[mesh][f"{name}/{step}"], expected, rtol=2e-5, err_msg=f"{name} {step}")


@pytest.mark.parametrize("mesh", EIGHT)
def test_gradients_are_those_of_one_device(runs, mesh):
    expected, found = of_kind(runs[ONE[mesh]], "gradient"), of_kind(runs[mesh], "gradient")
    assert expected.keys() == found.keys() > {"backbone/layers/qkv/kernel", "matching_head/layers/qkv/kernel"}
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0
        np.testing.assert_allclose(found[name], gradient, atol=1e-5 * np.abs(gradient).max(), err_msg=name)


def test_parameters_after_four_steps_are_those_of_one_device(runs):
    expected, found = of_kind(runs["1"], "params"), of_kind(runs["4x2"], "params")
    for name, params in expected.items():
        if name.endswith("qkv/bias"):
            # The keys' bias has no gradient but rounding (a softmax does not see it), which Adam makes whole steps of.
            for third in (0, 2):
                parts = (np.split(array, 3, axis=-1)[third] for array in (found[name], params))
                np.testing.assert_allclose(*parts, atol=2e-6, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], params, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("mesh", EIGHT)
@pytest.mark.parametrize("kind", ["params", "moments"])
def test_large_arrays_are_shared_out_and_small_ones_on_every_device(runs, mesh, kind):
    whole, parts = of_kind(runs[ONE[mesh]], kind), of_kind(runs[mesh], f"{kind}_on_each_device")
    assert parts.keys() == whole.keys()
    for name, sizes in parts.items():
        size = whole[name].size
        shared = size >= sharding.MIN_SHARDED_SIZE
        assert sizes.tolist() == [size // MESHES[mesh][1] if shared else size] * 8, name
    assert sum(len(set(sizes)) == 1 and sizes[0] < whole[name].size for name, sizes in parts.items()) >= 7


@pytest.mark.parametrize("fsdp", [0, 2])
def test_devices_that_cannot_be_divided_are_refused(fsdp):
    with pytest.raises(ValueError, match=rf"fsdp is {fsdp}; it must divide the number of devices, 1"):
        sharding.make_mesh(fsdp, jax.devices()[:1])
