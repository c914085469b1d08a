"""The commands that make and keep an index; each prints what it did and returns its exit status."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from aladin_jax.checked import checked
from aladin_jax.config import LENGTHS, Settings
from aladin_jax.errors import LISTED, first_few
from aladin_jax.files import write_whole
from aladin_jax.image_names import find_files, is_picture
from aladin_jax.lineage import Lineage, explain_untrained
from aladin_jax.pictures import describe_others
from aladin_jax.pretrained import enable_compilation_cache, load
from aladin_jax.search import indexing, verification
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import read_manifest, read_segment
from aladin_jax.search.indexing import Contents
from aladin_jax.untrusted import read_lines

WITHOUT_PICTURE = "without_picture.tsv"  # ids, and the file that cannot be read


def run_index(options: argparse.Namespace) -> int:
    """Makes an index."""
    names = (*LENGTHS, "pooling", "measure")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    settings = checked(Settings, {**vars(Settings.of_model(options.checkpoint)), **chosen}, "the command line")
    enable_compilation_cache()
    model = load(options.checkpoint, settings)
    contents = Contents(options.data, options.split, options.images, options.shard)
    if options.backend != "local" and indexing.is_of(options.output, model, contents, options.collection or ""):
        return _upload(options, options.output)  # of an earlier run, whose upload was cut off
    if options.caption_ending is not None:
        model.caption_ending = options.caption_ending
    if model.caption_ending is None:
        print(
            "note: the model does not say how the captions end that it was trained on, so queries are taken as they "
            "are; --caption_ending . would give them a period",
            file=sys.stderr,
        )
    warn_of_untrained_heads(model.lineage)
    manifest = indexing.create_index(
        options.output, model, contents, parts_dtype=options.dtype, collection=options.collection or ""
    )
    print(f"{options.output}: {manifest.images:,} images, {manifest.captions:,} captions; model {model.described}")
    _tell_of_pictures(options, options.output, manifest.segments[-1].name)
    return _upload(options, options.output)


def run_add(options: argparse.Namespace) -> int:
    """Appends to an index."""
    enable_compilation_cache()
    if options.checkpoint:
        model = load(options.checkpoint, read_manifest(options.index).settings)
    else:
        model = Index(options.index).model()
    contents = Contents(options.data, options.split, options.images)
    manifest = indexing.add_to_index(options.index, model, contents)
    added = manifest.segments[-1]
    print(
        f"{options.index}: {added.images:,} images and {added.captions:,} captions added; now {manifest.images:,} "
        f"images, {manifest.captions:,} captions in {len(manifest.segments)} segments"
    )
    _tell_of_pictures(options, options.index, added.name)
    return _upload(options, options.index)


def run_delete(options: argparse.Namespace) -> int:
    """Deletes images."""
    ids = list(options.ids)
    if options.ids_file:
        ids += [line.strip() for line in read_lines(options.ids_file) if line.strip()]
    if not ids:
        raise ValueError(f"{options.ids_file}: no id in it; write one a line")
    manifest = indexing.delete_images(options.index, ids)
    print(f"{options.index}: {len(ids):,} images deleted, {manifest.images:,} left; `merge` gives their room back")
    return _upload(options, options.index)


def run_merge(options: argparse.Namespace) -> int:
    """Compacts an index."""
    before = verification.describe(options.index)
    indexing.merge(options.index)
    after = verification.describe(options.index)
    print(
        f"{options.index}: {before['segments']} segments, {before['bytes']:,} bytes -> {after['segments']} segment, "
        f"{after['bytes']:,} bytes; {after['images']:,} images"
    )
    return _upload(options, options.index)


def run_verify(options: argparse.Namespace) -> int:
    """Checks an index; exit status 1 if there are faults."""
    faults = verification.verify(options.index)
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    if not faults:
        about = verification.describe(options.index)
        print(f"{options.index}: sound; {about['images']:,} images, {about['captions']:,} captions")
    return 1 if faults else 0


def run_info(options: argparse.Namespace) -> int:
    """Describes an index."""
    about = verification.describe(options.index)
    if options.json:
        print(json.dumps(about, indent=2))
        return 0
    for name, value in about.items():
        shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
        if isinstance(value, dict):
            shown = ", ".join(f"{field} {setting}" for field, setting in value.items())
        print(f"{name:>16}  {shown}")
    return 0


def warn_of_untrained_heads(lineage: Lineage) -> None:
    """Says which heads' results are worth nothing."""
    for line in explain_untrained(lineage):
        print(f"warning: {line}", file=sys.stderr)


def _upload(options: argparse.Namespace, path: Path) -> int:
    """Brings Qdrant's collection up to date with the index, if --backend names it."""
    if options.backend == "local":
        return 0
    from aladin_jax.search import qdrant  # its client, only where it is used

    index = Index(path)
    with qdrant.connect(options.url) as client:
        layout = {name: getattr(options, name) for name in ("shards", "replicas", "quantization")}
        sent = qdrant.upload(client, index, **layout)
    name = qdrant.collection_of(index.manifest)
    print(f"{options.url}: {sent.written:,} images sent to collection {name}, {sent.removed:,} removed from it")
    return 0


def _tell_of_pictures(options: argparse.Namespace, index: Path, segment: str) -> None:
    """Counts the pictures of what was indexed, and lists the images that have none."""
    read = read_segment(index / segment)
    if options.images is None and not len(read.pictures.vectors):
        return
    empty = np.flatnonzero(read.pictures.lengths == 0)
    table = read.image_table.select(["id", "file"]).take(empty).to_pylist()
    lost = {
        "not found": [image["id"] for image in table if not image["file"]],
        "not readable": [image["file"] for image in table if image["file"]],
    }
    for what, names in lost.items():
        if names:
            of = f"{len(names):,} of {read.image_table.num_rows:,} pictures"
            print(f"note: {of} {what}: {first_few(names)}", file=sys.stderr)
    if lost["not found"] and options.images:
        others = [name for name in find_files(options.images) if not is_picture(name)]
        if others:
            print(f"note: passed over: {describe_others(others)}", file=sys.stderr)
    if len(empty) > LISTED:
        lines = "".join(f"{image['id']}\t{image['file'] or 'not found'}\n" for image in table)
        write_whole(index / WITHOUT_PICTURE, lines.encode())
        print(f"note: all of them are listed in {index / WITHOUT_PICTURE}", file=sys.stderr)
