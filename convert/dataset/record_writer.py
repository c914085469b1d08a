"""Writes records file by file: in this process, or in several that each read images of their own.

Which images a file holds does not depend on who writes it: the data set is the same, byte for byte.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from etils import epath
from numpy.typing import DTypeLike
from tensorflow_datasets.core.utils import incomplete_file
from tqdm import tqdm

from aladin_jax.errors import DataError
from convert.importing.caption_files import Captions
from convert.importing.captions import CaptionedImage
from convert.raw.detections import Detections

FILE_FORMAT = tfds.core.FileFormat.ARRAY_RECORD

# Region features are noise to a compressor: it would save a tenth of the space, and reading would take four times as
# long (`python -m benchmarks.pipeline`). One record a group, as random access needs it.
WRITER_OPTIONS = "group_size:1,uncompressed"


class RecordSource(NamedTuple):
    """What a data set is made of; pickles, so that several processes can read it.

    Attributes:
        captions: images by split, in the order that the records will have.
        read: gives an image's regions, as float32 or float16, and tags; no regions where nothing was detected.
        feature_dim: width of a region.
        made: how the features were made, if that is known: see `FoundFiles.begin`.
    """

    captions: Captions
    read: Callable[[str, DTypeLike], Detections]
    feature_dim: int
    made: Mapping[str, Any] | None = None


class Shard(NamedTuple):
    """Consecutive images of a split, which the file of this path holds."""

    path: str
    images: list[CaptionedImage]


Write = Callable[[Shard], list[str]]
"""Writes a file; gives the ids of the images in it."""


def record_features(feature_dim: int, dtype: np.dtype) -> tfds.features.FeaturesDict:
    """What a record holds, and how it is stored."""
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            # As bytes: TFDS would store float16 in the four bytes of a float32, and is slower to read those.
            "regions": tfds.features.Tensor(
                shape=(None, feature_dim), dtype=dtype, encoding=tfds.features.Encoding.BYTES
            ),
            "tags": tfds.features.Sequence(tfds.features.Text()),
            "captions": tfds.features.Sequence(tfds.features.Text()),
            "caption_ids": tfds.features.Sequence(tfds.features.Text()),
        }
    )


def write_shard(
    read: Callable[[str, DTypeLike], Detections], feature_dim: int, dtype: np.dtype, shard: Shard
) -> list[str]:
    """Writes one file, under another name until it is complete.

    Args:
        read: as in `RecordSource`.
        feature_dim: width of a region.
        dtype: what regions are stored as, float32 or float16.
        shard: what is to be in the file.

    Returns:
        Ids of the images in the file: those in which anything was detected.

    Raises:
        DataError: an image is not there or is damaged.
    """
    features = record_features(feature_dim, dtype)
    serializer = tfds.core.ExampleSerializer(cast(Any, features.get_serialized_info()))
    written: list[str] = []
    with incomplete_file(epath.Path(shard.path)) as partial:
        writer = ArrayRecordWriter(str(partial), WRITER_OPTIONS)
        for image in shard.images:
            regions, tags = read(image.id, dtype)
            if len(regions):
                record = {"id": image.id, "regions": regions, "tags": tags}
                record |= {"captions": image.captions, "caption_ids": image.caption_ids}
                example = serializer.get_tf_example(features.encode_example(record))
                writer.write(example.SerializeToString(deterministic=True))  # else the order of fields would vary
                written.append(image.id)
        writer.close()
    return written


def write_shards(write: Write, shards: Sequence[Shard], num_workers: int) -> list[list[str]]:
    """Writes all files, with a progress bar.

    Args:
        write: writes one; pickled to other processes.
        shards: what is to be written.
        num_workers: 1 writes in this process; more are processes of their own, which end with this one.

    Returns:
        Of each shard the ids of the images in its file.

    Raises:
        DataError: an image is not there or is damaged, or a process was killed.
    """
    num_workers = min(num_workers, len(shards))
    images = sum(len(shard.images) for shard in shards)
    with tqdm(desc="Writing records", total=images, unit=" images", leave=False, mininterval=1) as bar:
        if num_workers > 1:
            return _write_in_processes(write, shards, num_workers, bar)
        written = []
        for shard in shards:
            written.append(write(shard))
            bar.update(len(shard.images))
        return written


def _write_in_processes(write: Write, shards: Sequence[Shard], num_workers: int, bar: tqdm) -> list[list[str]]:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as TensorFlow's, may hang
    lifeline, end = context.Pipe(duplex=False)
    try:
        # After an error the processes end at once: `end` is closed before the pool waits for them.
        with ProcessPoolExecutor(num_workers, context, _start_worker, (write, lifeline)) as pool, end, lifeline:
            shard_of = _submit(pool, shards)
            for done in as_completed(shard_of):
                done.result()  # or its error, at once
                bar.update(len(shard_of[done].images))
            pool.shutdown()
            return [future.result() for future in shard_of]
    except BrokenProcessPool as error:
        remedy = "if memory ran out, pass a smaller --num_workers"
        raise DataError("a process that writes records was killed", remedy) from error


def _submit(pool: ProcessPoolExecutor, shards: Sequence[Shard]) -> dict[Future[list[str]], Shard]:
    """Starts the processes, which Ctrl-C is to pass by: it reaches this process too, which then ends them."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {pool.submit(_write, shard): shard for shard in shards}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


_write_one: Write  # of a worker process


def _start_worker(write: Write, lifeline: Connection) -> None:
    global _write_one
    _write_one = write
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    """Ends this process when the one that started it closes its end, or was killed."""
    with contextlib.suppress(EOFError):
        lifeline.recv()
    os._exit(1)


def _write(shard: Shard) -> list[str]:
    return _write_one(shard)
