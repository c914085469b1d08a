"""The command line on eight devices, with parameters shared out, and then on fewer."""

import os

from aladin_jax.weights import newest_step
from tests.end_to_end.command_line import command
from tests.golden_data import e2e_expected
from tests.processes import run

REGIME = "alignment_and_matching_distill"
STEPS = 8  # an epoch of seven, whose last batch has fewer pairs than there are devices, and one with a new loss


def test_eight_devices_and_then_two_train_as_the_original_did(small_run, scalars, differences, tmp_path, monkeypatch):
    settings = {"activate_distillation_after": 1, "lr_step_epochs": 1}
    workdir, flags = tmp_path / "run", os.environ["XLA_FLAGS"]
    for devices, steps in ((8, 7), (2, STEPS)):
        monkeypatch.setenv("XLA_FLAGS", f"{flags} --xla_force_host_platform_device_count={devices}")
        config = small_run(REGIME, num_steps=steps, **settings)
        file = tmp_path / f"{devices}.log"
        assert run(*command(REGIME, workdir, config, "--config.fsdp=2"), log=file) == 0
        log = file.read_text()
        # The table of parameters, once, at the first start, shows how they are shared out.
        assert ("'fsdp'" in log) == ("Total: " in log) == (devices == 8)
        assert newest_step(workdir / "checkpoints") == steps
    assert "Going on from step 7" in log
    found = scalars(workdir)
    for step, expected in enumerate(e2e_expected()["two_epochs"]["steps"][:STEPS], start=1):
        for name, value in expected.items():
            if name.startswith("loss"):
                tag = f"train/{name.replace('/', '_')}"
                differences.check("eight devices, then two: losses", found[tag][step], value, rtol=2e-3)
        norm = found["train/grad_norm"][step]
        differences.check("eight devices, then two: gradient norms", norm, expected["grad_norm"], rtol=1e-3)
