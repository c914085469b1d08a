"""Makes the data set of your own pictures: a detector finds regions, or a vision model sees a grid of them.

python -m convert.detect --images DIR --detector DIR --output DIR [--captions FILE]
python -m convert.detect --images DIR --encoder DIR --output DIR [--captions FILE]

docs/features.md has the rest.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.command import UsageError, run

if TYPE_CHECKING:
    from convert.detection.extractor import Extractor


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 after an error that the user can mend, which is printed."""
    from convert.features import add_caption_arguments

    parser = argparse.ArgumentParser(
        prog="python -m convert.detect",
        description="Pictures, and a detector of the DETR family or any vision backbone -> the data set that training "
        "reads. "
        "Interrupted, it can be run again and goes on where it was.",
    )
    parser.add_argument("--images", required=True, type=Path, metavar="DIR", help="pictures, also in folders in it")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--detector", type=Path, metavar="DIR", help="config.json, preprocessor_config.json, weights")
    model.add_argument("--encoder", type=Path, metavar="DIR", help="the same of a ViT, DINOv3, CLIP, SigLIP, Swin, ...")
    add_caption_arguments(parser)
    parser.add_argument("--score_threshold", type=float, help="least score of a detector's region (0.2)")
    parser.add_argument("--max_regions", type=int, help="regions of a picture (a detector's 50, an encoder's 34)")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures at once (%(default)s)")
    parser.add_argument("--device", help='such as "cuda" (that where there is one, else "cpu")')
    parser.add_argument("--output", required=True, type=Path, help="folder for the data set and what was found")
    parser.add_argument("--float16", action="store_true", help="regions in half the space, rounded to 11 bits")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    return run(parser, _detect, argv, interrupted="interrupted; the same command goes on where it was")


def _detect(args: argparse.Namespace) -> None:
    from aladin_jax.image_names import FOLDER, image_id
    from aladin_jax.pictures import describe_others, list_pictures
    from convert.dataset import made_from
    from convert.dataset.record_builder import data_set_folder
    from convert.detection.run import UNREADABLE, FoundFiles, detect_pictures
    from convert.features import captions_of, describe_sources, prepare_imported
    from convert.importing.source import ImportedSource

    if args.encoder and args.score_threshold is not None:
        raise UsageError("--score_threshold is for --detector; an encoder's regions have no scores")
    if args.score_threshold is None:
        args.score_threshold = 0.2
    if args.max_regions is None:
        args.max_regions = 34 if args.encoder else 50  # 34 is what training keeps of an image
    if not 0 <= args.score_threshold < 1:
        raise UsageError(f"--score_threshold {args.score_threshold}: must be in [0, 1)")
    if not 1 <= args.max_regions <= 1000:
        raise UsageError(f"--max_regions {args.max_regions}: must be 1 to 1000")
    if args.batch_size < 1:
        raise UsageError(f"--batch_size {args.batch_size}: must be at least 1")
    names, others = list_pictures(args.images)
    if others:
        print(f"note: passed over: {describe_others(others)}", file=sys.stderr)
    pictures = {name: args.images / name for name in names}
    if spelled := sum(image_id(name) != os.path.splitext(name)[0].replace("/", FOLDER) for name in pictures):
        print(f"note: {spelled} pictures have names that an id cannot spell: see docs/features.md", file=sys.stderr)
    files = FoundFiles(args.output / "detections", pictures)
    captions = captions_of(args, files.names(), args.images)
    # Before the long work, because it says which captions have no picture.
    source = ImportedSource(files, captions, skip_missing=args.skip_missing, numbered=False)
    # Before anything is written: a model that cannot be loaded leaves no folder that a mended one would not fit.
    extractor = _load_extractor(args)
    made_of = describe_sources(args, {"pictures": [args.images]})  # the settings are told by the files
    if not args.overwrite and data_set_folder(args.output).exists():
        made_from.check(data_set_folder(args.output), made_of)
    files.begin(extractor.made, overwrite=args.overwrite)
    detect_pictures(extractor, pictures, source.names(), files, batch_size=args.batch_size)
    if files.unreadable:
        left_out = f"{len(files.unreadable)} pictures cannot be read and are left out"
        print(f"note: {left_out}: see {files.path / UNREADABLE}", file=sys.stderr)
        captions = captions_of(args, files.names(), args.images)
        source = ImportedSource(files, captions, skip_missing=True, numbered=False)
    prepare_imported(source, args.output, made_of, float16=args.float16, overwrite=args.overwrite)
    print(
        f"Features of another {'encoder' if args.encoder else 'detector'} than the model's need training: "
        "python -m aladin_jax.main "
        f"--config configs/alignment_and_matching_distill.py --workdir RUN --config.data.dir={args.output} "
        "--config.init_from=MODEL (a new projection of regions is learned)"
    )


def _load_extractor(args: argparse.Namespace) -> "Extractor":
    from aladin_jax.errors import DataError
    from convert.detection.picture_model import checksum

    kind, folder = ("encoder", args.encoder) if args.encoder else ("detector", args.detector)
    made = {kind: checksum(folder, kind)} | ({} if args.encoder else {"threshold": args.score_threshold})
    try:
        from convert.detection.extractor import open_extractor
    except ImportError as error:
        problem = "it takes PyTorch to run a detector or an encoder"
        raise DataError(problem, "pip install 'aladin-jax[detect]'", path=folder) from error
    return open_extractor(folder, {**made, "max_regions": args.max_regions}, args.device)


if __name__ == "__main__":
    sys.exit(main())
