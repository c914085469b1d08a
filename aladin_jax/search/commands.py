"""The commands that make and keep an index: what flags each takes, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from aladin_jax import configuration
from aladin_jax.scores import similarity
from aladin_jax.search import build, maintain
from aladin_jax.search.index import Index
from aladin_jax.search.manifest import PARTS_DTYPES, read_manifest
from aladin_jax.search.settings import SearchModel, Settings
from aladin_jax.untrusted import read_lines

_SETTINGS = ("max_caption_len", "max_labels_len", "max_regions", "pooling", "measure")


def index_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `index`."""
    _source_flags(parser)
    parser.add_argument("--checkpoint", required=True, metavar="W", help="a converted checkpoint, or a workdir")
    parser.add_argument("--output", type=Path, required=True, metavar="INDEX", help="the folder to make")
    parser.add_argument(
        "--dtype", choices=PARTS_DTYPES, default="float32", help="of regions and words; float16 halves the index"
    )
    for name in ("max_caption_len", "max_labels_len", "max_regions"):
        parser.add_argument(f"--{name}", type=int, metavar="N", help="instead of the checkpoint's, or the original's")
    parser.add_argument("--pooling", choices=similarity.POOLINGS, help="of alignment scores")
    parser.add_argument("--measure", choices=similarity.MEASURES, help="of matching scores")


def run_index(options: argparse.Namespace) -> int:
    """Makes an index."""
    chosen = {name: getattr(options, name) for name in _SETTINGS if getattr(options, name) is not None}
    given = Settings.of_checkpoint(options.checkpoint)
    settings = Settings.from_dict({**vars(given), **chosen}, "the command line")
    configuration.enable_compilation_cache("")
    model = SearchModel(options.checkpoint, settings)
    manifest = build.create_index(options.output, model, _source(options), parts_dtype=options.dtype)
    print(f"{options.output}: {manifest.images:,} images, {manifest.captions:,} captions; model {model.described}")
    return _upload(options, options.output)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `add`."""
    index_flag(parser)
    _source_flags(parser)
    parser.add_argument("--checkpoint", metavar="W", help="refuse unless it is the index's model (default: use that)")


def run_add(options: argparse.Namespace) -> int:
    """Appends to an index."""
    configuration.enable_compilation_cache("")
    if options.checkpoint:
        model = SearchModel(options.checkpoint, read_manifest(options.index).settings)
    else:
        model = Index(options.index).model()
    manifest = build.add_to_index(options.index, model, _source(options))
    added = manifest.segments[-1]
    print(
        f"{options.index}: {added.images:,} images and {added.captions:,} captions added; now {manifest.images:,} "
        f"images, {manifest.captions:,} captions in {len(manifest.segments)} segments"
    )
    return _upload(options, options.index)


def delete_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `delete`."""
    index_flag(parser)
    parser.add_argument("ids", nargs="*", metavar="ID", help="images to delete")
    parser.add_argument("--ids_file", type=Path, metavar="FILE", help="one id a line")


def run_delete(options: argparse.Namespace) -> int:
    """Deletes images."""
    ids = list(options.ids)
    if options.ids_file:
        ids += [line.strip() for line in read_lines(options.ids_file) if line.strip()]
    if not ids:
        raise ValueError("nothing to delete: name ids, or give --ids_file")
    manifest = maintain.delete_images(options.index, ids)
    print(f"{options.index}: {len(ids):,} images deleted, {manifest.images:,} left; `merge` gives their room back")
    return 0


def run_merge(options: argparse.Namespace) -> int:
    """Compacts an index."""
    before = maintain.describe(options.index)
    maintain.merge(options.index)
    after = maintain.describe(options.index)
    print(
        f"{options.index}: {before['segments']} segments, {before['bytes']:,} bytes -> {after['segments']} segment, "
        f"{after['bytes']:,} bytes; {after['images']:,} images"
    )
    return 0


def run_verify(options: argparse.Namespace) -> int:
    """Checks an index; exit status 1 if there are faults."""
    faults = maintain.verify(options.index)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        about = maintain.describe(options.index)
        print(f"{options.index}: sound; {about['images']:,} images, {about['captions']:,} captions")
    return 1 if faults else 0


def info_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `info`."""
    index_flag(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")


def run_info(options: argparse.Namespace) -> int:
    """Describes an index."""
    about = maintain.describe(options.index)
    if options.json:
        print(json.dumps(about, indent=2))
        return 0
    for name, value in about.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{field} {setting}" for field, setting in value.items())
        print(f"{name:>16}  {shown}")
    return 0


def engine_of(options: argparse.Namespace, index: Index) -> Any:
    """The engine that --backend names; None for this machine."""
    if options.backend == "local":
        return None
    if not options.url:
        raise ValueError("--backend qdrant needs --url")
    from aladin_jax.search import qdrant  # its client, only where it is used

    return qdrant.QdrantEngine(qdrant.connect(options.url), index, shards=options.shards, replicas=options.replicas)


def _upload(options: argparse.Namespace, path: Path) -> int:
    """Brings Qdrant's collection up to date with the index."""
    engine = engine_of(options, Index(path))
    if engine is not None:
        print(f"{options.url}: {engine.upload():,} images sent to collection {engine.collection}")
    return 0


def backend_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that name where both stages run."""
    parser.add_argument("--backend", choices=("local", "qdrant"), default="local", help="where both stages run")
    parser.add_argument("--url", help="of Qdrant")
    parser.add_argument("--shards", type=int, default=1, metavar="N", help="of a new collection")
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="of each shard")


def index_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that names an index."""
    parser.add_argument("--index", type=Path, required=True, metavar="INDEX", help="folder of the index")


def _source_flags(parser: argparse.ArgumentParser) -> None:
    backend_flags(parser)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a prepared data set")
    parser.add_argument("--split", default="test", help="of it (default: test)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="picture files ID.jpg, .png or .webp")


def _source(options: argparse.Namespace) -> build.Source:
    return build.Source(options.data, options.split, options.images)


FLAGS = {
    "index": index_flags,
    "add": add_flags,
    "delete": delete_flags,
    "merge": index_flag,
    "verify": index_flag,
    "info": info_flags,
}
RUN = {
    "index": run_index,
    "add": run_add,
    "delete": run_delete,
    "merge": run_merge,
    "verify": run_verify,
    "info": run_info,
}
