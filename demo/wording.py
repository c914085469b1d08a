"""The words that captions are made of: templates, synonyms, and the vocabulary that holds them all."""

import re
import string

from demo.scene import COLOURS, PATTERNS, RADII, TONES
from demo.silhouettes import KINDS

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "cross": ("cross", "plus"),
    "ring": ("ring", "hoop"),
    "small": ("small", "tiny", "little"),
    "large": ("large", "big", "huge"),
    "purple": ("purple", "violet"),
    "dotted": ("dotted", "spotted"),
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "top left": ("in the top left", "at the upper left"),
    "top right": ("in the top right", "at the upper right"),
    "bottom left": ("in the bottom left", "at the lower left"),
    "bottom right": ("in the bottom right", "at the lower right"),
    "middle": ("in the middle", "at the centre"),
    "3": ("three",),
    "4": ("four",),
    "5": ("five",),
}
"""How a value may be said, the most usual way first; a value that is not here is said as it is."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "relation": ("{a} is {relation} {b}.", "there is {a} {relation} {b}.", "{a} lies {relation} {b}."),
    "relation and one more": ("{a} {relation} {b}, and {c}.", "{a} is {relation} {b}, with {c}."),
    "list": ("{a}, {b} and {c}.", "a picture of {a}, {b} and {c}.", "we see {a} with {b} and {c}."),
    "count": (
        "there are {number} shapes, among them {a} and {b}.",
        "{number} shapes, with {a} and {b}.",
        "a group of {number} with {a} and {b}.",
    ),
    "background": ("{a} and {b} on a {tone} {pattern} background.", "a {tone} {pattern} wall behind {a} and {b}."),
    "largest and smallest": ("the largest shape is {a} and the smallest is {b}.", "{a} is biggest, {b} smallest."),
    "largest": ("the largest shape is {a}, with {b}.", "{a} is bigger than {b} and the rest."),
    "place": ("{a} {place} and {b} {place_b}.", "{place} is {a}, {place_b} is {b}."),
    "hiding": ("{a} partly hides {b}.", "{b} is half hidden behind {a}.", "{a} in front of {b}."),
}
"""Sentences by what they speak of; `a`, `b` and `c` are shapes."""

DETECTED_PATTERNS = {"plain": "wall", "striped": "stripes", "checkered": "checks", "dotted": "dots", "shaded": "wall"}
"""The class that a detector gives the whole picture, by the background's pattern."""


def vocabulary() -> list[str]:
    """The tokens of a BERT vocabulary that covers every caption and tag, in the order of their ids.

    Single characters follow the words, both at the start of a word and within one, so that text from a user
    is spelled out where its words are not known.
    """
    said = [*KINDS, *RADII, *COLOURS, *PATTERNS, *TONES, *DETECTED_PATTERNS.values()]
    said += [phrase for phrases in SYNONYMS.values() for phrase in phrases]
    said += [re.sub(r"\{\w+\}", " ", template) for templates in TEMPLATES.values() for template in templates]
    words = sorted({word for phrase in said for word in re.findall(r"[a-z]+", phrase) if len(word) > 1} | {"an"})
    characters = string.ascii_lowercase + string.digits
    return [*SPECIAL_TOKENS, *words, *characters, *string.punctuation, *(f"##{c}" for c in characters)]
