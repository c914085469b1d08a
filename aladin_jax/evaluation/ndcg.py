"""nDCG@25: how near the first 25 items are to the best order that there could be, where relevance has degrees.

With the relevances `rel` of the items found, in their order, DCG = sum (2^rel - 1) / log2(rank + 1), rank from 1, and
nDCG is that by the DCG of the best order (Jarvelin and Kekalainen, TOIS 2002; gains as in Burges et al., ICML 2005).
TERN and TERAN report it for 25 items.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from absl import logging
from jaxtyping import Float

from aladin_jax.evaluation.confidence import HIGH, LOW, mean_interval
from aladin_jax.evaluation.recall import ROWS
from aladin_jax.evaluation.retrieval import Collection, Direction, Retrieval

CUTOFF = 25


class Ndcg:
    """The metric, in percent, with the 95 % interval of its mean over queries.

    Relevances and best orders are the same for both heads, and are kept from one to the other.
    """

    def __init__(self, name: str, relevance_of: Callable[[Collection], Float[np.ndarray, "i c"]]):
        """Takes where relevances come from.

        Args:
            name: of them, for the report.
            relevance_of: of all pairs, at least 0.
        """
        self._name, self._relevance_of = f"nDCG@{CUTOFF} {name}", relevance_of
        self._collection: Collection | None = None

    def __call__(self, retrieval: Retrieval) -> dict[str, float]:
        """The metric of one head.

        Queries that no item is relevant to are left out, which is logged; TERN's and TERAN's code leaves out all that
        have an nDCG of 0.
        """
        if self._collection is not retrieval.collection:
            self._collection, relevance = retrieval.collection, self._relevance_of(retrieval.collection)
            self._relevance: dict[Direction, np.ndarray] = {"i2t": relevance, "t2i": relevance.T}
            self._ideal = {direction: ideal_dcg(of_queries) for direction, of_queries in self._relevance.items()}
            for direction, ideal in self._ideal.items():
                if count := np.count_nonzero(ideal == 0):
                    logging.info("%s, %s: %d of %d queries have no relevant item, and are left out",
                                 self._name, direction, count, len(ideal))  # fmt: skip
        report, rng = {}, np.random.default_rng(0)
        for direction, relevance in self._relevance.items():
            ideal = self._ideal[direction]
            items, _ = retrieval.best(direction, CUTOFF)
            found = dcg(np.take_along_axis(relevance, items, axis=1))
            values = 100 * found[ideal > 0] / ideal[ideal > 0]
            name = f"{direction}/{self._name}"
            report[name] = float(values.mean())
            report[name + LOW], report[name + HIGH] = mean_interval(values, rng)
        return report


def dcg(relevance: Float[np.ndarray, "q k"]) -> Float[np.ndarray, " q"]:
    """DCG of items in their order."""
    gains = np.exp2(relevance, dtype=np.float64) - 1
    return (gains / np.log2(np.arange(relevance.shape[1]) + 2)).sum(axis=1)


def ideal_dcg(relevance: Float[np.ndarray, "q n"]) -> Float[np.ndarray, " q"]:
    """DCG of each query's most relevant items, best first."""
    count = min(CUTOFF, relevance.shape[1])
    best = [
        np.partition(relevance[start : start + ROWS], -count, axis=1)[:, -count:]
        for start in range(0, len(relevance), ROWS)
    ]
    return dcg(-np.sort(-np.concatenate(best), axis=1))
