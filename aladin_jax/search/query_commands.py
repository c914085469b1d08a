"""The commands that ask an index: what flags each takes, and what it prints."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from aladin_jax import configuration
from aladin_jax.search.ann import KINDS, AnnFinder
from aladin_jax.search.commands import backend_flags, engine_of, index_flag
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import check_depth, read_record
from aladin_jax.search.query import Results, Searcher, Subject


def query_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `query`."""
    index_flag(parser)
    backend_flags(parser)
    ann_flags(parser)
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
    if options.ann and options.backend != "local":
        raise ValueError(f"--ann is for --backend local; {options.backend} has its own")
    searcher = Searcher(index, images=_finder(options, index), engine=engine_of(options, index))
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


def ann_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that choose how candidates are found."""
    parser.add_argument("--ann", choices=KINDS, help="find candidates approximately, by FAISS (default: exactly)")
    parser.add_argument("--effort", type=int, metavar="N", help="of --ann: nodes in sight (hnsw), lists read (ivf)")


def _finder(options: argparse.Namespace, index: Index) -> AnnFinder | None:
    if options.ann:
        return AnnFinder(index, options.ann, options.effort)
    if options.effort is not None:
        raise ValueError("--effort is for --ann; name hnsw or ivf")
    return None


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
    if results.note:
        print(results.note)


def _depth(text: str) -> int | str:
    try:
        return check_depth(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def tradeoff_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `tradeoff`."""
    index_flag(parser)
    ann_flags(parser)
    parser.add_argument("--queries", type=int, metavar="N", help="captions to ask with, spread evenly (default: all)")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw efficiency against effectiveness")


def run_tradeoff(options: argparse.Namespace) -> int:
    """Measures recall and latency."""
    from aladin_jax.search import tradeoff  # Matplotlib, only where it is used

    configuration.enable_compilation_cache("")
    index = Index(options.index)
    finder = _finder(options, index)
    rows = tradeoff.measure(Searcher(index, images=finder), queries=options.queries, finder=finder)
    if options.plot:
        tradeoff.save_figure(rows, options.plot)
    print(json.dumps({"rows": rows}, indent=2) if options.json else tradeoff.table(rows))
    return 0


def serve_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `serve`."""
    index_flag(parser)
    ann_flags(parser)
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
    index = Index(options.index)
    searcher = Searcher(index, images=_finder(options, index))
    limits = serve.Limits(max_depth=options.max_depth, in_flight=options.in_flight)
    print(f"http://{options.host}:{options.port}  {searcher.index.manifest.images:,} images; stop with Ctrl-C")
    serve.serve(searcher, host=options.host, port=options.port, limits=limits)
    return 0


FLAGS = {"query": query_flags, "tradeoff": tradeoff_flags, "serve": serve_flags}
RUN = {"query": run_query, "tradeoff": run_tradeoff, "serve": run_serve}
