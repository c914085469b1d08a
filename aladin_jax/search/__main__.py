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
from aladin_jax.search.flags import FLAGS, check
from aladin_jax.signals import exit_on_interrupt

# Before NumPy is imported: waiting threads of its OpenBLAS spin, so that XLA's get no core: re-ranking took ten times
# as long, and encoding twice.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

COMMANDS = {
    "index": "make an index of a data set's split; run again after a kill, it goes on",
    "query": "pictures for words, or captions for a picture",
    "add": "append a split to an index",
    "delete": "take images out of all results",
    "merge": "join segments, and drop what is deleted",
    "verify": "check sums, counts and vectors",
    "info": "say what an index holds",
    "tradeoff": "recall and latency against re-ranking depth",
    "serve": "answer on a web page and a JSON API",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aladin_jax.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, about in COMMANDS.items():
        FLAGS[name](chosen.add_parser(name, help=about, description=about.capitalize() + "."))
    options = parser.parse_args(arguments)
    try:
        check_local_options(options)
        check(options)
        module = "query_commands" if options.command in ("query", "tradeoff", "serve") else "commands"
        return importlib.import_module(f"aladin_jax.search.{module}").RUN[options.command](options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    exit_on_interrupt("the same command goes on where it was, or starts again")
    sys.exit(main())
