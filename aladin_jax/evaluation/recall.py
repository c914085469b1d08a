"""Retrieval metrics from all-pairs scores: R@1/5/10, median and mean rank, both directions, and rsum.

Pure NumPy. Nothing here knows of models or training: the scores come from either head, `S[i, c]` for image `i` and
caption `c`, and `image_of_caption[c]` says which image a caption describes. An image may have any number of captions.

Ranks start at 0. In i2t, an image's rank is that of the best placed of its own captions (so R@K is a hit when any of
them is in the top K); in t2i, a caption's rank is that of its image.

Ties. Among equal scores the later index is placed first: the order is the reverse of a stable ascending sort. It is
deterministic, and a model that gives every pair the same score stands at chance, where counting a tie in the query's
favour would give it R@1 = 100. It is also what the original's reversed `argsort` does wherever that is well defined.
NumPy's default `argsort` is not stable, and which of two equal scores it puts first depends on the processor: with
the golden data of `tests/golden/e2e`, this moves one image of `test_1k` (alignment) by one place, meanr 34.42 by the
rule and 34.40 in the file.

Memory. Scores are kept whole: float32, 4 * images * captions bytes (500 MB for 5,000 x 25,000), plus a few masks of
64 x `captions`. The one matrix gives every report (whole split, keys file, folds), and comparing entries of the same
matrix makes a rank exact: a caption's score with its own image, computed apart in a product of another shape, could
differ in the last bit from the block's and so outrank itself.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

CUTOFFS = (1, 5, 10)
# Images whose scores are compared at once.
ROWS = 64


def retrieval_ranks(
    scores: Float[np.ndarray, "i c"], image_of_caption: Int[np.ndarray, " c"]
) -> tuple[Int[np.ndarray, " i"], Int[np.ndarray, " c"]]:
    """Ranks in both directions, from 0, in one pass over the rows (golden: `unit/retrieval.npz`, `*_ranks`).

    Args:
        scores: all-pairs scores, higher is better.
        image_of_caption: the row that each caption describes.

    Returns:
        For each image the rank of its best placed caption, and for each caption the rank of its image.

    Raises:
        ValueError: shapes that disagree, an index outside the images, an image without captions, a score that is NaN
            or infinite.
    """
    _check(scores, image_of_caption)
    num_images, num_captions = scores.shape
    captions = np.arange(num_captions)
    own_scores = scores[image_of_caption, captions]
    best = _best_own_captions(own_scores, image_of_caption)
    image_ranks = np.zeros(num_images, np.int64)
    caption_ranks = np.zeros(num_captions, np.int64)
    for start in range(0, num_images, ROWS):
        rows = scores[start : start + ROWS]
        images = np.arange(start, start + len(rows))[:, None]
        finite = np.isfinite(rows).all(axis=1)  # here, not in _check: it saves a mask of the whole matrix
        if not finite.all():
            raise ValueError(f"image {start + finite.argmin()}: a score is NaN or infinite, so its rank is undefined")
        caption_ranks += ((rows > own_scores) | ((rows == own_scores) & (images > image_of_caption))).sum(axis=0)
        own = best[images]
        image_ranks[images[:, 0]] = ((rows > own_scores[own]) | ((rows == own_scores[own]) & (captions > own))).sum(
            axis=1
        )
    return image_ranks, caption_ranks


def _best_own_captions(own_scores: Float[np.ndarray, " c"], image_of_caption: Int[np.ndarray, " c"]) -> np.ndarray:
    """Of each image's own captions the best placed: that of the largest score, the last among equals."""
    order = np.lexsort((own_scores, image_of_caption))  # stable: equal scores keep the captions' order
    return order[np.cumsum(np.bincount(image_of_caption)) - 1]


def best(scores: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " k"]:
    """The places of the `count` largest scores, largest first, the later one first among equals."""
    if count <= 0:
        return np.zeros(0, np.int64)
    if count >= len(scores):
        return np.argsort(scores, kind="stable")[::-1]
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(scores[places], kind="stable")[::-1]][:count]


def retrieval_report(scores: Float[np.ndarray, "i c"], image_of_caption: Int[np.ndarray, " c"]) -> dict[str, float]:
    """Recalls and ranks of one head, both directions (golden: `unit/retrieval.npz`, `e2e/expected.json`).

    Args:
        scores: all-pairs scores, higher is better.
        image_of_caption: the row that each caption describes.

    Returns:
        `i2t/R@1`, `i2t/R@5`, `i2t/R@10` (percent), `i2t/medr` (the median rank, from 1, halves rounded down),
        `i2t/meanr` (from 1), the same for `t2i`, and `rsum`, the sum of the six recalls.

    Raises:
        ValueError: see `retrieval_ranks`.
    """
    return report_of_ranks(*retrieval_ranks(scores, image_of_caption))


def report_of_ranks(image_ranks: Int[np.ndarray, " i"], caption_ranks: Int[np.ndarray, " c"]) -> dict[str, float]:
    """`retrieval_report` of ranks that are known already, as `retrieval_ranks` gives them."""
    report = {}
    for direction, ranks in (("i2t", image_ranks), ("t2i", caption_ranks)):
        for cutoff in CUTOFFS:
            report[f"{direction}/R@{cutoff}"] = 100.0 * int(np.count_nonzero(ranks < cutoff)) / len(ranks)
        report[f"{direction}/medr"] = float(np.floor(np.median(ranks)) + 1)
        report[f"{direction}/meanr"] = float(ranks.mean() + 1)
    report["rsum"] = sum(value for name, value in report.items() if "/R@" in name)
    return report


def select_images(
    scores: Float[np.ndarray, "i c"], image_of_caption: Int[np.ndarray, " c"], images: Sequence[int] | np.ndarray
) -> tuple[Float[np.ndarray, "j k"], Int[np.ndarray, " k"]]:
    """Restricts the retrieval task to some images and their own captions, as a keys file does.

    Args:
        scores: all-pairs scores.
        image_of_caption: the row that each caption describes.
        images: the rows to keep, in the order wanted.

    Returns:
        Scores of the kept images and captions, and the new row of each kept caption. Captions follow their images'
        order, and within an image keep theirs.

    Raises:
        ValueError: an image is named twice or does not exist.
    """
    images = np.asarray(images, np.int64)
    if len(np.unique(images)) != len(images):
        raise ValueError("an image is selected more than once")
    if len(images) == 0 or images.min() < 0 or images.max() >= len(scores):
        raise ValueError(f"selected images must lie in 0..{len(scores) - 1}, and be at least one")
    row_of_image = np.full(len(scores), len(images))  # len(images): not selected, sorts behind all that are
    row_of_image[images] = np.arange(len(images))
    rows = row_of_image[image_of_caption]
    captions = np.argsort(rows, kind="stable")[: np.count_nonzero(rows < len(images))]
    return scores[np.ix_(images, captions)], rows[captions]


def fold_reports(
    scores: Float[np.ndarray, "i c"], image_of_caption: Int[np.ndarray, " c"], num_folds: int, fold_size: int
) -> dict[str, float]:
    """Averages `retrieval_report` over folds of consecutive images, each with its own captions only (5 x 1K on COCO).

    Args:
        scores: all-pairs scores; images beyond `num_folds * fold_size` are not used.
        image_of_caption: the row that each caption describes.
        num_folds: how many folds.
        fold_size: images in a fold.

    Returns:
        The keys of `retrieval_report`, each the mean of the folds' values.

    Raises:
        ValueError: fewer images than the folds need; see also `retrieval_ranks`.
    """
    if num_folds < 1 or fold_size < 1 or num_folds * fold_size > len(scores):
        raise ValueError(f"{num_folds} folds of {fold_size} images need as many images, there are {len(scores)}")
    reports = [
        retrieval_report(*select_images(scores, image_of_caption, range(start, start + fold_size)))
        for start in range(0, num_folds * fold_size, fold_size)
    ]
    return {name: float(np.mean([report[name] for report in reports])) for name in reports[0]}


def _check(scores: np.ndarray, image_of_caption: np.ndarray) -> None:
    num_images, num_captions = scores.shape
    if image_of_caption.shape != (num_captions,):
        raise ValueError(f"scores have {num_captions} captions, image_of_caption has shape {image_of_caption.shape}")
    if num_captions and not (image_of_caption.min() >= 0 and image_of_caption.max() < num_images):
        raise ValueError(f"image_of_caption holds an index outside the {num_images} images")
    without = np.flatnonzero(np.bincount(image_of_caption, minlength=num_images) == 0)
    if len(without) or num_images == 0:
        raise ValueError(f"{len(without)} of {num_images} images have no caption (first: {without[:5].tolist()})")
