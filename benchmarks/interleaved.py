"""Times several ways of doing the same work, in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def time_in_turns(ways: Mapping[str, Callable[[], Any]], *, runs: int) -> dict[str, list[float]]:
    """Runs every way once untimed (compilation, caches), then all of them in turns.

    Args:
        ways: functions without arguments; results on a device are waited for.
        runs: how often each is timed.

    Returns:
        Seconds of each run.
    """
    for way in ways.values():
        jax.block_until_ready(way())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            jax.block_until_ready(way())
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum, to four significant digits."""
    return {
        "min": significant(min(values)),
        "median": significant(statistics.median(values)),
        "max": significant(max(values)),
    }


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> dict[str, float]:
    """Spread of the ratio within each turn."""
    return spread([a / b for a, b in zip(numerators, denominators, strict=True)])


def significant(value: float) -> float:
    """Rounds to four significant digits."""
    return float(f"{value:.4g}")
