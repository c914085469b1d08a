"""Shows what features, captions, a data set, a checkpoint, a workdir or an index hold, and what is wrong with them.

python -m convert.inspect PATH [--against OTHER] [--vocab FILE] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.command import run


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if there is nothing that can be read, whatever the problems in it."""
    parser = argparse.ArgumentParser(
        prog="python -m convert.inspect",
        description="What features, captions, a data set, a checkpoint, a workdir or an index hold: counts, widths, "
        "box encodings, NaN, ids that do not match, tokens that are cut off.",
    )
    parser.add_argument("path", type=Path, help="a folder or file, or a folder with several of them")
    parser.add_argument(
        "--against", type=Path, metavar="OTHER", help="compare features with features, or with captions"
    )
    parser.add_argument("--vocab", type=Path, help="a vocab.txt, or a folder with one, to count tokens")
    parser.add_argument("--max_caption_len", type=int, default=50, help="as in the configuration (%(default)s)")
    parser.add_argument("--max_labels_len", type=int, default=50, help="as in the configuration (%(default)s)")
    parser.add_argument("--max_regions", type=int, default=34, help="as in the configuration (%(default)s)")
    parser.add_argument("--class_names", type=Path, metavar="FILE", help="as for convert.features")
    parser.add_argument("--labels", nargs="+", type=Path, default=[], metavar="FILE", help="as for convert.features")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # an accelerator has nothing to do here
    return run(parser, _print_findings, argv, interrupted="interrupted")


def _print_findings(args: argparse.Namespace) -> None:
    found = _inspect(args)
    if args.json:
        print(json.dumps(found, indent=2, allow_nan=False))
    else:
        from convert.inspection.table import format_findings

        print("\n\n".join(format_findings(item) for item in found))


def _inspect(args: argparse.Namespace) -> list[dict[str, Any]]:
    from convert.inspection import kinds
    from convert.inspection.texts import open_tokenizer

    things = kinds.identify(args.path)
    if args.against is not None:
        return [_compare(things, kinds.identify(args.against))]
    tokenizer = open_tokenizer(args.vocab, args.max_caption_len, args.max_labels_len)
    found = []
    for thing in things:
        try:
            findings = _inspect_one(thing, tokenizer, args)
        except ValueError as error:
            if len(things) == 1:
                raise
            findings = {"kind": thing.kind, "path": str(thing.path), "problems": [str(error)]}
        kind = findings.pop("kind")
        found.append({"kind": kind, "taken by": kinds.command(thing, kind), **findings})
    captions = [thing for thing in things if thing.kind == kinds.CAPTIONS]
    features = [thing for thing in things if thing.kind == kinds.FEATURES]
    return found + [_compare([one], [other]) for one in captions for other in features]


def _inspect_one(thing: Any, tokenizer: Any, args: argparse.Namespace) -> dict[str, Any]:
    # What is imported takes seconds, so that only what is needed is.
    from convert.inspection import kinds

    if thing.kind == kinds.FEATURES and thing.format == "vinvl":
        from convert.inspection.features_folder import inspect_features

        return inspect_features(thing.path, tokenizer, args.max_regions)
    if thing.kind == kinds.FEATURES:
        from convert.importing.source import open_features
        from convert.inspection.feature_files import inspect_feature_files

        reader = open_features(thing.format, [thing.path], args.labels, args.class_names)
        return inspect_feature_files(reader, thing.format, tokenizer, args.max_regions)
    if thing.kind == kinds.CAPTIONS:
        from convert.inspection.captions_folder import inspect_caption_file, inspect_captions

        if thing.format == "coco_ir":
            return inspect_captions(thing.path, tokenizer)
        return inspect_caption_file(thing.path, thing.format, tokenizer)
    if thing.kind == kinds.DATA_SET:
        from convert.inspection.data_set import inspect_data_set

        return inspect_data_set(thing.path, tokenizer, args.max_regions)
    if thing.kind == kinds.INDEX:
        from convert.inspection.indexes import inspect_index

        return inspect_index(thing.path)
    from convert.inspection import checkpoints

    return {
        kinds.TORCH_FOLDER: checkpoints.inspect_torch_folder,
        kinds.TORCH_FILE: checkpoints.inspect_torch_file,
        kinds.EXPORT: checkpoints.inspect_export,
        kinds.MODEL_FOLDER: checkpoints.inspect_model_folder,
    }[thing.kind](thing.path)


def _compare(first: list[Any], second: list[Any]) -> dict[str, Any]:
    from aladin_jax.errors import DataError
    from convert.inspection import kinds
    from convert.inspection.captions_folder import read_caption_file
    from convert.inspection.differences import compare_features, compare_names

    comparable = (kinds.FEATURES, kinds.DATA_SET, kinds.CAPTIONS)
    one, other = (
        next((thing for thing in things if thing.kind in comparable), things[0]) for things in (first, second)
    )
    for thing in (one, other):
        if thing.kind not in comparable:
            raise DataError(f"a {thing.kind}", "features, data sets and captions can be compared", path=thing.path)
    if kinds.CAPTIONS not in (one.kind, other.kind):
        return compare_features(one, other)
    captions, features = (one, other) if one.kind == kinds.CAPTIONS else (other, one)
    if features.kind == kinds.CAPTIONS:
        raise DataError("captions too", "compare captions with features", path=features.path)
    splits = read_caption_file(captions.path, captions.format)
    return compare_names(captions, [image for images in splits.values() for image in images.values()], features)


if __name__ == "__main__":
    sys.exit(main())
