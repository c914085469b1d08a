"""Times several ways of doing the same work, in turns, so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax


def time_in_turns(ways: Mapping[str, Callable[[], Any]], *, runs: int, calls: int = 1) -> dict[str, list[float]]:
    """Runs every way once untimed (compilation, caches), then all of them in turns.

    Args:
        ways: functions without arguments; results on a device are waited for.
        runs: how often each is timed.
        calls: of a way in a run, one after the other, where one is too short to time.

    Returns:
        Seconds a call, of each run.
    """
    for way in ways.values():
        jax.block_until_ready(way())
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            started = time.perf_counter()
            for _ in range(calls):
                jax.block_until_ready(way())
            seconds[name].append((time.perf_counter() - started) / calls)
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
