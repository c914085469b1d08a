"""Makes the data set of your own features and captions; docs/features.md has the formats.

python -m convert.features --features DIR [--captions dataset_coco.json] --output DIR
"""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aladin_jax.errors import DataError
from convert.command import run

if TYPE_CHECKING:
    from convert.importing.caption_files import Captions
    from convert.importing.source import ImportedSource


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 after an error that the user can mend, which is printed."""
    return run(make_parser(), prepare, argv)


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    from convert.importing.recognise import FEATURE_FORMATS

    parser = argparse.ArgumentParser(
        prog="python -m convert.features",
        description="Features, with captions or without, in others' formats (docs/features.md) -> the data set that "
        "training and search read. Interrupted, it can be run again.",
    )
    parser.add_argument("--format", choices=FEATURE_FORMATS, help="of the features (recognised)")
    parser.add_argument("--features", required=True, nargs="+", type=Path, metavar="PATH", help="a folder, or files")
    parser.add_argument("--labels", nargs="+", type=Path, default=[], metavar="FILE", help="classes, for oscar_*")
    parser.add_argument("--class_names", type=Path, metavar="FILE", help="one a line, where classes are numbers")
    add_caption_arguments(parser)
    parser.add_argument("--output", required=True, type=Path, help="folder that the data set is written to")
    parser.add_argument("--float16", action="store_true", help="regions in half the space, rounded to 11 bits")
    parser.add_argument("--overwrite", action="store_true", help="first remove a data set that is there already")
    return parser


def prepare(args: argparse.Namespace) -> None:
    """Builds the data set that the options of `make_parser` ask for.

    Raises:
        DataError: a file is not what it should be.
    """
    from convert.dataset import made_from
    from convert.importing.source import ImportedSource, open_features

    reader = open_features(args.format, args.features, args.labels, args.class_names)
    captions = captions_of(args, reader.names(), reader.path)
    source = ImportedSource(reader, captions, skip_missing=args.skip_missing)
    given = [path for paths in args.features for path in made_from.with_companions(paths)]
    class_names = [args.class_names] if args.class_names else []
    made_of = describe_sources(args, {"features": given, "labels": args.labels, "class_names": class_names})
    prepare_imported(source, args.output, made_of, float16=args.float16, overwrite=args.overwrite)


def add_caption_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what says where captions are; `captions_of` reads it."""
    from convert.importing.caption_files import CAPTION_FORMATS
    from convert.raw.split_captions import SPLITS

    parser.add_argument(
        "--captions", nargs="+", metavar="[SPLIT=]FILE", help="of all splits; without them images can be searched alone"
    )
    parser.add_argument("--captions_format", choices=CAPTION_FORMATS, help="(recognised)")
    parser.add_argument(
        "--split_list", nargs="+", default=[], metavar="SPLIT=FILE", help="lists of images that divide the captions"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="of images without --captions (%(default)s)")
    parser.add_argument(
        "--restval",
        choices=("train", "leave_out"),
        default="train",
        help="what to do with Karpathy's restval (%(default)s)",
    )
    parser.add_argument("--skip_missing", action="store_true", help="leave out captions of images that are not there")


def captions_of(args: argparse.Namespace, names: Collection[str], path: Path) -> "Captions":
    """Reads the captions that the arguments of `add_caption_arguments` name, or the images alone if they name none.

    Args:
        args: of the command.
        names: of all images.
        path: where the images are from.

    Raises:
        DataError: a split has another name than one of the three, or is missing; captions are damaged.
    """
    from convert.importing.caption_files import read_caption_files, uncaptioned

    if not args.captions:
        return uncaptioned(args.split, path, names)
    return read_caption_files(
        args.captions_format,
        tuple(_split_and_path(text) for text in args.captions),
        dict(_with_split(text) for text in args.split_list),
        restval=args.restval == "train",
    )


def describe_sources(args: argparse.Namespace, sources: Mapping[str, Sequence[Path]]) -> dict[str, Any]:
    """What the data set is made from: sources, the captions that the arguments name, and the options that matter."""
    from convert.dataset import made_from

    captions = [_split_and_path(text) for text in args.captions or []]
    lists = [_with_split(text) for text in args.split_list]
    told = {"captions": captions, "split_list": lists}
    options: dict[str, Any] = {kind: [[split, path.name] for split, path in pairs] for kind, pairs in told.items()}
    options |= {name: getattr(args, name) for name in ("split", "restval", "skip_missing")}
    files = {kind: [path for _, path in pairs] for kind, pairs in told.items()}
    return made_from.describe({**sources, **files}, options)


def prepare_imported(
    source: "ImportedSource", output: Path, made_of: Mapping[str, Any], *, float16: bool, overwrite: bool
) -> None:
    """Builds the data set, unless it is there, made of the same, and prints what it is.

    Raises:
        DataError: a file is not what it should be.
    """
    from convert.dataset.record_builder import prepare_records
    from convert.dataset.record_writer import RecordSource

    feature_dim = source.feature_dim  # before the notes: some are of the first image that is read
    for note in source.notes:
        print(f"note: {note}", file=sys.stderr)
    records = RecordSource(source.captions, source.detections, feature_dim, source.reader.made)
    options: dict[str, Any] = {"made_of": made_of, "float16": float16, "overwrite": overwrite}
    print(prepare_records(feature_dim, lambda: records, output, **options))
    print(f"regions have {feature_dim} numbers: the detector's features, then x1, y1, x2, y2, h, w")
    if not any(image.captions for images in source.captions.splits.values() for image in images.values()):
        print("there are no captions: the images can be searched, not trained on")


def _split_and_path(text: str) -> tuple[str | None, Path]:
    """`SPLIT=PATH`, or a path alone."""
    from convert.raw.split_captions import SPLITS

    split, mark, path = text.partition("=")
    if not mark or Path(text).exists():
        return None, Path(text)
    if split not in SPLITS:
        raise DataError(f"{text}: {split!r} is no split", f"write one of {', '.join(SPLITS)} before the =")
    return split, Path(path)


def _with_split(text: str) -> tuple[str, Path]:
    split, path = _split_and_path(text)
    if split is None:
        raise DataError(f"--split_list {text}: no split", "write SPLIT=FILE")
    return split, path


if __name__ == "__main__":
    sys.exit(main())
