"""The figure of an evaluation: R@K of the heads, both directions; and what all figures here have in common."""

import os
from collections.abc import Collection

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aladin_jax.evaluation.recall import CUTOFFS
from aladin_jax.evaluation.table import DIRECTIONS, Reports
from aladin_jax.files import whole_file

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")  # Okabe and Ito: told apart with any colour vision
INK, GREY, FAINT = "#222222", "#666666", "#e3e3e3"
OVER_GRID = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # a label hides the grid line behind it


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, in inches; made without pyplot, so that a session's backend, style and open figures stay."""
    figure = Figure(figsize=(width, height), facecolor="white", layout="constrained")
    if title:
        figure.suptitle(title, x=0.014, ha="left", fontsize=9, color=GREY)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 160) -> None:
    """Writes a figure as a PNG; an earlier one is replaced."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def save_recall_figure(
    reports: Reports, path: str | os.PathLike[str], *, title: str = "", untrained: Collection[str] = ()
) -> None:
    """Draws bars of R@1, R@5 and R@10 (percent), a row of panels a report and a column a direction, as a PNG.

    Args:
        reports: `{name: {head: {metric: value}}}`; at least one report, each with up to four heads.
        path: the PNG file; an earlier one is replaced.
        title: what the reports are of, above all panels.
        untrained: heads that were never trained; their bars are pale and say so.

    Raises:
        ValueError: there is no report.
    """
    if not reports:
        raise ValueError("a figure of no reports was asked for")
    figure = new_figure(9.5, 0.4 + 2.5 * len(reports) + (0.3 if title else 0), title)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    bands = figure.subfigures(len(reports), 1, squeeze=False)[:, 0]
    for band, (name, heads) in zip(bands, reports.items(), strict=True):
        band.suptitle(name, x=0.014, ha="left", fontsize=12, weight="bold", color=INK)
        panels = band.subplots(1, len(DIRECTIONS))
        for panel, (direction, label) in zip(panels, DIRECTIONS.items(), strict=True):
            recalls = {head: [metrics[f"{direction}/R@{k}"] for k in CUTOFFS] for head, metrics in heads.items()}
            _draw_panel(panel, recalls, untrained)
            panel.set_title(label, loc="left", fontsize=10, color=INK)
            if band is bands[-1]:
                panel.set_xlabel("queries with a hit in the top K (%)", loc="left", fontsize=9, color=GREY)
    save_figure(figure, path)


def _draw_panel(panel: Axes, recalls: dict[str, list[float]], untrained: Collection[str]) -> None:
    """Horizontal bars, K from top to bottom, the heads side by side; values and names stand at the bars."""
    thickness = 0.8 / len(recalls)
    for index, (head, values) in enumerate(recalls.items()):
        colour = COLOURS[index]
        for group, value in enumerate(values):
            height = group - 0.4 + (index + 0.5) * thickness
            pale = head in untrained
            panel.barh(height, value, height=0.92 * thickness, color=colour, alpha=0.3 if pale else 1.0)
            named = f"{head} (untrained)" if pale else head
            label = f"{value:.1f}  {named}" if group == 0 else f"{value:.1f}"
            panel.text(
                value + 1.5, height, label, va="center", fontsize=9, color=colour, bbox=OVER_GRID, in_layout=False
            )
    panel.set_yticks(range(len(CUTOFFS)), [f"R@{k}" for k in CUTOFFS], fontsize=10, color=INK)
    panel.invert_yaxis()
    panel.set_xlim(0, 136)  # beyond 100 there is room for the name at a full bar
    panel.set_xticks(range(0, 101, 25))
    panel.tick_params(length=0, labelsize=9, labelcolor=GREY)
    panel.grid(axis="x", color=FAINT)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color(GREY)
