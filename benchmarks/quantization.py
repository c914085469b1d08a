"""What int8 costs the candidates: the share of the exact first K that int8's hold, of an index or a drawn collection.

    python -m benchmarks.quantization --index runs/demo-index
    python -m benchmarks.quantization --drawn 10000

Vectors are rounded as Qdrant's documentation says of its scalar quantization, with the quantile that `--quantization
int8` sets: 99 % of all numbers lie between the bounds, what is beyond is cut to them, and 128 steps lie between; the
query is rounded too. Its embedded mode rounds nothing, so this stands in for a server's. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from aladin_jax.search.index import Index
from benchmarks import workload
from benchmarks.generated_collection import World
from benchmarks.interleaved import significant
from benchmarks.report import print_report

QUANTILE, STEPS = 0.99, 127
DEPTHS = (10, 100)


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--index", type=Path, help="its images and captions")
    source.add_argument("--drawn", type=int, metavar="N", help="images, drawn as search_scale draws them")
    parser.add_argument("--queries", type=int, default=1_000, help="captions to ask with, spread evenly")
    parser.add_argument("--width", type=int, default=workload.HIDDEN_SIZE, help="of drawn vectors")
    options = parser.parse_args(arguments)
    if options.index:
        index = Index(options.index)
        sides = (index.images, index.captions)
        images, captions = (np.concatenate([np.asarray(piece) for piece in side.vectors]) for side in sides)
    else:
        images, captions = World(0, options.width).vectors(options.drawn, min(options.queries, options.drawn))
    queries = captions[np.unique(np.linspace(0, len(captions) - 1, options.queries).astype(int))]
    lengths = {"images": len(images), "queries": len(queries), "width": images.shape[1]}
    print_report("quantization", lengths, kept_by_int8(images, queries))


def kept_by_int8(images: Float[np.ndarray, "i d"], queries: Float[np.ndarray, "q d"]) -> dict[str, float]:
    """Shares of the exact first K, in percent, by the name of what is compared.

    "among the first 100" are int8's first 100 scored again in float32, which is what re-ranking takes.
    """
    low, high = np.quantile(images, [(1 - QUANTILE) / 2, (1 + QUANTILE) / 2])
    exact, rough = queries @ images.T, rounded(queries, low, high) @ rounded(images, low, high).T
    kept = {f"recall@{k}": _overlap(_first(exact, k), _first(rough, k)) for k in DEPTHS if k < len(images)}
    again = np.where(_first(rough, DEPTHS[-1]), exact, -np.inf)
    return kept | {"recall@10 among the first 100": _overlap(_first(exact, 10), _first(again, 10))}


def rounded(vectors: Float[np.ndarray, "n d"], low: float, high: float) -> Float[np.ndarray, "n d"]:
    """What is left of vectors in int8."""
    step = (high - low) / STEPS
    return (np.rint((np.clip(vectors, low, high) - low) / step) * step + low).astype(np.float32)


def _first(scores: Float[np.ndarray, "q i"], k: int) -> Bool[np.ndarray, "q i"]:
    """Which are the k best of each row."""
    found = np.zeros(scores.shape, bool)
    np.put_along_axis(found, np.argpartition(-scores, k - 1)[:, :k], True, 1)
    return found


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    return significant(100 * float((one & other).sum() / one.sum()))


if __name__ == "__main__":
    main()
