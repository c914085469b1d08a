"""Findings as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_BAR = 40


def format_findings(found: Mapping[str, Any]) -> str:
    """Lays out nested plain data: names on the left, values on the right, histograms as bars, problems last."""
    problems = found.get("problems", [])
    lines = _rows({name: value for name, value in found.items() if name != "problems"}, 0)
    width = min(56, max(len(left) for left, _ in lines))
    text = [f"{left:{width}}  {right}".rstrip() if right else left for left, right in lines]
    last = f"PROBLEMS: {len(problems)}" if problems else "no problems found"
    return "\n".join([*text, "", last, *(f"  - {problem}" for problem in problems)])


def _rows(found: Mapping[str, Any], depth: int) -> list[tuple[str, str]]:
    rows = []
    for name, value in found.items():
        left = "  " * depth + name
        if isinstance(value, Mapping) and value:
            rows.append((left, ""))
            rows += _bars(value, depth + 1) if name == "histogram" else _rows(value, depth + 1)
        elif isinstance(value, list) and value:
            rows.append((left, ""))
            rows += [("  " * (depth + 1) + str(item), "") for item in value]
        else:
            rows.append((left, _shown(value)))
    return rows


def _bars(counts: Mapping[str, int], depth: int) -> list[tuple[str, str]]:
    most = max(1, *counts.values())
    digits = max(len(f"{count:,}") for count in counts.values())
    return [
        (f"{'  ' * depth}{name:>7}", f"{count:{digits},} {'#' * -(-count * _BAR // most)}".rstrip())
        for name, count in counts.items()
    ]


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if isinstance(value, list | Mapping) else str(value)
