"""Trains and evaluates: `python -m aladin_jax.main --config configs/NAME.py --workdir DIR [--mode train|evaluate]`."""

import itertools
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

# TensorFlow only writes event files here; it would speak of the CPU it finds.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from absl import app, flags, logging
from ml_collections import config_flags

from aladin_jax.config import Config
from aladin_jax.files import check_local
from aladin_jax.logs import show_our_messages
from aladin_jax.signals import exit_on_interrupt

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

HELP = {"-h", "-?", "-help", "--help", "-helpshort", "--helpshort"}
FIELDS = "configs/common.py explains the fields of --config"


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; what is wrong with it ends in one line, `--help` with exit code 0."""
    if HELP & set(argv):
        print(f"{__doc__}\n{flags.FLAGS.main_module_help()}\n{FIELDS}, with their defaults.")
        sys.exit(0)
    files = [
        argument.partition("=")[2] or following
        for argument, following in itertools.pairwise([*argv, ""])
        if re.match(r"--?config(=|$)", argument)
    ]
    if len(files) > 1:
        fail(f"--config is given {len(files)} times; name one file, and change its fields with --config.FIELD=VALUE")
    for file in files:
        if not Path(file.partition(":")[0]).is_file():
            fail(f"--config {file}: no such file; those of the regimes are in configs/")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        fail(str(error))
    except (AttributeError, KeyError) as error:  # of ConfigDict, which may know a field of nearly that name
        reason = error.args[0]
        reason = str(reason.args[0] if isinstance(reason, KeyError) else reason).replace("\nDid", "; did")
        fail(f"--config has no field {reason}; {FIELDS}")
    except Exception as error:  # whatever a configuration file does
        fail(f"--config {' '.join(files)}: {type(error).__name__}: {error}")


def main(argv: list[str]) -> None:
    """Runs the mode; what the user can mend ends in one line on stderr and exit code 1."""
    try:
        if len(argv) > 1:
            raise ValueError(f"unknown argument {argv[1]!r}")
        config, workdir = Config.from_dict(_CONFIG.value.to_dict()), Path(str(_WORKDIR.value))
        if not config.data.dir:
            raise ValueError(
                "data.dir is empty; name a prepared data set, --config.data.dir=DIR (python -m convert.coco_ir or "
                "convert.features makes one)"
            )
        for path in (
            str(workdir),
            config.init_from,
            config.resume_from,
            config.data.dir,
            config.eval.image_keys,
            config.eval.rankings,
            config.eval.caption_ids,
            config.eval.pmrp_dir,
            config.eval.relevance,
            config.model.vocabulary,
        ):
            check_local(path)
        show_our_messages()
        _join_processes()
        if _MODE.value == "train":
            from aladin_jax.training.loop import train

            train(config, workdir)
        else:
            from aladin_jax.evaluation.report import evaluate

            evaluate(config, workdir, given=config_flags.get_override_values(flags.FLAGS["config"]))
    except (ValueError, FloatingPointError, OSError) as error:
        logging.debug("", exc_info=True)
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the program with one line on stderr."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(1)


def _join_processes() -> None:
    if not (_COORDINATOR.value or _DISTRIBUTED.value):
        return
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # for processes without accelerators
    jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)


if __name__ == "__main__":
    exit_on_interrupt("nothing was changed; the same command starts again")  # training saves first: see `preemption`
    app.run(main, flags_parser=parse)
