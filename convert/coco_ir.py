"""Converts captions and region features in VinVL's format to the TFDS data set `coco_ir`.

python -m convert.coco_ir [--data_dir DIR/coco_ir] --img_feat_file DIR/features.tsv --output DIR
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.command import UsageError, run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 after an error that the user can mend, which is printed."""
    parser = argparse.ArgumentParser(
        prog="python -m convert.coco_ir",
        description="Captions and region features in VinVL's format -> the TFDS data set coco_ir. "
        "Interrupted, it can be run again.",
    )
    parser.add_argument(
        "--data_dir", type=Path, help="folder with {train,minival,test}_captions.pt; without it, images to be searched"
    )
    parser.add_argument(
        "--img_feat_file",
        required=True,
        type=Path,
        help="features.tsv, with its index and predictions.tsv where they are; or the detector's predictions.tsv alone",
    )
    parser.add_argument("--output", required=True, type=Path, help="folder that the data set is written to")
    parser.add_argument("--feature_dim", type=int, default=2054, help="width of a region (%(default)s)")
    parser.add_argument("--float16", action="store_true", help="regions in half the space, rounded to 11 bits")
    parser.add_argument("--overwrite", action="store_true", help="first remove a data set that is there already")
    workers = parser.add_mutually_exclusive_group()
    workers.add_argument("--num_workers", type=int, help="processes that write (one per CPU core)")
    workers.add_argument(
        "--beam_pipeline_options",
        metavar="NAME=VALUE,...",
        help="write with Apache Beam, e.g. runner=FlinkRunner,parallelism=8; its machines must see the same folders",
    )
    return run(parser, _prepare, argv)


def _prepare(args: argparse.Namespace) -> None:
    from convert.importing.recognise import recognise_features

    for name in ("feature_dim", "num_workers"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise UsageError(f"--{name} {value}: must be at least 1")
    features, _ = recognise_features(args.img_feat_file, "vinvl")
    if args.data_dir is None or features == "predictions":
        return _import(args)
    from convert.dataset import coco_ir

    beam_options = None
    if args.beam_pipeline_options:
        from convert.dataset.record_beam import pipeline_options

        beam_options = pipeline_options(args.beam_pipeline_options)
    prepared = coco_ir.prepare(
        args.data_dir,
        args.img_feat_file,
        args.output,
        feature_dim=args.feature_dim,
        float16=args.float16,
        overwrite=args.overwrite,
        num_workers=args.num_workers or len(os.sched_getaffinity(0)),
        beam_options=beam_options,
    )
    print(prepared)


def _import(args: argparse.Namespace) -> None:
    """What has no captions or no features.tsv goes the way of all other formats."""
    from convert import features

    arguments = ["--format", "vinvl", "--features", str(args.img_feat_file), "--output", str(args.output)]
    arguments += ["--captions_format", "coco_ir", "--captions", str(args.data_dir)] if args.data_dir else []
    arguments += [f"--{name}" for name in ("float16", "overwrite") if getattr(args, name)]
    features.prepare(features.make_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
