r"""How do recalls depend on the lengths that captions, tags and regions are cut to? Which lengths are enough?

    python -m aladin_jax.sweep --checkpoint runs/alignment --data data/coco --split minival \
        --max_caption_len 20 30 50 --max_labels_len 10 30 50 --max_regions 10 20 34 --output sweep

Images and captions are encoded only as often as their own lengths change. A stopped sweep goes on by the same command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

from aladin_jax.config import LENGTHS
from aladin_jax.files import check_local_options
from aladin_jax.signals import exit_on_interrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aladin_jax.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True, metavar="W", help="a workdir, or a converted checkpoint")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a prepared data set")
    parser.add_argument("--split", default="minival", help="a split that nothing else is reported on (minival)")
    for name in LENGTHS:
        parser.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help="(the checkpoint's, or the original's)")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="for sweep.csv, sweep.png and all ranks"
    )
    options = parser.parse_args(argv)
    try:
        check_local_options(options)
        _sweep(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _sweep(options: argparse.Namespace) -> None:
    # JAX and Matplotlib are loaded once the arguments are known to be in order.
    from aladin_jax.data.dataset import open_dataset
    from aladin_jax.data.records import Split
    from aladin_jax.evaluation.length_report import report_lengths
    from aladin_jax.evaluation.lengths import grid, measure_lengths
    from aladin_jax.evaluation.protocol import warn_of_few_images
    from aladin_jax.lineage import explain_untrained
    from aladin_jax.pretrained import enable_compilation_cache, load

    enable_compilation_cache()
    model = load(options.checkpoint)
    split = Split(open_dataset(options.data), options.split, model.feature_dim)
    split.require_captions()
    for line in explain_untrained(model.lineage):
        logging.warning("%s", f"{line[0].upper()}{line[1:]}; left out of the table")
    warn_of_few_images(split.name, split.num_images, "compared on")
    asked = grid(model.settings, {name: getattr(options, name) for name in LENGTHS})
    measured = measure_lengths(model, split, asked, options.output)
    report_lengths(measured, model, split, options.output)


if __name__ == "__main__":
    exit_on_interrupt("the settings that are measured are kept; the same command goes on")
    sys.exit(main())
