"""How well a model could do on the scenes, and how much of a shape its features show.

`python -m demo.quality` prints both. The ceiling is that of a model that knows for every picture
whether a caption is true of it, and guesses among those that are.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from demo.captions import describe
from demo.detections import detect
from demo.drawing import draw
from demo.region_features import FEATURE_DIM, region_features
from demo.scene import COLOURS, SIDE, Scene, sample_scene
from demo.silhouettes import KINDS

_RIDGE = 1e-2  # of the features' mean variance


@dataclasses.dataclass(frozen=True)
class Ceiling:
    """What a perfect model would reach on some scenes.

    Attributes:
        image_to_text: chance that the caption it picks for a picture is one of the picture's own.
        text_to_image: chance that the picture it picks for a caption is the caption's own.
        captions_true: captions that are true of a picture, on average, its own included.
        pictures_meant: pictures that a caption is true of, on average.
    """

    image_to_text: float
    text_to_image: float
    captions_true: float
    pictures_meant: float


def ceiling(scenes: Sequence[Scene]) -> Ceiling:
    """Holds every caption of the scenes against every scene."""
    captions = [describe(scene) for scene in scenes]
    true = np.array([[caption.holds(scene) for own in captions for caption in own] for scene in scenes])
    own = np.array([len(some) for some in captions])
    return Ceiling(
        image_to_text=float((own / true.sum(1)).mean()),
        text_to_image=float((1 / true.sum(0)).mean()),
        captions_true=float(true.sum(1).mean()),
        pictures_meant=float(true.sum(0).mean()),
    )


def probe(train: Sequence[Scene], test: Sequence[Scene]) -> dict[str, float]:
    """Reads colour and kind from region features with ridge regression.

    Args:
        train: scenes to fit on.
        test: scenes to try it on.

    Returns:
        The share of test regions whose colour, and whose kind, it names rightly.
    """
    features, labels = _labelled_regions(train)
    test_features, test_labels = _labelled_regions(test)
    classes = {"colour": tuple(COLOURS), "kind": KINDS}
    return {
        name: float((_ridge(features, labels[name], len(values), test_features) == test_labels[name]).mean())
        for name, values in classes.items()
    }


def _labelled_regions(scenes: Sequence[Scene]) -> tuple[Float[np.ndarray, "r d"], dict[str, Int[np.ndarray, " r"]]]:
    """Features of all boxes that lie on one shape, and what that shape is."""
    features, colours, kinds = [], [], []
    for scene in scenes:
        boxes = detect(scene).boxes
        overlap = np.array([[_overlap(box, np.array(shape.box)) for shape in scene.shapes] for box in boxes])
        sure = overlap.max(1) > 0.6
        features.append(region_features(draw(scene), boxes[sure])[:, :FEATURE_DIM])
        shapes = [scene.shapes[i] for i in overlap[sure].argmax(1)]
        colours += [list(COLOURS).index(shape.colour) for shape in shapes]
        kinds += [KINDS.index(shape.kind) for shape in shapes]
    return np.concatenate(features), {"colour": np.array(colours), "kind": np.array(kinds)}


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = np.prod(np.maximum(sides, 0))
    return float(shared / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared))


def _ridge(features: np.ndarray, labels: np.ndarray, classes: int, test_features: np.ndarray) -> np.ndarray:
    """The classes that ridge regression on one-hot labels gives the test features."""
    mean = features.mean(0)
    centred = (features - mean).astype(np.float64)
    targets = np.eye(classes)[labels]
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += _RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, centred.T @ (targets - targets.mean(0)))
    return ((test_features - mean) @ weights + targets.mean(0)).argmax(1)


def main() -> None:
    """Prints the ceiling and the probe's accuracies."""
    parser = argparse.ArgumentParser(prog="python -m demo.quality", description=__doc__)
    parser.add_argument("--train", type=int, default=1000, metavar="N", help="pictures to fit the probe on")
    parser.add_argument("--test", type=int, default=200, metavar="N", help="pictures to measure on")
    options = parser.parse_args()
    train, test = (
        [sample_scene(split, index) for index in range(size)]
        for split, size in (("train", options.train), ("test", options.test))
    )
    best = ceiling(test)
    print(f"of {len(test)} test pictures of {SIDE} x {SIDE} pixels, a perfect model would rank first")
    print(f"  image to text: a caption of its own for {best.image_to_text:.1%} of the pictures")
    print(f"  text to image: its own picture for {best.text_to_image:.1%} of the captions")
    print(
        f"a caption is true of {best.pictures_meant:.2f} pictures, a picture has {best.captions_true:.2f} true captions"
    )
    for name, accuracy in probe(train, test).items():
        print(f"a linear probe reads the {name} of {accuracy:.1%} of the regions")


if __name__ == "__main__":
    main()
