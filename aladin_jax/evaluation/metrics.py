"""The metrics that a configuration may name: each a function of one head's answers that knows nothing of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from aladin_jax.config import MetricName
from aladin_jax.evaluation import confidence, grades, recall
from aladin_jax.evaluation.eccv import EccvCaption
from aladin_jax.evaluation.ndcg import Ndcg
from aladin_jax.evaluation.retrieval import Retrieval
from aladin_jax.evaluation.rouge import rouge_l

Metric = Callable[[Retrieval], dict[str, float]]


def recalls(retrieval: Retrieval) -> dict[str, float]:
    """R@K, median and mean rank, rsum, and the recalls' 95 % intervals."""
    return recalls_of_ranks(retrieval.ranks)


def recalls_of_ranks(ranks: Mapping[str, Int[np.ndarray, " q"]]) -> dict[str, float]:
    """`recalls` of ranks that are known already, by direction."""
    return recall.report_of_ranks(ranks["i2t"], ranks["t2i"]) | confidence.recall_intervals(ranks)


def measure_all(metrics: Mapping[str, Metric], retrieval: Retrieval) -> dict[str, float]:
    """What all metrics say of one head."""
    return {name: value for metric in metrics.values() for name, value in metric(retrieval).items()}


def make_metrics(names: Sequence[MetricName], *, pmrp_dir: str, relevance: str, cache: Path) -> dict[str, Metric]:
    """The metrics of these names, ready to be asked.

    Args:
        names: of the configuration.
        pmrp_dir: for `eccv`, see `eccv.EccvCaption`.
        relevance: for `ndcg`, a file of grades, see `grades`; empty for ROUGE-L.
        cache: for `ndcg`, where ROUGE-L is kept, see `rouge.rouge_l`.

    Raises:
        DataError: a package that a metric needs is not installed, or a file of it is missing or malformed.
    """
    makers: dict[MetricName, Callable[[], Metric]] = {
        "recall": lambda: recalls,
        "eccv": lambda: EccvCaption(pmrp_dir),
        "ndcg": lambda: _ndcg(relevance, cache),
    }
    return {name: makers[name]() for name in names}


def _ndcg(relevance: str, cache: Path) -> Metric:
    if not relevance:
        return Ndcg("ROUGE-L", lambda collection: rouge_l(collection, cache))
    path = Path(relevance)
    given = grades.read_grades(path)
    return Ndcg("graded", lambda collection: grades.relevance_of_grades(given, path, collection))
