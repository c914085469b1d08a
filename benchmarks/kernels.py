"""Counts what runs on a GPU: kernels and copies, whoever launched them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData

from benchmarks.interleaved import significant

COPIES = ("memcpy", "memset")


def kernels_of(run: Callable[[], Any]) -> dict[str, float] | None:
    """Kernels and copies that `run` launches, which waits for them, and milliseconds in either; None without a GPU."""
    if jax.default_backend() != "gpu":
        return None
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        [file] = Path(folder).rglob("*.xplane.pb")
        profile = ProfileData.from_file(str(file))
        events = [
            (event.name.lower(), event.duration_ns)
            for plane in profile.planes
            if plane.name.startswith("/device:GPU")
            for line in plane.lines
            if line.name.startswith("Stream")
            for event in line.events
        ]
    copies = [duration for name, duration in events if name.startswith(COPIES)]
    kernels = [duration for name, duration in events if not name.startswith(COPIES)]
    return {
        "kernels": len(kernels),
        "kernel_ms": significant(sum(kernels) / 1e6),
        "copies": len(copies),
        "copy_ms": significant(sum(copies) / 1e6),
    }
