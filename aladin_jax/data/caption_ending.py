"""How captions end: what a model was trained with, a query needs too.

The alignment head leaves out `[SEP]` and the last word piece. Where the training captions end in a period that is the
period; of a text without one it is the last word.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from aladin_jax.data.records import Split

ORIGINAL_ENDING = "."
"""Of the captions that the original's checkpoints were trained on."""

_ENDS_OF_SENTENCES = ".!?…。！？।؟"  # noqa: RUF001
_SAMPLED_IMAGES = 256  # of VinVL's regions, 70 MB to read


def find_ending(captions: Iterable[str]) -> str:
    """The punctuation mark that more than half of the captions end in; empty if there is none."""
    counts = Counter(_last_mark(caption) for caption in captions)
    [(ending, count)] = counts.most_common(1) or [("", 0)]
    return ending if 2 * count > counts.total() else ""


def ending_of_split(split: Split) -> str:
    """`find_ending` of images spread evenly over a split."""
    rows = np.linspace(0, split.num_images - 1, min(split.num_images, _SAMPLED_IMAGES)).astype(int)
    captions = (c for row in rows.tolist() if split.caption_counts[row] for c in split.read(row).captions)
    return find_ending(captions)


def with_ending(text: str, ending: str | None) -> str:
    """A text with an ending in place of other marks that end a sentence; None or no ending leaves it as it is."""
    if not ending or text.endswith(ending):
        return text
    return (text.rstrip(f"{_ENDS_OF_SENTENCES} \t\r\n") or text) + ending


def _last_mark(caption: str) -> str:
    last = caption.rstrip()[-1:]
    return last if last and unicodedata.category(last).startswith("P") else ""
