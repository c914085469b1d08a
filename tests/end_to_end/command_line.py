"""Runs `python -m aladin_jax.main` in a process of its own."""

import functools
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]

# For tests of what happens around the steps.
LITTLE_TO_COMPUTE = {"data.max_caption_len": 24, "data.max_labels_len": 12, "data.max_regions": 6}


def command(config_name, workdir, config, *flags):
    """The command line of a regime with the fields of a shrunken configuration."""
    fields = ("init_from", "data.dir", "data.shuffle", "model.dropout", "batch_size", "num_steps", "learning_rate")
    fields += ("activate_distillation_after", "lr_step_epochs", "pack_tokens", "log_every", "eval_every")
    fields += ("checkpoint_every", "compilation_cache", "eval.image_keys", "resume_from", "reinitialize_scheduler")
    fields += ("data.max_caption_len", "data.max_labels_len", "data.max_regions", "model.backbone_dropout")
    values = {field: functools.reduce(getattr, field.split("."), config) for field in fields}
    overrides = [f"--config.{field}={value}" for field, value in values.items() if value is not None]
    main = [sys.executable, "-m", "aladin_jax.main", "--config", f"configs/{config_name}.py"]
    return [*main, "--workdir", str(workdir), *overrides, *flags]


def start(arguments, log):
    """Starts a process whose output goes to a file."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    with open(log, "ab") as output:
        return subprocess.Popen(arguments, stdout=output, stderr=output, cwd=ROOT, env=environment)


def run(arguments, log):
    """Runs a process to its end; returns its exit status."""
    return start(arguments, log).wait(timeout=300)


def wait_for(path, process, seconds=240):
    """Waits until a file or folder exists, while the process runs."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"ended with status {process.returncode} before {path}"
        assert time.monotonic() < deadline, f"no {path} after {seconds} s"
        time.sleep(0.02)
