"""The one JSON line that a benchmark ends with."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from pathlib import Path
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def print_report(benchmark: str, lengths: dict[str, Any], results: dict[str, Any]) -> None:
    """Prints the report of a benchmark.

    Args:
        benchmark: its name.
        lengths: sizes and lengths of the inputs.
        results: what was measured.
    """
    report = {"benchmark": benchmark, "hardware": hardware(), "versions": versions(), "lengths": lengths, **results}
    print(json.dumps(report), flush=True)


def hardware() -> dict[str, Any]:
    """Processor, memory and devices; the load tells whether the machine was busy with something else."""
    return {
        "processor": _line_of("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _line_of("/proc/meminfo", "MemTotal"),
        "devices": [device.device_kind for device in jax.devices()],
        "load_5_minutes": round(os.getloadavg()[1], 1),
    }


def versions() -> dict[str, str]:
    """Python and the packages that numbers depend on, where they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def peak_memory_bytes() -> int:
    """Largest resident size of this process since `reset_peak_memory`, in bytes."""
    line = _line_of("/proc/self/status", "VmHWM")
    return int(line.split()[0]) * 1024


def reset_peak_memory() -> None:
    """Starts `peak_memory_bytes` anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def _line_of(path: str, key: str) -> str:
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip()
    return ""
