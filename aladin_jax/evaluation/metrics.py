"""The metrics that a configuration may name: each a function of one head's answers that knows nothing of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from aladin_jax.config import MetricName
from aladin_jax.evaluation import confidence, recall
from aladin_jax.evaluation.retrieval import Retrieval

Metric = Callable[[Retrieval], dict[str, float]]


def recalls(retrieval: Retrieval) -> dict[str, float]:
    """R@K, median and mean rank, rsum, and the recalls' 95 % intervals."""
    ranks = retrieval.ranks
    return recall.report_of_ranks(ranks["i2t"], ranks["t2i"]) | confidence.recall_intervals(ranks)


def measure_all(metrics: Mapping[str, Metric], retrieval: Retrieval) -> dict[str, float]:
    """What all metrics say of one head."""
    return {name: value for metric in metrics.values() for name, value in metric(retrieval).items()}


def make_metrics(names: Sequence[MetricName], *, pmrp_dir: str) -> dict[str, Metric]:
    """The metrics of these names, ready to be asked.

    Args:
        names: of the configuration.
        pmrp_dir: for `eccv`, see `eccv.EccvCaption`.

    Raises:
        DataError: a package that a metric needs is not installed, or a file of it is missing.
    """
    makers: dict[MetricName, Callable[[], Metric]] = {"recall": lambda: recalls, "eccv": lambda: _eccv(pmrp_dir)}
    return {name: makers[name]() for name in names}


def _eccv(pmrp_dir: str) -> Metric:
    from aladin_jax.evaluation.eccv import EccvCaption

    return EccvCaption(pmrp_dir)
