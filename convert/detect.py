"""Makes the data set of your own pictures: a detector finds the regions. docs/features.md has the rest.

python -m convert.detect --images DIR --detector DIR --output DIR [--captions FILE]
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from convert.command import UsageError, run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 after an error that the user can mend, which is printed."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow, for TFDS, else speaks of the CPU it finds
    from convert.features import add_caption_arguments

    parser = argparse.ArgumentParser(
        prog="python -m convert.detect",
        description="Pictures and a detector of the DETR family -> the data set that training reads. "
        "Interrupted, it can be run again and goes on where it was.",
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="pictures, also in folders in it")
    parser.add_argument(
        "--detector", required=True, type=Path, metavar="DIR", help="config.json, preprocessor_config.json, weights"
    )
    add_caption_arguments(parser)
    parser.add_argument("--score_threshold", type=float, default=0.2, help="least score of a region (%(default)s)")
    parser.add_argument("--max_regions", type=int, default=50, help="regions kept of a picture (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures at once (%(default)s)")
    parser.add_argument("--device", help='such as "cuda" (that where there is one, else "cpu")')
    parser.add_argument("--output", required=True, type=Path, help="folder for the data set and what was found")
    parser.add_argument("--float16", action="store_true", help="regions in half the space, rounded to 11 bits")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return run(parser, _detect, argv, interrupted="interrupted; the same command goes on where it was")


def _detect(args: argparse.Namespace) -> None:
    from aladin_jax.image_names import FOLDER, image_id
    from aladin_jax.pictures import list_pictures
    from convert.detection.run import UNREADABLE, FoundFiles, Settings, checksum, detect_pictures
    from convert.features import captions_of, prepare_imported
    from convert.importing.source import ImportedSource

    if not 0 <= args.score_threshold < 1:
        raise UsageError(f"--score_threshold {args.score_threshold}: must be in [0, 1)")
    if not 1 <= args.max_regions <= 1000:
        raise UsageError(f"--max_regions {args.max_regions}: must be 1 to 1000")
    if args.batch_size < 1:
        raise UsageError(f"--batch_size {args.batch_size}: must be at least 1")
    pictures = {name: args.images / name for name in list_pictures(args.images)}
    if spelled := sum(image_id(name) != os.path.splitext(name)[0].replace("/", FOLDER) for name in pictures):
        print(f"note: {spelled} pictures have names that an id cannot spell: see docs/features.md", file=sys.stderr)
    files = FoundFiles(args.output / "detections", pictures)
    captions = captions_of(args, files.names(), args.images)
    # Before the long work, because it says which captions have no picture.
    source = ImportedSource(files, captions, skip_missing=args.skip_missing, numbered=False)
    # Before anything is written: a detector that cannot be loaded leaves no folder that a mended one would not fit.
    detector = _load_detector(args.detector, args.device)
    files.begin(Settings(checksum(args.detector), args.score_threshold, args.max_regions), overwrite=args.overwrite)
    detect_pictures(detector, pictures, source.names(), files, batch_size=args.batch_size)
    if files.unreadable:
        print(f"note: {len(files.unreadable)} pictures cannot be read: see {files.path / UNREADABLE}", file=sys.stderr)
    prepare_imported(source, args.output, float16=args.float16, overwrite=args.overwrite)
    print(
        "Features of another detector than the model's need training: python -m aladin_jax.main "
        f"--config configs/alignment_and_matching_distill.py --workdir RUN --config.data.dir={args.output} "
        "--config.init_from=MODEL (a new projection of regions is learned)"
    )


def _load_detector(folder: Path, device: str | None):
    from aladin_jax.errors import DataError

    try:
        import torch

        from convert.detection.detector import Detector
    except ImportError as error:
        problem = "it takes PyTorch to run a detector"
        raise DataError(problem, "pip install 'aladin-jax[detect]'", path=folder) from error
    return Detector(folder, device or ("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    sys.exit(main())
