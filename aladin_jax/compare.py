"""Compares the recalls of runs that were evaluated on the same queries.

python -m aladin_jax.compare A/report.json B/report.json           # what differs between two runs, and is it chance?
python -m aladin_jax.compare --seeds A/report.json B/report.json ...   # runs of one regime: mean and deviation
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from aladin_jax.errors import DataError
from aladin_jax.evaluation.confidence import LEVEL, per_query_recalls, sum_interval
from aladin_jax.evaluation.query_ranks import QueryRanks, read_query_ranks
from aladin_jax.evaluation.table import empty_table
from aladin_jax.files import check_local_options


class Difference(NamedTuple):
    """A recall of two runs, in percent.

    Attributes:
        head: of the model.
        metric: such as `i2t/R@1`, or `rsum`.
        first: of the first run.
        second: of the second run.
        low: lower end of the 95 % interval of second - first.
        high: its upper end.
    """

    head: str
    metric: str
    first: float
    second: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return not self.low <= 0 <= self.high


def compare(first: QueryRanks, second: QueryRanks, seed: int = 0) -> list[Difference]:
    """The paired bootstrap: queries are drawn anew, and both runs are asked the same ones.

    Args:
        first: ranks of one run.
        second: of the other, on the same queries.
        seed: of the draws.

    Returns:
        What differs in every recall and in rsum, for the heads that both have.
    """
    rng = np.random.default_rng(seed)
    differences = []
    for head in [head for head in first.heads if head in second.heads]:
        of_second = per_query_recalls(second.heads[head])
        for metric, of_direction in per_query_recalls(first.heads[head]).items():
            other = of_second[metric]
            low, high = sum_interval({name: other[name] - one for name, one in of_direction.items()}, rng)
            differences.append(Difference(head, metric, _total(of_direction), _total(other), low, high))
    return differences


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m aladin_jax.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", type=Path, metavar="report.json", help="of --mode evaluate")
    parser.add_argument("--seeds", action="store_true", help="the runs differ in their seed alone: summarise them")
    options = parser.parse_args(argv)
    if len(options.reports) != 2 and not (options.seeds and len(options.reports) > 2):
        parser.error("give two reports, or with --seeds two or more")
    try:
        check_local_options(options)
        runs = _read(options.reports)
        table = _seeds_table(runs) if options.seeds else _difference_table(compare(runs[0], runs[1]))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Console().print(table)
    return 0


def _read(reports: Sequence[Path]) -> list[QueryRanks]:
    """Ranks of all runs.

    Raises:
        DataError: they are not of the same queries, or have no head in common.
    """
    runs = [read_query_ranks(report) for report in reports]
    for run, report in zip(runs[1:], reports[1:], strict=True):
        same = run.image_ids == runs[0].image_ids and np.array_equal(run.image_of_caption, runs[0].image_of_caption)
        if not same:
            problem = f"of other queries ({len(run.image_ids):,} images) than {reports[0]} ({len(runs[0].image_ids):,})"
            raise DataError(problem, "evaluate both on the same split and keys", path=report)
        if not run.heads.keys() & runs[0].heads.keys():
            raise DataError(f"no head in common with {reports[0]}", path=report)
    return runs


def _total(of_direction: Mapping[str, np.ndarray]) -> float:
    return sum(float(values.mean()) for values in of_direction.values())


def _difference_table(differences: Sequence[Difference]) -> Table:
    title = "second - first, paired bootstrap over queries; * is significant"
    table = empty_table(title, ("head", "metric"), ("first", "second", "difference", f"{LEVEL} %", ""))
    for of in differences:
        table.add_row(
            of.head, of.metric, f"{of.first:.1f}", f"{of.second:.1f}", f"{of.second - of.first:+.1f}",
            f"{of.low:+.1f} to {of.high:+.1f}", "*" if of.significant else "",
            end_section=of.metric == "rsum",
        )  # fmt: skip
    return table


def _seeds_table(runs: Sequence[QueryRanks]) -> Table:
    table = empty_table(f"{len(runs)} runs", ("head", "metric"), ("mean", "deviation", "lowest", "highest"))
    for head in [head for head in runs[0].heads if all(head in run.heads for run in runs)]:
        of_run = [
            {metric: _total(values) for metric, values in per_query_recalls(run.heads[head]).items()} for run in runs
        ]
        for metric in of_run[0]:
            values = np.array([recalls[metric] for recalls in of_run])
            shown = (values.mean(), values.std(ddof=1), values.min(), values.max())
            table.add_row(head, metric, *(f"{value:.1f}" for value in shown), end_section=metric == "rsum")
    return table


if __name__ == "__main__":
    sys.exit(main())
