"""What a sweep over the lengths of inputs shows: table, CSV file, heat map, the best lengths and how to use them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from aladin_jax.config import FIELD_OF_SETTING, LENGTHS
from aladin_jax.data.records import Split
from aladin_jax.evaluation import heat_map
from aladin_jax.evaluation.confidence import HIGH, LEVEL, LOW, per_query_recalls, sum_interval
from aladin_jax.evaluation.lengths import Measured
from aladin_jax.evaluation.table import DIRECTIONS, empty_table
from aladin_jax.files import write_whole
from aladin_jax.lineage import HEADS, untrained_heads
from aladin_jax.pretrained import PretrainedModel

CSV, PNG = "sweep.csv", "sweep.png"


def report_lengths(measured: Sequence[Measured], model: PretrainedModel, split: Split, output: Path) -> None:
    """Shows the sweep and writes its files."""
    heads = [head for head in HEADS if head not in untrained_heads(model.lineage)] or list(HEADS)
    best = max(measured, key=lambda of: sum(of.report[head]["rsum"] for head in heads))
    as_good = [of for of in measured if of is not best and not _differ(best, of, heads, len(measured) - 1)]
    write_whole(output / CSV, _csv(measured))
    axes = {name: sorted({of.lengths[place] for of in measured}) for place, name in enumerate(LENGTHS)}
    place_of = {of.lengths: tuple(map(list.index, axes.values(), of.lengths)) for of in measured}
    rsums = {head: np.zeros([len(values) for values in axes.values()]) for head in heads}
    for of in measured:
        for head in heads:
            rsums[head][place_of[of.lengths]] = of.report[head]["rsum"]
    title = f"rsum on {split.name}, {split.num_images:,} images; {model.described}"
    heat_map.save_heat_map(rsums, axes, output / PNG, best=place_of[best.lengths], title=title)
    Console().print(_table(measured, heads, best, as_good))
    print(_told(measured, heads, best, as_good, split, output))


def _differ(first: Measured, second: Measured, heads: Sequence[str], comparisons: int) -> bool:
    """Whether the heads' rsums together differ by more than chance, one of several times that this is asked.

    It is the paired bootstrap, as in `compare`.
    """

    def by_query(of: Measured, direction: str) -> np.ndarray:
        return np.sum([per_query_recalls(of.ranks.heads[head])["rsum"][direction] for head in heads], axis=0)

    differences = {direction: by_query(first, direction) - by_query(second, direction) for direction in DIRECTIONS}
    low, high = sum_interval(differences, np.random.default_rng(0), comparisons)
    return not low <= 0 <= high


def _csv(measured: Sequence[Measured]) -> bytes:
    """A row a setting and head: the lengths, and all metrics."""
    rows = [
        {**dict(zip(LENGTHS, of.lengths, strict=True)), "head": head, **metrics}
        for of in measured
        for head, metrics in of.report.items()
    ]
    content = io.StringIO()
    writer = csv.DictWriter(content, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return content.getvalue().encode()


def _table(measured: Sequence[Measured], heads: Sequence[str], best: Measured, as_good: Sequence[Measured]) -> Table:
    title = "rsum by lengths: * is the best, = cannot be told from it"
    of_heads = [f"{head}\n{column}" for head in heads for column in ("rsum", f"{LEVEL} %")]
    table = empty_table(title, (), ("caption", "labels", "regions", *of_heads, ""))
    for of in measured:
        values = [
            value
            for metrics in (of.report[head] for head in heads)
            for value in (f"{metrics['rsum']:.1f}", f"{metrics['rsum' + LOW]:.0f}-{metrics['rsum' + HIGH]:.0f}")
        ]
        mark = "*" if of is best else "=" if of in as_good else ""
        table.add_row(*map(str, of.lengths), *values, mark)
    return table


def _told(
    measured: Sequence[Measured],
    heads: Sequence[str],
    best: Measured,
    as_good: Sequence[Measured],
    split: Split,
    output: Path,
) -> str:
    """The best setting, what may do as well, and how to use it."""
    rsums = ", ".join(f"{head} {best.report[head]['rsum']:.1f}" for head in heads)
    lines = [f"best of {len(measured)}: {_named(best)}; rsum {rsums}", f"  {_flags(best)}"]
    shortest = min([best, *as_good], key=lambda of: sum(of.lengths))
    if shortest is not best:
        lines += [f"the shortest that cannot be told from it: {_named(shortest)}", f"  {_flags(shortest)}"]
    if len(measured) > 1:
        told = f"{len(as_good)} of the other {len(measured) - 1} cannot be told from it"
        lines.append(f"{told} (paired bootstrap over queries, {LEVEL} % for all together)")
        lines.append(f"the best of several is partly luck: report it on another split than {split.name}")
    return "\n".join([*lines, f"written to {output / CSV} and {output / PNG}"])


def _named(of: Measured) -> str:
    return ", ".join(f"{name} {length}" for name, length in zip(LENGTHS, of.lengths, strict=True))


def _flags(of: Measured) -> str:
    """For `--mode evaluate`, which takes other lengths than a run's only where that is asked for."""
    fields = [f"--config.{FIELD_OF_SETTING[name]}={length}" for name, length in zip(LENGTHS, of.lengths, strict=True)]
    return " ".join([*fields, "--config.eval.override=True"])
