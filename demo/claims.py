"""What a caption says of a picture, in a form that can be held against any scene."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

from demo.scene import HIDES, Scene, Shape, hidden_share, place, relation

STANDS_OUT = 1.2
"""By how much the largest radius must exceed the next to be called the largest."""


class Mention(NamedTuple):
    """A shape as a caption names it; None is what it does not say."""

    colour: str
    kind: str
    size: str | None = None

    def fits(self, shape: Shape) -> bool:
        """Whether `shape` can be meant."""
        same = (self.colour, self.kind) == (shape.colour, shape.kind)
        return same and self.size in (None, shape.size)


class Present(NamedTuple):
    """There is a different shape for each mention."""

    mentions: tuple[Mention, ...]

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return _some(scene, self.mentions, lambda *shapes: True)


class Related(NamedTuple):
    """One shape stands `relation` (left, right, above, below) of the other."""

    first: Mention
    relation: str
    second: Mention

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return _some(scene, (self.first, self.second), lambda a, b: relation(a, b) == self.relation)


class Hides(NamedTuple):
    """One shape covers a part of the other."""

    front: Mention
    back: Mention

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        order = scene.shapes.index
        return _some(scene, (self.front, self.back), lambda a, b: order(a) > order(b) and hidden_share(a, b) >= HIDES)


class Located(NamedTuple):
    """A shape lies in a part of the picture, named as `scene.place` does."""

    mention: Mention
    place: str

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return _some(scene, (self.mention,), lambda shape: place(shape) == self.place)


class Largest(NamedTuple):
    """A shape is clearly larger than all others."""

    mention: Mention

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return _some(scene, (self.mention,), lambda shape: shape is largest(scene))


class Smallest(NamedTuple):
    """A shape is clearly smaller than all others."""

    mention: Mention

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return _some(scene, (self.mention,), lambda shape: shape is smallest(scene))


class Count(NamedTuple):
    """There are exactly `number` shapes, all kinds and colours together."""

    number: int

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return len(scene.shapes) == self.number


class On(NamedTuple):
    """The background has this pattern and this tone."""

    pattern: str
    tone: str

    def holds(self, scene: Scene) -> bool:
        """Whether it is true of `scene`."""
        return (scene.background.pattern, scene.background.tone) == (self.pattern, self.tone)


Claim = Present | Related | Hides | Located | Largest | Smallest | Count | On


def largest(scene: Scene) -> Shape | None:
    """The shape that is clearly larger than all others, if there is one."""
    *_, second, first = sorted(scene.shapes, key=lambda shape: shape.radius)
    return first if first.radius >= STANDS_OUT * second.radius else None


def smallest(scene: Scene) -> Shape | None:
    """The shape that is clearly smaller than all others, if there is one."""
    first, second, *_ = sorted(scene.shapes, key=lambda shape: shape.radius)
    return first if second.radius >= STANDS_OUT * first.radius else None


def _some(scene: Scene, mentions: tuple[Mention, ...], condition: Callable[..., bool]) -> bool:
    """Whether different shapes that fit the mentions meet the condition."""
    meant = [[shape for shape in scene.shapes if mention.fits(shape)] for mention in mentions]
    return any(
        condition(*shapes)
        for shapes in itertools.product(*meant)
        if len({id(shape) for shape in shapes}) == len(shapes)
    )
