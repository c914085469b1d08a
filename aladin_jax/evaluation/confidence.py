"""How far a recall may be off because another sample of queries would have given another one: the bootstrap.

Queries are drawn anew from those there are, with replacement, and the metric is computed again. A recall is the mean of
a few distinct values (0 or 1), so how often each is drawn follows a multinomial distribution, and drawing from that is
the same as drawing queries, in a thousandth of the time. The captions of an image count as queries of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int, Num

from aladin_jax.evaluation.recall import CUTOFFS

DRAWS = 10_000
LEVEL = 95  # percent
LOW, HIGH = "/low", "/high"  # what a metric's name gets for the ends of its interval


def resampled_means(values: Num[np.ndarray, " q"], rng: np.random.Generator) -> Float[np.ndarray, " n"]:
    """Means of `DRAWS` bootstrap samples of the values, one value a query."""
    distinct, counts = np.unique(values, return_counts=True)
    return rng.multinomial(len(values), counts / len(values), size=DRAWS) @ distinct / len(values)


def interval(samples: Float[np.ndarray, " n"], comparisons: int = 1) -> tuple[float, float]:
    """The middle 95 % of bootstrap samples (percentile interval; Efron and Tibshirani, 1993, chapter 13).

    Where there are several `comparisons`, it is wider, so that all hold together in 95 % (Bonferroni).
    """
    tail = (100 - LEVEL) / 2 / comparisons
    low, high = np.percentile(samples, [tail, 100 - tail])
    return float(low), float(high)


def sum_interval(
    values: Mapping[str, Num[np.ndarray, " q"]], rng: np.random.Generator, comparisons: int = 1
) -> tuple[float, float]:
    """The interval of the sum of some means, of queries that are drawn apart: one value a query, by direction."""
    samples = sum((resampled_means(of_direction, rng) for of_direction in values.values()), start=np.zeros(DRAWS))
    return interval(samples, comparisons)


def mean_interval(values: Float[np.ndarray, " q"], rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the mean of percentages; for the draws, they are rounded to a tenth."""
    rounded = np.round(values, 1)
    return interval(resampled_means(rounded, rng) + (values.mean() - rounded.mean()))


def per_query_recalls(ranks: Mapping[str, Int[np.ndarray, " q"]]) -> dict[str, dict[str, Num[np.ndarray, " q"]]]:
    """What each query adds to a recall, in percent: by metric, then direction.

    A recall has one direction; `rsum` has both, and in each the sum of the query's hits over the cut-offs.
    """
    hits = {d: {k: 100.0 * (some < k) for k in CUTOFFS} for d, some in ranks.items()}
    recalls = {f"{d}/R@{k}": {d: hit} for d, of_cutoff in hits.items() for k, hit in of_cutoff.items()}
    return recalls | {"rsum": {d: np.sum(list(of_cutoff.values()), axis=0) for d, of_cutoff in hits.items()}}


def recall_intervals(ranks: Mapping[str, Int[np.ndarray, " q"]], seed: int = 0) -> dict[str, float]:
    """95 % intervals of the recalls and of rsum.

    Args:
        ranks: of the queries by direction, from 0.
        seed: of the draws.

    Returns:
        `i2t/R@1/low`, `i2t/R@1/high`, ..., `rsum/low`, `rsum/high`.
    """
    rng = np.random.default_rng(seed)
    report = {}
    for name, of_direction in per_query_recalls(ranks).items():
        report[name + LOW], report[name + HIGH] = sum_interval(of_direction, rng)
    return report
