"""What re-ranking costs and gives: recall and latency of text queries against depth, on an index's own captions.

Recalls are those of all pairs, scored as evaluation scores them, so that depth 0 gives the matching head's and "all"
the alignment head's. Latencies are of single queries, one after the other, from the text to ten ids.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from matplotlib.ticker import FuncFormatter
from tqdm import tqdm

from aladin_jax.evaluation.figure import COLOURS, FAINT, GREY, INK, new_figure, save_figure
from aladin_jax.evaluation.recall import CUTOFFS, best
from aladin_jax.scores.all_pairs import all_alignment_scores
from aladin_jax.scores.similarity import matching_scores
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import ALL, Depth
from aladin_jax.search.query import Searcher
from aladin_jax.search.ranking import Finder

DEPTHS: tuple[Depth, ...] = (0, 10, 30, 100, 300, ALL)
_BLOCK_SCORES = 1 << 26  # a block of either head's scores takes 256 MB
_BLOCK_IMAGES = 8192  # their regions, of BERT-base in float32, take 830 MB
_TIMED, _LEAST_TIMED, _SECONDS = 100, 5, 30.0


def measure(searcher: Searcher, *, queries: int | None = None, finder: Finder | None = None) -> list[dict[str, Any]]:
    """Measures every depth.

    Args:
        searcher: of the index.
        queries: how many captions to ask with, spread evenly over the index; None for all.
        finder: the searcher's, if it does not compare with every image: recalls are then of what it finds.

    Returns:
        For each depth {"rerank", "t2i/R@1", "t2i/R@5", "t2i/R@10" (percent), "p50_ms", "p90_ms", and the medians of
        the stages: "encode_ms", "match_ms", "rerank_ms"; "queries", "timed"}.

    Raises:
        ValueError: the index has no captions, or `queries` is below 1.
    """
    captions = searcher.index.captions.live_rows
    if not len(captions):
        raise ValueError(f"{searcher.index.path}: has no captions to ask with")
    if queries is not None:
        if queries < 1:
            raise ValueError(f"queries is {queries}; expected at least 1")
        captions = captions[np.linspace(0, len(captions) - 1, min(queries, len(captions))).astype(int)]
    ranks = ranks_by_depth(searcher.index, captions, finder)
    rows = []
    for depth, of_depth in zip(DEPTHS, ranks, strict=True):
        recalls = {f"t2i/R@{k}": 100.0 * int(np.count_nonzero(of_depth < k)) / len(of_depth) for k in CUTOFFS}
        rows.append({"rerank": depth, **recalls, **latency(searcher, captions, depth), "queries": len(captions)})
    return rows


def ranks_by_depth(
    index: Index, captions: Int[np.ndarray, " c"], finder: Finder | None = None
) -> Int[np.ndarray, "depths c"]:
    """The rank, from 0, of each caption's own image at each of `DEPTHS`; equal scores as in `ranking`.

    With a finder, an image that it does not find among max(depth, 10) has the last rank.
    """
    settings, images = index.manifest.settings, index.images.live_rows
    vectors = jnp.asarray(np.concatenate([np.asarray(piece) for piece in index.images.vectors])[images])
    ranks = np.zeros((len(DEPTHS), len(captions)), np.int64)
    own = np.searchsorted(images, index.caption_image[captions])
    block = max(_BLOCK_SCORES // len(images), 1)
    for start in tqdm(range(0, len(captions), block), desc="scoring all pairs", unit="block", disable=None):
        rows = captions[start : start + block]
        asked = np.stack([index.captions.vector(int(row)) for row in rows])
        matching = np.asarray(matching_scores(vectors, jnp.asarray(asked), measure=settings.measure))
        words = index.captions.take(rows)
        alignment = np.concatenate(
            [
                all_alignment_scores(index.images.take(some), words, pooling=settings.pooling)
                for some in np.split(images, range(_BLOCK_IMAGES, len(images), _BLOCK_IMAGES))
            ]
        )
        for at, reranked in enumerate(words.lengths > 0):
            orders = _orders(matching[:, at], asked[at], images, finder)
            ranks[:, start + at] = _ranks(orders, alignment[:, at], int(own[start + at]), bool(reranked))
    return ranks


def _orders(
    matching: Float[np.ndarray, " i"], vector: Float[np.ndarray, " d"], images: np.ndarray, finder: Finder | None
) -> list[np.ndarray]:
    """The matching head's order of images at each depth: of all, or of what a finder finds."""
    if finder is None:
        return [best(matching, len(matching))] * len(DEPTHS)
    counts = [len(images) if depth == ALL else max(int(depth), CUTOFFS[-1]) for depth in DEPTHS]
    return [np.searchsorted(images, finder.find(vector, count).rows) for count in counts]


def _ranks(orders: list[np.ndarray], alignment: Float[np.ndarray, " i"], own: int, reranked: bool) -> list[int]:
    """The place of one image at each depth; without `reranked` (a text of no words), "all" alone re-ranks."""
    found = []
    for depth, order in zip(DEPTHS, orders, strict=True):
        first = int(np.append(np.flatnonzero(order == own), len(alignment))[0])
        count = len(order) if depth == ALL else int(depth)
        if first >= count or not (reranked or depth == ALL):
            found.append(first)
            continue
        candidates = order[:count]
        scores, score = alignment[candidates], alignment[own]
        found.append(int(np.count_nonzero((scores > score) | ((scores == score) & (candidates > own)))))
    return found


def latency(searcher: Searcher, captions: Int[np.ndarray, " c"], depth: Depth) -> dict[str, Any]:
    """Times queries of single captions, until there are enough or half a minute is over.

    Returns:
        Milliseconds: "p50_ms" and "p90_ms" of the whole, the medians of the stages; and how many were "timed".
    """
    texts = (searcher.index.caption(int(row)) for row in captions)
    texts = list(itertools.islice(filter(searcher.queries.reader.knows, texts), _TIMED + 1))
    for text in texts[-2:]:  # compiles
        searcher.find_images(text, rerank=depth, explain=False)
    stages: list[dict[str, float]] = []
    start = time.perf_counter()
    for text in texts[:_TIMED]:
        stages.append(searcher.find_images(text, rerank=depth, explain=False).milliseconds)
        if time.perf_counter() - start > _SECONDS and len(stages) >= _LEAST_TIMED:
            break
    totals = [sum(times.values()) for times in stages]
    medians = {f"{name}_ms": float(np.median([times[name] for times in stages])) for name in stages[0]}
    medians.pop("explain_ms", None)
    p50, p90 = np.percentile(totals, [50, 90])
    rounded = {"p50_ms": float(p50), "p90_ms": float(p90), **medians}
    return {name: round(value, 3) for name, value in rounded.items()} | {"timed": len(stages)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    names = ("rerank", "t2i/R@1", "t2i/R@5", "t2i/R@10", "p50_ms", "p90_ms", "encode_ms", "match_ms", "rerank_ms")
    lines = ["  ".join(f"{name:>9}" for name in names)]
    for row in rows:
        values = (f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name]) for name in names)
        lines.append("  ".join(f"{value:>9}" for value in values))
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: str | os.PathLike[str]) -> None:
    """Draws recall against median latency, a point a depth, as a PNG."""
    figure = new_figure(7.2, 4.4)
    panel = figure.subplots()
    names = ["matching head" if row["rerank"] == 0 else str(row["rerank"]) for row in rows]
    times = [row["p50_ms"] for row in rows]
    slowest = int(np.argmax(times))
    for cutoff, colour in zip(CUTOFFS, COLOURS, strict=False):
        recalls = [row[f"t2i/R@{cutoff}"] for row in rows]
        panel.plot(times, recalls, "o-", color=colour, linewidth=1.2, markersize=5)
        panel.annotate(
            f"R@{cutoff}",
            (times[slowest], recalls[slowest]),
            (8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    order = np.argsort(times, kind="stable")
    gaps = np.flatnonzero(np.diff(np.log(np.asarray(times)[order])) > 0.1) + 1
    for group in np.split(order, gaps):  # depths that take the same time share a label
        lowest = min(rows[at]["t2i/R@1"] for at in group)
        panel.annotate(
            ", ".join(names[at] for at in sorted(group)),
            (float(np.mean([times[at] for at in group])), lowest),
            (0, -14),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=GREY,
        )
    panel.set_xscale("log")
    panel.set_xlabel("median milliseconds a text query, encoding included", color=GREY)
    panel.set_ylabel("queries with their image in the top K (%)", color=GREY)
    panel.set_title("Candidates that the alignment head re-ranks", loc="left", fontsize=11, color=INK)
    panel.grid(color=FAINT)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.margins(x=0.12, y=0.1)
    for axis_format in (panel.xaxis.set_major_formatter, panel.xaxis.set_minor_formatter):
        axis_format(FuncFormatter(lambda value, _: f"{value:g}"))
    save_figure(figure, path, dpi=150)
