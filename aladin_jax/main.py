"""Flags and dispatch: `python -m aladin_jax.main --config configs/NAME.py --workdir DIR [--mode train|evaluate]`."""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before the import: TensorFlow only writes event files here

import jax
import tensorflow as tf
from absl import app, flags, logging
from ml_collections import config_flags

from aladin_jax.evaluation.report import evaluate
from aladin_jax.files import check_local
from aladin_jax.logs import show_our_messages
from aladin_jax.training.loop import train

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; --config.FIELD=VALUE changes a field.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, TensorBoard files, reports.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "evaluate"], "What to do.")
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes; with --num_processes and --process_id."
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes train together.", lower_bound=1)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.", lower_bound=0)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Find the other processes from the cluster's environment.")
flags.mark_flags_as_required(["config", "workdir"])

MODES = {"train": train, "evaluate": evaluate}


def main(argv: list[str]) -> None:
    """Runs the mode; what the user can mend ends in one line on stderr and exit code 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    show_our_messages()
    tf.config.set_visible_devices([], "GPU")  # the accelerator is JAX's
    if _COORDINATOR.value or _DISTRIBUTED.value:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for processes without accelerators
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    try:
        config = _CONFIG.value
        for path in (
            _WORKDIR.value,
            config.init_from,
            config.data.dir,
            config.eval.image_keys,
            config.model.vocabulary,
        ):
            check_local(path or "")
        MODES[_MODE.value](config, Path(str(_WORKDIR.value)))
    except (ValueError, FloatingPointError) as error:
        logging.debug("", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    app.run(main)
