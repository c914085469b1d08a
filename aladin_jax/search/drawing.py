"""Draws results: the pictures, and on them the regions that answered the words."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from PIL import Image

from aladin_jax.evaluation.figure import COLOURS, GREY, INK, new_figure, save_figure
from aladin_jax.search.results import Hit, Results

MAX_DRAWN = 20
_COLUMNS = 4
_PLAIN = "#f0f0f0"


def save_results(results: Results, pictures: Iterable[bytes], title: str, path: str | os.PathLike[str]) -> None:
    """Draws the first results as a PNG, each with its caption, if it has one, and the regions that answered the words.

    Args:
        results: of any query.
        pictures: a JPEG file for each result, as many as are drawn; for none, a plain square is drawn.
        title: the query.
        path: the PNG file; an earlier one is replaced.
    """
    hits = results.hits[:MAX_DRAWN]
    rows = -(-len(hits) // _COLUMNS)
    figure = new_figure(3.4 * _COLUMNS, 0.6 + 4.1 * rows)
    figure.suptitle(_plain(title), x=0.01, ha="left", fontsize=13, weight="bold", color=INK)
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).reshape(-1)
    for panel in panels:
        panel.set_axis_off()
    for rank, (hit, picture, panel) in enumerate(zip(hits, pictures, panels, strict=False), 1):
        _draw_hit(panel, hit, picture, rank)
    save_figure(figure, path, dpi=130)


def _draw_hit(panel: Axes, hit: Hit, picture: bytes, rank: int) -> None:
    image = Image.open(io.BytesIO(picture)) if picture else Image.new("RGB", (160, 160), _PLAIN)
    width, height = image.size
    panel.imshow(image, interpolation="lanczos")
    words: dict[tuple[float, ...], list[str]] = {}  # by box: a region may answer several words
    for answer in hit.why:
        if answer.region is not None and answer.region.box is not None:
            words.setdefault(answer.region.box, []).append(f"{answer.word} {answer.score:.2f}")
    for number, ((x1, y1, x2, y2), lines) in enumerate(words.items()):
        colour = COLOURS[number % len(COLOURS)]
        corner = (x1 * width, y1 * height)
        panel.add_patch(
            Rectangle(corner, (x2 - x1) * width, (y2 - y1) * height, fill=False, edgecolor=colour, linewidth=1.8)
        )
        panel.text(
            *corner,
            _plain("\n".join(lines)),
            va="top",
            fontsize=6,
            color="white",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
            clip_on=True,
        )
    alignment = "" if hit.alignment is None else f"  alignment {hit.alignment:.3f}"
    caption = "" if hit.caption is None else f"\n{textwrap.shorten(hit.caption, 120)}"
    text = f"{rank}. {hit.id}  matching {hit.matching:.3f}{alignment}{caption}"
    panel.set_title(_plain(textwrap.fill(text, 42, replace_whitespace=False)), loc="left", fontsize=8, color=GREY)


def _plain(text: str) -> str:
    """Text that Matplotlib does not take for a formula."""
    return text.replace("$", r"\$")
