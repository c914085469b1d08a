"""A sheet of pictures with their detections and captions, to look at."""

import textwrap
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from demo.captions import describe
from demo.detections import detect
from demo.drawing import draw
from demo.scene import SIDE, Scene, sample_scene

_COLUMNS, _ROWS = 3, 2
_BOX_COLOURS = ("#00e5ff", "#ffea00", "#ff4081", "#76ff03", "#ff9100", "#e040fb")
_WRAP = 50  # characters of a line of captions


def save(path: str | Path, *, split: str = "test", seed: int = 88) -> None:
    """Draws the first pictures of a split, each with its boxes, its tags in their order and its captions.

    Args:
        path: a file name that ends in .png.
        split: `train`, `minival` or `test`.
        seed: of the data set.

    Raises:
        ValueError: the name ends otherwise.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: a preview is a PNG; give a name that ends in .png")
    figure = Figure(figsize=(3.8 * _COLUMNS, 6.0 * _ROWS))
    margins = {"left": 0.01, "right": 0.99, "top": 0.96, "bottom": 0.145, "wspace": 0.04, "hspace": 0.42}
    for index, axes in enumerate(figure.subplots(_ROWS, _COLUMNS, gridspec_kw=margins).flat):
        _picture(axes, sample_scene(split, index, seed))
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, format="png", dpi=66, pil_kwargs={"optimize": True})
    partial.replace(path)


def _picture(axes: Axes, scene: Scene) -> None:
    """One picture: a number links each tag above it to its box; the captions stand below."""
    boxes, tags = detect(scene)
    axes.imshow(draw(scene), extent=(0, SIDE, SIDE, 0), interpolation="nearest")
    for number, (x1, y1, x2, y2) in enumerate(boxes[1:].tolist(), 1):  # the first is the whole picture
        colour = _BOX_COLOURS[number % len(_BOX_COLOURS)]
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5))
        label = {"facecolor": colour, "edgecolor": "none", "pad": 1.0}
        axes.text(x1, y1, str(number), fontsize=8, va="center", ha="center", bbox=label)
    numbered = [tags[0], *(f"{number} {tag}" for number, tag in enumerate(tags[1:], 1))]
    axes.set_title(textwrap.fill("tags: " + ", ".join(numbered), _WRAP), fontsize=9, loc="left", color="#444444")
    captions = [textwrap.fill(caption.text, _WRAP, subsequent_indent="    ") for caption in describe(scene)]
    axes.text(0, -0.02, "\n".join(captions), transform=axes.transAxes, fontsize=9, va="top", linespacing=1.35)
    axes.set_axis_off()
