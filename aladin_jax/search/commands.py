"""The commands: what flags each takes, and what it prints."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from aladin_jax import configuration, similarity
from aladin_jax.search import build, maintain
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import check_depth, read_record
from aladin_jax.search.manifest import PARTS_DTYPES, read_manifest
from aladin_jax.search.query import Results, Searcher, Subject
from aladin_jax.search.settings import SearchModel, Settings

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
    return 0


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `add`."""
    _index_flag(parser)
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
    return 0


def delete_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `delete`."""
    _index_flag(parser)
    parser.add_argument("ids", nargs="*", metavar="ID", help="images to delete")
    parser.add_argument("--ids_file", type=Path, metavar="FILE", help="one id a line")


def run_delete(options: argparse.Namespace) -> int:
    """Deletes images."""
    ids = list(options.ids)
    if options.ids_file:
        ids += [line.strip() for line in options.ids_file.read_text("utf-8").splitlines() if line.strip()]
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
    _index_flag(parser)
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


def query_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `query`."""
    _index_flag(parser)
    parser.add_argument("text", nargs="?", help="what the picture shows")
    parser.add_argument("--image", metavar="ID|FILE.npz", help="captions for a picture: an id of the index, or a file")
    parser.add_argument("--k", type=int, default=10, help="how many results")
    parser.add_argument(
        "--rerank", type=_depth, default=100, metavar="N|all", help="candidates that the alignment head re-ranks"
    )
    parser.add_argument("--why", action="store_true", help="also print which region answered each word")
    parser.add_argument("--json", action="store_true", help="as JSON, with the reasons")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the results")


def run_query(options: argparse.Namespace) -> int:
    """Asks an index."""
    if (options.text is None) == (options.image is None):
        raise ValueError("give either words or --image")
    configuration.enable_compilation_cache("")
    index = Index(options.index)
    searcher = Searcher(index)
    if options.text is not None:
        results = searcher.find_images(options.text, k=options.k, rerank=options.rerank)
        asked: dict[str, Any] = {"query": options.text}
    else:
        subject, picture = _subject(searcher, options.image)
        results = searcher.find_captions(subject, k=options.k, rerank=options.rerank)
        asked = {"image": options.image}
    if options.plot:
        from aladin_jax.search import drawing  # Matplotlib, only where it is used

        if options.text is not None:
            drawing.save_results(results, index, options.text, options.plot)
        else:
            drawing.save_captions(results, picture, options.image, options.plot)
    if options.json:
        print(json.dumps({**asked, "k": options.k, **results.to_json()}, indent=2, ensure_ascii=False))
    else:
        _print_results(results, why=options.why)
    return 0


def _subject(searcher: Searcher, image: str) -> tuple[Subject, bytes]:
    """A picture to ask with: a file if it is named like one, else an id of the index."""
    if image.endswith(".npz"):
        return searcher.encode_record(read_record(Path(image), searcher.model.feature_dim)), b""
    row = searcher.index.row(image)
    return searcher.subject_of_image(row), searcher.index.picture(row)


def _print_results(results: Results, *, why: bool) -> None:
    print(f"{'':>4} {'matching':>9} {'alignment':>9}")
    for rank, hit in enumerate(results.hits, 1):
        alignment = f"{hit.alignment:9.4f}" if hit.alignment is not None else f"{'-':>9}"
        told = f"  {hit.caption}" if hit.caption is not None else ""
        print(f"{rank:>4} {hit.matching:9.4f} {alignment}  {hit.id}{told}")
        for answer in hit.why if why else []:
            region = answer.region
            what = "no region" if region is None else f"region {region.number} {region.tag or ''}"
            box = "" if region is None or region.box is None else " ".join(f"{value:.2f}" for value in region.box)
            print(f"{'':>15}{answer.score:9.4f}  {answer.word:<12} {what:<24} {box}")
    times = ", ".join(f"{name} {value:.1f}" for name, value in results.milliseconds.items())
    print(f"{results.rerank:,} candidates re-ranked; milliseconds: {times}")


def _index_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--index", type=Path, required=True, metavar="INDEX", help="folder of the index")


def _source_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="a prepared data set")
    parser.add_argument("--split", default="test", help="of it (default: test)")
    parser.add_argument("--images", type=Path, metavar="DIR", help="picture files ID.jpg, .png or .webp")


def _source(options: argparse.Namespace) -> build.Source:
    return build.Source(options.data, options.split, options.images)


def _depth(text: str) -> int | str:
    try:
        return check_depth(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tradeoff_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `tradeoff`."""
    _index_flag(parser)
    parser.add_argument("--queries", type=int, metavar="N", help="captions to ask with, spread evenly (default: all)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw efficiency against effectiveness")


def run_tradeoff(options: argparse.Namespace) -> int:
    """Measures recall and latency."""
    from aladin_jax.search import tradeoff  # Matplotlib, only where it is used

    configuration.enable_compilation_cache("")
    rows = tradeoff.measure(Searcher(Index(options.index)), queries=options.queries)
    if options.plot:
        tradeoff.save_figure(rows, options.plot)
    print(json.dumps({"rows": rows}, indent=2) if options.json else tradeoff.table(rows))
    return 0


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `serve`."""
    _index_flag(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max_depth", type=int, default=1000, metavar="N", help="candidates re-ranked at most")
    parser.add_argument("--in_flight", type=int, default=16, metavar="N", help="searches at once, beyond is 503")


def run_serve(options: argparse.Namespace) -> int:
    """Serves an index until SIGTERM."""
    from aladin_jax.search import serve  # the web server, only where it is used

    if not 0 <= options.port < 65536 or options.in_flight < 1 or options.max_depth < 0:
        raise ValueError("--port must be 0 to 65535, --in_flight at least 1, --max_depth at least 0")
    configuration.enable_compilation_cache("")
    searcher = Searcher(Index(options.index))
    limits = serve.Limits(max_depth=options.max_depth, in_flight=options.in_flight)
    print(f"http://{options.host}:{options.port}  {searcher.index.manifest.images:,} images; stop with Ctrl-C")
    serve.serve(searcher, host=options.host, port=options.port, limits=limits)
    return 0


FLAGS = {
    "index": index_flags,
    "add": add_flags,
    "delete": delete_flags,
    "merge": _index_flag,
    "verify": _index_flag,
    "info": info_flags,
    "query": query_flags,
    "tradeoff": tradeoff_flags,
    "serve": serve_flags,
}
RUN = {
    "index": run_index,
    "add": run_add,
    "delete": run_delete,
    "merge": run_merge,
    "verify": run_verify,
    "info": run_info,
    "query": run_query,
    "tradeoff": run_tradeoff,
    "serve": run_serve,
}
