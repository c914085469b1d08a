"""ECCV Caption (Chun et al., ECCV 2022), CxC (Parekh et al., EACL 2021), PMRP (Chun et al., CVPR 2021).

They count what the pairs of COCO's 5,000 test images leave out: other images that a caption describes too. The ground
truth and the arithmetic are those of the package `eccv-caption`; here its ids are held against ours.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from aladin_jax.errors import DataError, shown
from aladin_jax.evaluation.retrieval import Direction, Retrieval

NAMES = {
    "eccv_map_at_r": "ECCV mAP@R",
    "eccv_rprecision": "ECCV R-Precision",
    "eccv_r1": "ECCV R@1",
    "cxc_r1": "CxC R@1",
    "cxc_r5": "CxC R@5",
    "cxc_r10": "CxC R@10",
    "pmrp": "PMRP",
}
"""The package's names, and ours."""

_TARGETS = ("eccv_r1", "eccv_map_at_r", "eccv_rprecision", "cxc_recalls")
_PMRP_FILES = ("pm_image_to_caption.json", "pm_caption_to_image.json")
_GIVE_IDS = "give COCO's caption ids with --config.eval.caption_ids=captions_val2014.json"


class EccvCaption:
    """The package with its ground truth, as a metric; percent, both directions."""

    def __init__(self, pmrp_dir: str = ""):
        """Loads the ground truth.

        Args:
            pmrp_dir: folder of PMRP's (`pm_image_to_caption.json`, `pm_caption_to_image.json`; 140 MB that the package
                does not bring); empty for no PMRP.

        Raises:
            DataError: the package is not installed, or a file of PMRP's is not there.
        """
        for name in _PMRP_FILES if pmrp_dir else ():
            if not (Path(pmrp_dir) / name).is_file():
                raise DataError(f"no {name}", "download PMRP's ground truth, see docs/evaluation.md", path=pmrp_dir)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "failed to import `ujson`")
            try:
                from eccv_caption import Metrics
            except ImportError as error:
                remedy = "pip install 'aladin-jax[eccv]'"
                raise DataError("the metric eccv needs the package eccv-caption", remedy) from error
        self._metrics: Any = Metrics(pmrp_dir)
        truths = [self._metrics.eccv_gts, self._metrics.cxc_gts, *([self._metrics.pm_gts] if pmrp_dir else [])]
        # Precision at R looks at as many items as a query has positives.
        self._depth: dict[Direction, int] = {
            direction: max([10, *(len(items) for truth in truths for items in truth[direction].values())])
            for direction in ("i2t", "t2i")
        }

    def __call__(self, retrieval: Retrieval) -> dict[str, float]:
        """The metrics of one head.

        Raises:
            DataError: the collection is not COCO's 5K test set, or its captions are not called by COCO's ids.
        """
        retrieval = self._known_part(retrieval)
        retrieved: dict[Direction, dict[int, list[int]]] = {}
        for direction, depth in self._depth.items():
            queries, items = (np.array(ids, np.int64) for ids in retrieval.ids(direction))
            best, _ = retrieval.best(direction, depth)
            retrieved[direction] = dict(zip(queries.tolist(), items[best].tolist(), strict=True))
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            found = self._metrics.compute_all_metrics(
                retrieved["i2t"], retrieved["t2i"], target_metrics=_TARGETS, Ks=(1, 5, 10), verbose=False
            )
            if self._metrics.pm_gts:  # among the targets it would lose its name
                found["pmrp"] = self._metrics.pmrp(retrieved, "all")
        return {
            f"{direction}/{ours}": 100.0 * float(found[name][direction])
            for direction in self._depth
            for name, ours in NAMES.items()
            if name in found
        }

    def _known_part(self, retrieval: Retrieval) -> Retrieval:
        """The images and captions that the ground truth knows; of 25,010 captions, 25,000."""
        collection = retrieval.collection
        image_of = {str(caption): str(images[0]) for caption, images in self._metrics.coco_gts["t2i"].items()}
        images = set(image_of.values())
        if (ours := set(collection.image_ids)) != images:
            missing = f"{len(images - ours):,} of them are not among the {len(ours):,} images here"
            problem = f"ECCV Caption is of COCO's {len(images):,} test images: {missing}"
            raise DataError(problem, "leave eccv out of eval.metrics")
        known = np.array([caption in image_of for caption in collection.caption_ids])
        for column in np.flatnonzero(known).tolist():
            caption, image = collection.caption_ids[column], collection.image_ids[collection.image_of_caption[column]]
            if image_of[caption] != image:
                problem = f"caption {shown(caption)} is of image {image} here, of {image_of[caption]} in COCO"
                raise DataError(problem, _GIVE_IDS)
        if known.sum() != len(image_of):
            problem = (
                f"{len(image_of) - known.sum():,} of COCO's {len(image_of):,} test captions are not among the ids here"
            )
            raise DataError(f"{problem} (such as {shown(collection.caption_ids[0])})", _GIVE_IDS)
        if known.all():
            return retrieval
        logging.warning("eccv: left out %d captions that ECCV Caption does not know", np.count_nonzero(~known))
        columns = np.flatnonzero(known).tolist()
        return Retrieval(
            retrieval.scores[:, known],
            collection._replace(
                image_of_caption=collection.image_of_caption[known],
                caption_ids=[collection.caption_ids[column] for column in columns],
                captions=[collection.captions[column] for column in columns],
            ),
        )
