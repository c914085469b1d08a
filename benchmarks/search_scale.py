"""Search in a generated collection: recall and latency against re-ranking depth, and where a text query's time goes.

    python -m benchmarks.search_scale --images 100000
    python -m benchmarks.search_scale --images 100000 --only_latency    # a minute or two

Embeddings are drawn (`generated_collection`), index format and code are those of real use, and the text encoder is
BERT-base with random weights. Its time is counted, but what it gives would ask for the same images every time, so the
drawn embeddings of the query take its place. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the commands of search set it

import numpy as np

from aladin_jax.search import tradeoff, verification
from aladin_jax.search.ann import AnnFinder
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import ALL, KINDS
from aladin_jax.search.query import Searcher
from aladin_jax.search.query_encoder import QueryEncoder
from benchmarks import workload
from benchmarks.generated_collection import REGIONS, write_collection
from benchmarks.interleaved import significant
from benchmarks.report import peak_memory_bytes, print_report

DEPTH = 100


class DrawnTexts:
    """Takes the time of a query encoder, and gives the embeddings that the index holds of the text."""

    def __init__(self, encoder: QueryEncoder, index: Index):
        """Knows the index's captions."""
        self._encoder, self._index, self.reader = encoder, index, encoder.reader
        self._rows = {index.caption(row): row for row in range(len(index.captions))}

    def caption(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The drawn embeddings of a text."""
        self._encoder.caption(text)
        row, captions = self._rows[text], self._index.captions
        return captions.vector(row), captions.parts(row)

    def words(self, text: str) -> list[str]:
        """Its words, as the query encoder has them."""
        return self._encoder.words(text)


def main(arguments: Sequence[str] | None = None) -> None:
    """Generates an index, measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=500, help="captions to ask with")
    parser.add_argument("--dtype", default="float16", help="of regions and words")
    parser.add_argument("--width", type=int, default=workload.HIDDEN_SIZE, help="of all vectors")
    parser.add_argument("--layers", type=int, default=12, help="of the text encoder")
    parser.add_argument("--only_latency", action="store_true", help="without recalls, and without ranking everything")
    parser.add_argument("--ann", choices=KINDS, help="also find candidates approximately")
    parser.add_argument("--folder", help="where the index lies meanwhile (default: the system's temporary folder)")
    options = parser.parse_args(arguments)
    if options.only_latency and options.ann:
        parser.error("--only_latency compares with every image; leave --ann out")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "index"
        started = time.perf_counter()
        write_collection(
            path,
            images=options.images,
            captions=options.queries,
            width=options.width,
            layers=options.layers,
            parts_dtype=options.dtype,
        )
        seconds = time.perf_counter() - started
        results = {"index_bytes": verification.describe(path)["bytes"], "generate_seconds": significant(seconds)}
        results |= latencies(path) if options.only_latency else measure(path, options.ann)
    lengths = {"images": options.images, "queries": options.queries, "regions": REGIONS, "width": options.width}
    print_report("search_scale", lengths | {"dtype": options.dtype, "layers": options.layers}, results)


def latencies(path: Path) -> dict[str, Any]:
    """Milliseconds of a text query, and where they go, for depths that leave most images to the matching head."""
    index = Index(path)
    searcher, captions = asking_drawn_texts(Searcher(index)), index.captions.live_rows
    return {"rows": [{"rerank": depth, **tradeoff.latency(searcher, captions, depth)} for depth in (0, DEPTH, 300)]}


def asking_drawn_texts(searcher: Searcher) -> Searcher:
    """The searcher, with `DrawnTexts` in the place of its query encoder."""
    vars(searcher)["queries"] = DrawnTexts(searcher.queries, searcher.index)
    return searcher


def measure(path: Path, ann: Any) -> dict[str, Any]:
    """The trade-off of an index, exactly and, with `ann`, approximately too."""
    index = Index(path)
    model = index.model()
    results = summary(tradeoff.measure(asking_drawn_texts(Searcher(index, model))))
    if ann:
        started = time.perf_counter()
        finder = AnnFinder(index, ann)
        seconds = time.perf_counter() - started
        rows = tradeoff.measure(asking_drawn_texts(Searcher(index, model, images=finder)), finder=finder)
        results[ann] = {"build_seconds": significant(seconds)} | summary(rows)
    return results | {"peak_memory_bytes": peak_memory_bytes()}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The rows, and of re-ranking 100: what it keeps, what it costs, and where a query's time goes."""
    by_depth = {row["rerank"]: row for row in rows}
    some, every = by_depth[DEPTH], by_depth[ALL]
    return {
        "rows": rows,
        "kept_of_full_recall_at_10": significant(some["t2i/R@10"] / every["t2i/R@10"]),
        "cost_of_full_search": significant(_stages(some) / _stages(every)),
        "cost_of_full_query": significant(some["p50_ms"] / every["p50_ms"]),
        "query_ms": {name: some[f"{name}_ms"] for name in ("p50", "p90", "encode", "match", "rerank")},
    }


def _stages(row: dict[str, Any]) -> float:
    """Milliseconds of both stages, without the encoder, which every depth needs alike."""
    return row["match_ms"] + row["rerank_ms"]


if __name__ == "__main__":
    main()
