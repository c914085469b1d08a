"""Five captions a scene, each from another point of view and in other words.

A sentence and what it claims are made together, so that one can count the pictures that it is true of.
"""

import itertools
from typing import NamedTuple

import numpy as np

from demo import claims
from demo.claims import Claim, Mention
from demo.scene import HIDES, Scene, Shape, hidden_share, place, relation
from demo.wording import SYNONYMS, TEMPLATES

CAPTIONS = 5
"""Captions a scene."""

_USUAL = 0.7  # how often the most usual of several words is taken
_SIZED = 0.25  # how often a shape's size is said


class Caption(NamedTuple):
    """A sentence and what it says; it is true of a scene if every claim is."""

    text: str
    claims: tuple[Claim, ...]

    def holds(self, scene: Scene) -> bool:
        """Whether the caption is true of `scene`."""
        return all(claim.holds(scene) for claim in self.claims)


class _Thought(NamedTuple):
    """What to say: one of `TEMPLATES`, the shapes and values that fill it, and the claims beyond their presence."""

    template: str
    mentions: list[Mention]
    values: dict[str, str]
    claims: tuple[Claim, ...]


def describe(scene: Scene) -> tuple[Caption, ...]:
    """The captions of a scene: as many as `CAPTIONS`, all different, always the same ones."""
    rng = np.random.default_rng((*scene.seed, 2))
    views = (_list, _count, _background, _relation, _place, _sizes)
    order = [views[i] for i in rng.permutation(len(views))]
    captions: dict[str, Caption] = {}
    # What hides what is rare, so it is always said; where a scene has too few aspects, some are spoken of again.
    for view in itertools.chain([_hiding], itertools.cycle(order)):
        thought = view(scene, rng)
        if thought is not None:
            caption = _say(thought, rng)
            captions.setdefault(caption.text, caption)
        if len(captions) == CAPTIONS:
            return tuple(captions.values())
    raise AssertionError("itertools.cycle never ends")


def _say(thought: _Thought, rng: np.random.Generator) -> Caption:
    """Puts a thought into words."""
    words = {name: _word(value, rng) for name, value in thought.values.items()}
    words |= {name: _noun_phrase(mention, rng) for name, mention in zip("abc", thought.mentions, strict=False)}
    templates = TEMPLATES[thought.template]
    text = templates[rng.integers(len(templates))].format(**words)
    return Caption(text, (claims.Present(tuple(thought.mentions)), *thought.claims))


def _noun_phrase(mention: Mention, rng: np.random.Generator) -> str:
    words = [_word(value, rng) for value in (mention.size, mention.colour, mention.kind) if value is not None]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _word(value: str, rng: np.random.Generator) -> str:
    usual, *others = SYNONYMS.get(value, (value,))
    return usual if not others or rng.random() < _USUAL else others[rng.integers(len(others))]


def _mentions(rng: np.random.Generator, *shapes: Shape) -> list[Mention]:
    return [Mention(s.colour, s.kind, s.size if rng.random() < _SIZED else None) for s in shapes]


def _some_shapes(scene: Scene, rng: np.random.Generator, number: int) -> list[Shape]:
    return [scene.shapes[i] for i in rng.permutation(len(scene.shapes))[:number]]


def _some_pair(pairs: list[tuple[Shape, Shape]], rng: np.random.Generator) -> tuple[Shape, Shape] | None:
    return pairs[rng.integers(len(pairs))] if pairs else None


def _hiding(scene: Scene, rng: np.random.Generator) -> _Thought | None:
    pairs = itertools.combinations(scene.shapes, 2)
    pair = _some_pair([(front, back) for back, front in pairs if hidden_share(front, back) >= HIDES], rng)
    if pair is None:
        return None
    front, back = mentions = _mentions(rng, *pair)
    return _Thought("hiding", mentions, {}, (claims.Hides(front, back),))


def _sizes(scene: Scene, rng: np.random.Generator) -> _Thought | None:
    large, small = claims.largest(scene), claims.smallest(scene)
    if large is None:
        return None
    a, b = mentions = [Mention(s.colour, s.kind) for s in (large, small or scene.shapes[scene.shapes[0] is large])]
    if small is None:
        return _Thought("largest", mentions, {}, (claims.Largest(a),))
    return _Thought("largest and smallest", mentions, {}, (claims.Largest(a), claims.Smallest(b)))


def _place(scene: Scene, rng: np.random.Generator) -> _Thought | None:
    placed = [pair for pair in itertools.permutations(scene.shapes, 2) if all(map(place, pair))]
    pair = _some_pair([(a, b) for a, b in placed if place(a) != place(b)], rng)
    if pair is None:
        return None
    mentions = [Mention(shape.colour, shape.kind) for shape in pair]  # the places alone fill a sentence
    values = {name: str(place(shape)) for name, shape in zip(("place", "place_b"), pair, strict=True)}
    where = tuple(claims.Located(m, value) for m, value in zip(mentions, values.values(), strict=True))
    return _Thought("place", mentions, values, where)


def _relation(scene: Scene, rng: np.random.Generator) -> _Thought | None:
    pair = _some_pair([pair for pair in itertools.permutations(scene.shapes, 2) if relation(*pair)], rng)
    if pair is None:
        return None
    third = [shape for shape in _some_shapes(scene, rng, 5) if shape not in pair][: rng.integers(2)]
    mentions = _mentions(rng, *pair, *third)
    stands = str(relation(*pair))
    template = "relation and one more" if third else "relation"
    return _Thought(template, mentions, {"relation": stands}, (claims.Related(mentions[0], stands, mentions[1]),))


def _background(scene: Scene, rng: np.random.Generator) -> _Thought:
    pattern, tone = scene.background.pattern, scene.background.tone
    mentions = _mentions(rng, *_some_shapes(scene, rng, 2))
    return _Thought("background", mentions, {"pattern": pattern, "tone": tone}, (claims.On(pattern, tone),))


def _list(scene: Scene, rng: np.random.Generator) -> _Thought:
    return _Thought("list", _mentions(rng, *_some_shapes(scene, rng, 3)), {}, ())


def _count(scene: Scene, rng: np.random.Generator) -> _Thought:
    number = len(scene.shapes)
    mentions = _mentions(rng, *_some_shapes(scene, rng, 2))
    return _Thought("count", mentions, {"number": str(number)}, (claims.Count(number),))
