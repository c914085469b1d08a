"""Search your own pictures: index them, ask with words or with a picture, keep the index, serve it.

python -m aladin_jax.search index --checkpoint W --data DIR [--split test] [--images DIR] --output INDEX
python -m aladin_jax.search query --index INDEX "two dogs on a red sofa"
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from aladin_jax.files import check_local_options
from aladin_jax.search.flags import COMMANDS, check
from aladin_jax.signals import exit_on_interrupt

# Before NumPy is imported: waiting threads of its OpenBLAS spin, so that XLA's get no core: re-ranking took ten times
# as long, and encoding twice.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aladin_jax.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (about, add_flags, _) in COMMANDS.items():
        add_flags(chosen.add_parser(name, help=about, description=about.capitalize() + "."))
    options = parser.parse_args(arguments)
    try:
        check_local_options(options)
        check(options)
        *_, module = COMMANDS[options.command]
        return getattr(importlib.import_module(f"aladin_jax.search.{module}"), f"run_{options.command}")(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    exit_on_interrupt("the same command goes on where it was, or starts again")
    sys.exit(main())
