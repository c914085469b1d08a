"""Prepares the data set of drawn scenes, or draws a sheet of them to look at."""

import argparse
import os
import sys

from convert.command import UsageError, run


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--output", metavar="DIR", help="where the data set and vocab.txt go")
    parser.add_argument("--train", type=int, default=2000, metavar="N", help="pictures to train on")
    parser.add_argument("--minival", type=int, default=100, metavar="N", help="pictures to choose a checkpoint by")
    parser.add_argument("--test", type=int, default=200, metavar="N", help="pictures to report on")
    parser.add_argument("--seed", type=int, default=88, help="of everything that is drawn and said")
    parser.add_argument("--preview", metavar="FILE.png", help="also draw a sheet of test pictures")
    # Both are read when a library is first imported, thus here. Products of a few rows gain nothing from threads, and
    # lose much to them where others use the cores; TensorFlow, for TFDS, else speaks of the CPU it finds.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    return run(parser, _draw, arguments)


def _draw(options: argparse.Namespace) -> None:
    if not (options.output or options.preview):
        raise UsageError("nothing to do: give --output, --preview or both")
    if options.preview:
        from demo import preview

        preview.save(options.preview, seed=options.seed)
        print(f"{options.preview}: a sheet of pictures")
    if options.output:
        from demo import builder

        sizes = {"train": options.train, "minival": options.minival, "test": options.test}
        drawn = builder.prepare(options.output, sizes, options.seed)
        state = "is ready" if drawn else "was ready before; nothing to do"
        print(f"{options.output}: the data set of {sum(sizes.values())} pictures {state}")


if __name__ == "__main__":
    sys.exit(main())
