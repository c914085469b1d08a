"""The figure of a sweep: rsum of each head as a function of three lengths."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from aladin_jax.evaluation.figure import GREY, INK, new_figure, save_figure


def save_heat_map(
    rsums: Mapping[str, Float[np.ndarray, "a b c"]],
    axes: Mapping[str, Sequence[int]],
    path: str | os.PathLike[str],
    *,
    best: Sequence[int],
    title: str,
) -> None:
    """Draws a row of panels for each head as a PNG; the axis with the fewest values goes from panel to panel.

    Args:
        rsums: by head, in the order of the axes.
        axes: the three axes' names and values.
        path: the PNG file; an earlier one is replaced.
        best: place of the setting to outline.
        title: what it is of, above all panels.
    """
    names = list(axes)
    apart = min(range(3), key=lambda axis: len(axes[names[axis]]))
    down, across = (axis for axis in range(3) if axis != apart)
    panels, rows, columns = (len(axes[names[axis]]) for axis in (apart, down, across))
    size = (1.6 + panels * (0.7 + 0.62 * columns), 0.6 + len(rsums) * (0.9 + 0.42 * rows))
    figure = new_figure(max(size[0], 6), size[1], title)
    grid = figure.subplots(len(rsums), panels, squeeze=False)
    for row, (head, values) in zip(grid, rsums.items(), strict=True):
        ordered = np.transpose(values, (apart, down, across))
        image = None
        for place, panel in enumerate(row):
            image = panel.imshow(ordered[place], cmap="cividis", vmin=values.min(), vmax=values.max(), aspect="auto")
            _write_values(panel, ordered[place], (values.min() + values.max()) / 2)
            panel.set_title(f"{head}, {names[apart]} {axes[names[apart]][place]}", loc="left", fontsize=9, color=INK)
            panel.set_xticks(range(columns), [str(value) for value in axes[names[across]]])
            panel.set_yticks(range(rows), [str(value) for value in axes[names[down]]])
            panel.tick_params(length=0, labelsize=9, labelcolor=GREY)
            panel.spines[:].set_visible(False)
            if panel in grid[-1]:
                panel.set_xlabel(names[across], fontsize=9, color=GREY)
            if place == 0:
                panel.set_ylabel(names[down], fontsize=9, color=GREY)
            if place == best[apart]:
                corner = (best[across] - 0.5, best[down] - 0.5)
                panel.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#d55e00", linewidth=3, clip_on=False))
        assert image is not None
        bar = figure.colorbar(image, ax=list(row), label="rsum")
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    save_figure(figure, path)


def _write_values(panel: Axes, values: Float[np.ndarray, "y x"], middle: float) -> None:
    for (y, x), value in np.ndenumerate(values):
        colour = "black" if value > middle else "white"
        panel.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color=colour)
