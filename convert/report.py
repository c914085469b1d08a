"""The conversion report, as a table for people and as plain data for the record."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from convert.command import printable
from convert.conversion import Report
from convert.names import LAYER
from convert.sources import Checkpoint


def format_report(report: Report, source: Checkpoint, *, verbose: bool = False) -> str:
    """Lays out the report in aligned columns; layers are folded into one line unless `verbose`."""
    tensors = sum(len(entry.names) for entry, _ in report.converted)
    numbers = sum(math.prod(shape) for _, shape in report.converted)
    title = f"converted: {tensors} tensors ({numbers:,} numbers) into {len(report.converted)} parameters"
    lines = [title, *_aligned(_converted_rows(report, source, verbose))]
    if report.ignored:
        lines += ["", f"ignored: {len(report.ignored)} tensors", *_aligned(_ignored_rows(report, source, verbose))]
    if report.fresh:
        lines += ["", f"fresh, as no tensor holds them: {len(report.fresh)} parameters"]
        lines += _aligned([(name, str(list(shape))) for name, shape in report.fresh.items()])
    lines += ["", *(f"note: {printable(note)}" for note in report.notes)]
    return "\n".join(lines)


def report_data(report: Report, source: Checkpoint) -> dict[str, Any]:
    """Every tensor's fate and every fresh parameter, as JSON can hold them."""
    return {
        "converted": {
            source.keys[name]: {
                "parameter": entry.parameter,
                "shape": list(source.tensors[name].shape),
                "dtype": str(source.tensors[name].dtype).removeprefix("torch."),
            }
            for entry, _ in report.converted
            for name in entry.names
        },
        "ignored": {source.keys[name]: reason for name, reason in report.ignored.items()},
        "fresh": list(report.fresh),
        "notes": report.notes,
    }


def _converted_rows(report: Report, source: Checkpoint, verbose: bool) -> list[tuple[str, ...]]:
    rows = []
    for entry, shape in report.converted:
        target, names = f"{entry.parameter} {list(shape)}", entry.names
        if verbose:
            rows += [(source.keys[name], str(list(source.tensors[name].shape)), target) for name in names]
            continue
        pattern = _braced(entry.tensors).replace(LAYER, f"{{0..{(entry.layers or 1) - 1}}}")
        rows.append((f"{len(names)} x", pattern, str(list(source.tensors[names[0]].shape)), target))
    return rows


def _ignored_rows(report: Report, source: Checkpoint, verbose: bool) -> list[tuple[str, ...]]:
    if verbose:
        return [(source.keys[name], reason) for name, reason in report.ignored.items()]
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, reason in report.ignored.items():
        folded = re.sub(r"\d+", "*", name)
        groups[folded.rpartition(".")[0], reason].append(folded)
    return [(f"{len(names)} x", _braced(names), reason) for (_, reason), names in groups.items()]


def _braced(names: Iterable[str]) -> str:
    """Names of as many parts each, as one: `a.{x,y}.b`."""
    columns = [list(dict.fromkeys(column)) for column in zip(*(name.split(".") for name in names), strict=True)]
    return ".".join(column[0] if len(column) == 1 else f"{{{','.join(column)}}}" for column in columns)


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    rows = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
