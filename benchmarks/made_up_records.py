"""A prepared data set of made-up images and captions of COCO's lengths, written without TensorFlow or TFDS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from aladin_jax.data.dataset import example_message
from benchmarks import workload

NAME, SPLIT = "made_up", "train"
FEATURE_DIM = 2054
IMAGES_PER_FILE = 500
CLASSES = 1600  # of a detector


class MadeUp(NamedTuple):
    """Where the data set and its vocabulary are."""

    folder: Path
    vocabulary: Path


def write_made_up(
    folder: Path,
    *,
    images: int,
    dtype: str = "float32",
    writer_options: str = "group_size:1,uncompressed",
    seed: int = 0,
) -> MadeUp:
    """Writes the data set and a vocabulary whose every word is one piece, unless a whole one is there.

    Args:
        folder: made if it is not there.
        images: each has 5 captions.
        dtype: that regions are stored as, float32 or float16.
        writer_options: of ArrayRecord; as `convert.dataset` has them unless given.
        seed: of all content.
    """
    vocabulary = folder / "vocab.txt"
    made = MadeUp(folder / NAME / "default" / "1.0.0", vocabulary)
    if (made.folder / "dataset_info.json").exists():
        return made
    made.folder.mkdir(parents=True, exist_ok=True)
    workload.write_vocabulary(vocabulary)
    rng = np.random.default_rng(seed)
    count = -(-images // IMAGES_PER_FILE)
    lengths = [len(range(images)[k * IMAGES_PER_FILE : (k + 1) * IMAGES_PER_FILE]) for k in range(count)]
    pool = np.abs(rng.standard_normal((4096, FEATURE_DIM), np.float32)).astype(dtype)
    with tqdm(desc="Writing records", total=images, unit=" images", leave=False) as bar:
        for shard, length in enumerate(lengths):
            file = made.folder / f"{NAME}-{SPLIT}.array_record-{shard:05d}-of-{count:05d}"
            writer = ArrayRecordWriter(str(file), writer_options)
            for image in range(length):
                writer.write(_record(rng, f"{shard * IMAGES_PER_FILE + image}", pool))
                bar.update()
            writer.close()
    _describe(made.folder, lengths, dtype)
    return made


def _record(rng: np.random.Generator, image_id: str, pool: np.ndarray) -> bytes:
    """A record whose regions are drawn from a pool: random numbers are slower to make than to read."""
    count = int(workload.detections(rng, 1)[0])
    captions = [
        " ".join(workload.words(rng, n - 2)) for n in workload.caption_lengths(rng, workload.CAPTIONS_PER_IMAGE)
    ]
    message = example_message()()
    for name, values in (
        ("id", [image_id]),
        ("regions", [pool[rng.integers(0, len(pool), count)].tobytes()]),
        ("tags", [f"w{200 + k}" for k in rng.integers(0, CLASSES, count)]),
        ("captions", captions),
    ):
        message.features.feature[name].bytes_list.value.extend(
            value if isinstance(value, bytes) else value.encode() for value in values
        )
    return message.SerializeToString(deterministic=True)


def _describe(folder: Path, lengths: list[int], dtype: str) -> None:
    """Writes what TFDS writes beside records, dataset_info.json last."""
    classes = "tensorflow_datasets.core.features"
    text = {"pythonClassName": f"{classes}.text_feature.Text", "text": {}}
    texts = {
        "pythonClassName": f"{classes}.sequence_feature.Sequence",
        "sequence": {"feature": text, "length": "-1"},
    }
    regions = {
        "pythonClassName": f"{classes}.tensor_feature.Tensor",
        "tensor": {
            "dtype": dtype,
            "encoding": "bytes",
            "shape": {"dimensions": ["-1", str(FEATURE_DIM)]},
        },
    }
    images = sum(lengths)
    about = {
        "ids": [str(image) for image in range(images)],
        "caption_counts": [workload.CAPTIONS_PER_IMAGE] * images,
        "skipped": 0,
    }
    split = {
        "name": SPLIT,
        "numBytes": str(sum(file.stat().st_size for file in folder.glob("*.array_record-*"))),
        "shardLengths": [str(length) for length in lengths],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    files = {
        "features.json": {
            "pythonClassName": f"{classes}.features_dict.FeaturesDict",
            "featuresDict": {"features": {"id": text, "regions": regions, "tags": texts, "captions": texts}},
        },
        "metadata.json": {"feature_dim": FEATURE_DIM, "splits": {SPLIT: about}},
        "dataset_info.json": {
            "name": NAME,
            "configName": "default",
            "version": "1.0.0",
            "fileFormat": "array_record",
            "disableShuffling": True,
            "splits": [split],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
