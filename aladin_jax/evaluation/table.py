"""The report of an evaluation: a table on the screen, `report.json`, and scalars for TensorBoard.

A report is `{name: {head: {metric: value}}}`: name a split, a keys file or the folds, head `matching` or `alignment`,
and the metrics those of `aladin_jax.evaluation.metrics`.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aladin_jax.evaluation.confidence import HIGH, LEVEL, LOW

Reports = Mapping[str, Mapping[str, Mapping[str, float]]]

DIRECTIONS = {"i2t": "image to text", "t2i": "text to image"}
COLUMNS = ("R@1", "R@5", "R@10", "medr", "meanr")


def print_reports(reports: Reports, console: Console | None = None, untrained: Collection[str] = ()) -> None:
    """Prints one table a report: a row for each head and direction; rsum stands in the head's first row.

    Metrics other than recalls and ranks come in a second table.

    Args:
        reports: what to print; recalls in percent, ranks from 1.
        console: where to; standard output when left out.
        untrained: heads that were never trained; their rows say so.
    """
    console = console or Console()
    for name, heads in reports.items():
        title = Text(name, "bold")
        console.print(_recall_table(title, heads, untrained))
        if any(_other_metrics(metrics) for metrics in heads.values()):
            console.print(_table_of_others(title, heads))


def _recall_table(title: Text, heads: Mapping[str, Mapping[str, float]], untrained: Collection[str]) -> Table:
    """A row for each direction, and one below it for the recalls' intervals where the report has them."""
    table = empty_table(title, ("head", "direction"), (*COLUMNS, "rsum"))
    for head, metrics in heads.items():
        for row, (direction, label) in enumerate(DIRECTIONS.items()):
            names = [f"{direction}/{column}" for column in COLUMNS] + ["rsum"]
            shown = names if row == 0 else names[:-1]
            values = [f"{metrics[name]:.1f}" for name in shown]
            intervals = [_interval(metrics, name) for name in shown]
            mark = "  untrained" if head in untrained else ""
            table.add_row(Text(mark if row else head), label, *values, end_section=row > 0 and not any(intervals))
            if any(intervals):
                table.add_row("", f"{LEVEL} % interval", *intervals, style="dim", end_section=row > 0)
    return table


def _table_of_others(title: Text, heads: Mapping[str, Mapping[str, float]]) -> Table:
    table = empty_table(title, ("head", "metric"), DIRECTIONS.values())
    for head, metrics in heads.items():
        names = _other_metrics(metrics)
        for row, name in enumerate(names):
            values = [_with_interval(metrics, f"{direction}/{name}") for direction in DIRECTIONS]
            table.add_row(Text("" if row else head), Text(name), *values, end_section=row == len(names) - 1)
    return table


def _other_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Names, without the direction, of the metrics that the recall table has no column for."""
    names = [name.split("/", 1)[1] for name in metrics if name.startswith(tuple(f"{d}/" for d in DIRECTIONS))]
    return [name for name in dict.fromkeys(names) if name not in COLUMNS and not name.endswith((LOW, HIGH))]


def _with_interval(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    interval = f" ({metrics[name + LOW]:.2f}-{metrics[name + HIGH]:.2f})" if name + LOW in metrics else ""
    return f"{metrics[name]:.2f}{interval}"


def _interval(metrics: Mapping[str, float], name: str) -> str:
    return f"{metrics[name + LOW]:.0f}-{metrics[name + HIGH]:.0f}" if name + LOW in metrics else ""


def empty_table(title: str | Text, texts: Iterable[str], numbers: Iterable[str]) -> Table:
    """A table with a title and two kinds of columns, and no row yet."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in texts:
        table.add_column(column, no_wrap=True)
    for column in numbers:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def print_all_reports(kept: Iterable[tuple[Mapping[str, Any], Reports]], console: Console | None = None) -> None:
    """Prints one table of several evaluations: a row for each head of each.

    Args:
        kept: what each is of, as `protocol.Protocol` has it, and its reports.
        console: where to; standard output when left out.
    """
    console = console or Console()
    numbers = [*(f"{direction}\n{column}" for direction in DIRECTIONS for column in COLUMNS[:3]), "rsum"]
    table = empty_table(Text("all reports of this workdir", "bold"), ("report", "head"), numbers)
    for column in table.columns[:2]:
        column.no_wrap, column.overflow = False, "fold"
    for of, reports in kept:
        step = "" if of["step"] is None else f", step {of['step']}"
        for name, heads in reports.items():
            about = iter([of["name"] if name == of["split"] else name, f"{of['images']:,} images{step}"])
            for head, metrics in heads.items():
                values = [f"{metrics[f'{d}/{k}']:.1f}" for d in DIRECTIONS for k in COLUMNS[:3]]
                mark = "*" if head in of["untrained_heads"] else ""
                table.caption = table.caption or ("* never trained" if mark else None)
                table.add_row(*map(Text, [next(about, ""), f"{head}{mark}", *values, f"{metrics['rsum']:.1f}"]))
            table.add_section()
    console.print(table)


def report_scalars(reports: Reports) -> dict[str, float]:
    """Values by TensorBoard's names: `<report>/<head>/i2t/R@1`, ..., `<report>/<head>/rsum`."""
    return {
        f"{name}/{head}/{metric}": value
        for name, heads in reports.items()
        for head, metrics in heads.items()
        for metric, value in metrics.items()
    }
