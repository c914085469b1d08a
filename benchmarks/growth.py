"""Draws how time and memory grow, from the JSON line of `benchmarks.scoring` or `benchmarks.train_step` with --sizes.

python -m benchmarks.growth scoring.json --output scoring_growth.png
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from aladin_jax.evaluation.figure import COLOURS, FAINT, GREY, INK
from aladin_jax.files import write_whole


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads a report and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="a file whose last line is a benchmark's JSON")
    parser.add_argument("--output", type=Path, required=True, help="the PNG file")
    args = parser.parse_args(arguments)
    write_whole(args.output, draw(json.loads(args.report.read_text(encoding="utf-8").splitlines()[-1])))


def draw(report: dict[str, Any]) -> bytes:
    """Two panels, seconds and gigabytes, on logarithmic axes; each point says its value.

    Raises:
        ValueError: the report measured no growth.
    """
    rows = report.get("growth", [])
    if not rows:
        raise ValueError("the report has no sizes; run the benchmark with --sizes")
    size = "images" if "images" in rows[0] else "pairs"
    label = "images, with 5 captions each" if size == "images" else "pairs in the batch"
    seconds = [row["seconds"]["median"] if isinstance(row["seconds"], dict) else row["seconds"] for row in rows]
    sizes = [row[size] for row in rows]
    figure = Figure(figsize=(9, 3.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    title = {"scoring": "Scoring all pairs", "train_step": "One training step"}[report["benchmark"]]
    title += f": {report['hardware']['cores']} cores, {report['hardware']['processor']}"
    figure.suptitle(title, x=0.012, ha="left", fontsize=11, color=INK)
    time_panel, memory_panel = figure.subplots(1, 2)
    _draw_panel(time_panel, sizes, seconds, "seconds", COLOURS[0])
    _draw_panel(memory_panel, sizes, [row["peak_memory_bytes"] / 1e9 for row in rows], "peak memory (GB)", COLOURS[1])
    for panel in (time_panel, memory_panel):
        panel.set_xlabel(label, loc="left", fontsize=9, color=GREY)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=160)
    return image.getvalue()


def _draw_panel(panel: Axes, sizes: list[int], values: list[float], title: str, colour: str) -> None:
    panel.loglog(sizes, values, marker="o", color=colour)
    panel.set_title(title, loc="left", fontsize=10, color=INK)
    for size, value in zip(sizes, values, strict=True):
        panel.annotate(f"{value:.3g}", (size, value), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(min(values) / 2, max(values) * 2)
    panel.grid(color=FAINT)
    panel.tick_params(colors=GREY, labelsize=8)
    for spine in panel.spines.values():
        spine.set_visible(False)


if __name__ == "__main__":
    main()
