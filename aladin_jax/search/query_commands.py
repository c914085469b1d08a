"""The commands that ask an index; each prints what it found and returns its exit status."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aladin_jax.lineage import lineage_of_model_folder
from aladin_jax.pictures import read_picture
from aladin_jax.pretrained import enable_compilation_cache, load
from aladin_jax.search.ann import AnnFinder
from aladin_jax.search.asked_picture import read_asked
from aladin_jax.search.commands import warn_of_untrained_heads
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import MODEL
from aladin_jax.search.inputs import Limits
from aladin_jax.search.pictures import shrink
from aladin_jax.search.query import Searcher, Subject
from aladin_jax.search.results import Results


def run_query(options: argparse.Namespace) -> int:
    """Asks an index."""
    enable_compilation_cache()
    with _searcher(options) as searcher:
        return _ask(options, searcher)


@contextlib.contextmanager
def _searcher(options: argparse.Namespace) -> Iterator[Searcher]:
    index = Index(options.index) if options.index else None
    if options.backend == "local":
        assert index is not None
        yield Searcher(index, images=_finder(options, index))
        return
    from aladin_jax.search import qdrant  # its client, only where it is used

    with qdrant.connect(options.url) as client:
        name = options.collection if index is None else qdrant.collection_of(index.manifest)
        engine = qdrant.QdrantEngine(client, name)
        model = load(options.checkpoint, engine.settings) if index is None else index.model()
        if index is None:
            model.caption_ending = engine.caption_ending
        yield Searcher(index, model, engine=engine)


def _ask(options: argparse.Namespace, searcher: Searcher) -> int:
    if options.text is not None:
        results = searcher.find_images(options.text, k=options.k, rerank=options.rerank)
        asked: dict[str, Any] = {"query": options.text}
    else:
        subject, picture, row = _subject(searcher, options.image, options.extractor)
        if options.similar:
            results = searcher.find_similar(subject, k=options.k, leave_out=row)
        else:
            results = searcher.find_captions(subject, k=options.k, rerank=options.rerank)
        asked = {"image": options.image}
    if options.plot:
        from aladin_jax.search import drawing  # Matplotlib, only where it is used

        of_pictures = options.text is not None or options.similar
        title = options.text or (f"like {options.image}" if options.similar else options.image)
        shown = (searcher.index.picture(hit.row) if of_pictures else picture for hit in results.hits)
        drawing.save_results(results, shown, title, options.plot)
    if options.json:
        print(json.dumps({**asked, "k": options.k, **results.to_json()}, indent=2, ensure_ascii=False))
    else:
        _print_results(results, why=options.why)
    return 0


def _finder(options: argparse.Namespace, index: Index) -> AnnFinder | None:
    return AnnFinder(index, options.ann, options.effort) if options.ann else None


def _subject(searcher: Searcher, image: str, extractor: Path | None) -> tuple[Subject, bytes, int | None]:
    """A picture to ask with, its JPEG file and row: of the index if its id is there, else a file."""
    index = searcher.index
    if image in index.row_of_id or not (Path(image).is_file() or image.endswith(".npz")):
        row = index.row(image)
        return searcher.subject_of_image(row), index.picture(row), row
    record = read_asked(Path(image), extractor, index.manifest.features, searcher.queries.feature_dim)
    shown = b"" if image.endswith(".npz") else shrink(read_picture(Path(image))).jpeg
    return searcher.encode_record(record), shown, None


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


def run_tradeoff(options: argparse.Namespace) -> int:
    """Measures recall and latency."""
    from aladin_jax.search import tradeoff  # Matplotlib, only where it is used

    enable_compilation_cache()
    index = Index(options.index)
    finder = _finder(options, index)
    rows = tradeoff.measure(Searcher(index, images=finder), queries=options.queries, finder=finder)
    if options.plot:
        tradeoff.draw(rows, options.plot)
    print(json.dumps({"rows": rows}, indent=2) if options.json else tradeoff.table(rows))
    return 0


def run_serve(options: argparse.Namespace) -> int:
    """Serves an index until SIGTERM."""
    from aladin_jax.search import serve  # the web server, only where it is used
    from aladin_jax.search.uploads import Uploads

    enable_compilation_cache()
    index = Index(options.index)
    warn_of_untrained_heads(lineage_of_model_folder(options.index / MODEL))
    searcher = Searcher(index, images=_finder(options, index))
    limits = Limits(max_depth=options.max_depth, in_flight=options.in_flight)
    uploads = Uploads(searcher, options.extractor, limits) if options.extractor else None
    print(f"http://{options.host}:{options.port}  {searcher.index.manifest.images:,} images; stop with Ctrl-C")
    serve.serve(searcher, host=options.host, port=options.port, limits=limits, uploads=uploads)
    return 0
