"""VinVL's files with random content, as their users have them, and the data set that is made of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from benchmarks import workload

FEATURE_DIM = 2054
SPLIT = "test"


class VinvlFolder(NamedTuple):
    """Where the files are: features.tsv (its companions beside it), the captions' folder, and a vocabulary."""

    features: Path
    captions: Path
    vocabulary: Path


def write_vinvl_folder(folder: Path, rng: np.random.Generator, images: int) -> VinvlFolder:
    """Writes features, detections, captions (5 an image) and a vocabulary whose every word is one piece."""
    vocabulary = folder / "vocab.txt"
    workload.write_vocabulary(vocabulary)
    counts = workload.detections(rng, images)
    features, predictions = [], []
    for image, count in enumerate(counts):
        regions = rng.standard_normal((count, FEATURE_DIM), np.float32)
        features.append(b"%d\t%d\t%s\n" % (image, count, base64.b64encode(regions.tobytes())))
        objects = [{"class": word, "rect": [0.0, 0.0, 9.0, 9.0], "conf": 0.5} for word in workload.words(rng, count)]
        content = json.dumps({"objects": objects, "image_h": 480, "image_w": 640})
        predictions.append(f"{image}\t{content}\n".encode())
    for name, rows in (("features", features), ("predictions", predictions)):
        offsets = np.cumsum([0, *map(len, rows)])[:-1]
        (folder / f"{name}.tsv").write_bytes(b"".join(rows))
        (folder / f"{name}.lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
    (folder / "imageid2idx.json").write_text(json.dumps({str(image): image for image in range(images)}))
    captions = folder / "coco_ir"
    captions.mkdir()
    lengths = workload.caption_lengths(rng, images * workload.CAPTIONS_PER_IMAGE).reshape(images, -1)
    texts = {image: [" ".join(workload.words(rng, n - 2)) for n in row] for image, row in enumerate(lengths)}
    torch.save(texts, captions / f"{SPLIT}_captions.pt")
    return VinvlFolder(folder / "features.tsv", captions, vocabulary)
