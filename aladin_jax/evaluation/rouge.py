"""ROUGE-L of every caption and every image: how well the caption would do as one of the image's.

It is what TERN and TERAN (Messina et al., ICPR 2020 and TOMM 2021) grade retrieval by, so that their published nDCG and
ours mean the same: the ROUGE-L of COCO's caption evaluation, a caption against all captions of an image,

    P = max LCS(c, r) / |c|  and  R = max LCS(c, r) / |r|  over the image's captions r
    (1 + b^2) P R / (R + b^2 P),  b = 1.2

with LCS the length of the longest common subsequence of words. As in their code, words are what single spaces part, in
small letters, with the punctuation at them; and a caption has 1 with its own image.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging
from jaxtyping import Float, Int
from rapidfuzz import process
from rapidfuzz.distance import LCSseq
from tqdm import tqdm

from aladin_jax.evaluation.retrieval import Collection
from aladin_jax.files import make_folder, whole_file

BETA = 1.2
_IMAGES = 64  # whose captions are compared at once with all others


def rouge_l(collection: Collection, folder: Path) -> Float[np.ndarray, "i c"]:
    """Computes ROUGE-L of all pairs, or takes what an earlier call kept for the same captions.

    Args:
        collection: every image has a caption.
        folder: where the values are kept, in a file of 4 * images * captions bytes; made if it is missing.

    Returns:
        float32 in [0, 1], read from that file as it is needed.

    Raises:
        ValueError: an image has no caption.
    """
    shape = (len(collection.image_ids), len(collection.captions))
    listed = json.dumps([shape[0], collection.captions, collection.image_of_caption.tolist()])
    file = folder / f"rouge-l-{hashlib.sha256(listed.encode()).hexdigest()[:16]}.npy"
    if not file.is_file():
        make_folder(folder)
        with whole_file(file) as out:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for rows in _rows(collection.captions, collection.image_of_caption, shape[0]):
                out.write(rows.tobytes())
    logging.info("ROUGE-L of %s captions and %s images: %s", f"{shape[1]:,}", f"{shape[0]:,}", file)
    return np.load(file, mmap_mode="r", allow_pickle=False)


def _rows(
    captions: list[str], image_of_caption: Int[np.ndarray, " c"], num_images: int
) -> Iterator[Float[np.ndarray, "i c"]]:
    """Values of some images after the other."""
    codes: dict[str, int] = {}  # a letter for each word: of such texts RapidFuzz compares tens of millions a second
    texts = ["".join(chr(codes.setdefault(word, len(codes))) for word in c.lower().split(" ")) for c in captions]
    lengths = np.array([len(text) for text in texts], np.float32)
    order = np.argsort(image_of_caption, kind="stable")
    first = np.searchsorted(image_of_caption[order], np.arange(num_images + 1))
    if (np.diff(first) == 0).any():
        raise ValueError(f"{np.count_nonzero(np.diff(first) == 0)} of {num_images} images have no caption")
    for start in tqdm(range(0, num_images, _IMAGES), "ROUGE-L", unit="block", leave=False, disable=None):
        ends = first[start : start + _IMAGES + 1]
        references, own = order[ends[0] : ends[-1]], ends[:-1] - ends[0]
        common = process.cdist(
            [texts[r] for r in references], texts, scorer=LCSseq.similarity, dtype=np.uint16, workers=-1
        )
        precision = np.maximum.reduceat(common, own, axis=0) / lengths
        recall = np.maximum.reduceat(common / lengths[references, None], own, axis=0)
        weighted = np.maximum(recall + BETA**2 * precision, np.finfo(np.float32).tiny)  # 0 / 0: no word in common
        yield (1 + BETA**2) * precision * recall / weighted
