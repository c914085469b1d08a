"""From a prepared data set to batches: (image, caption) pairs for training, each side alone for evaluation.

Which pair stands where in which batch follows from the seed and the batch's number alone, so the state of an iterator
is that number: it holds for any number of reader threads, reader processes and training processes.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epy
from jaxtyping import Float, Int32, Int64, Shaped
from numpy.typing import DTypeLike

from aladin_jax.data.records import Record, Split
from aladin_jax.data.token_cache import TokenCache
from aladin_jax.data.tokenization import CaptionTokenizer, Ids, Lengths
from aladin_jax.errors import DataError
from aladin_jax.lookahead import look_ahead

with epy.lazy_imports():  # encoding reads without it
    import grain

Arrays = dict[str, Shaped[np.ndarray | jax.Array, "_ ..."]]


class Batch(NamedTuple):
    """What one training step takes.

    Attributes:
        arrays: this process's rows: caption_ids [c, w], caption_len [c], label_ids [i, l], label_len [i],
            region_features [i, r, f], region_len [i], image [i] (its number in the split); row n of all is one pair.
            Rows that only fill up a batch have length 0 throughout.
        num_pairs: how many real pairs the batch has over all processes; they come first.
        lengths: caption_len, label_len and region_len once more; they stay on the host.
        state: the iterator's state after this batch, for `TrainBatches.set_state`.
    """

    arrays: Arrays
    num_pairs: int
    lengths: dict[str, Int32[np.ndarray, "rows"]]
    state: dict[str, Any]


class TrainBatches(Iterator[Batch]):
    """The training batches of a split, epoch after epoch, read ahead by threads.

    Each epoch visits every pair once, in an order of its own, and its last batch may be smaller. Without shuffling
    the order is that of the records and, within one, of its captions.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: CaptionTokenizer,
        *,
        batch_size: int,
        max_regions: int,
        region_dtype: DTypeLike = np.float32,
        seed: int,
        shuffle: bool = True,
        num_epochs: int | None = None,
        pad_to: int = 1,
        process_index: int = 0,
        process_count: int = 1,
        num_threads: int = 2,
        prefetch: int = 4,
        num_workers: int = 0,
    ):
        """Starts before the first batch.

        Args:
            split: where the pairs come from.
            tokenizer: of the model's vocabulary.
            batch_size: pairs in a batch, over all processes.
            max_regions: regions kept of an image, and the static length they are padded to.
            region_dtype: of region features: what the model computes in, so that no more travels to the devices.
            seed: of the shuffle, in [0, 2^32).
            shuffle: whether to shuffle, anew in each epoch.
            num_epochs: how many epochs; None means without end.
            pad_to: the rows of every batch over all processes are a multiple of this, a multiple of `process_count`.
            process_index: which rows are this process's: the n-th of `process_count` equal parts.
            process_count: how many processes share a batch.
            num_threads: threads that read and tokenise batches; 0 reads when a batch is asked for.
            prefetch: batches read ahead of the one asked for (in each reader process, where there are some).
            num_workers: reader processes, each with these threads; 0 reads in this process.

        Raises:
            DataError: the split has no pair.
            ValueError: a number is impossible.
        """
        if pad_to < 1 or pad_to % process_count:
            raise ValueError(f"pad_to is {pad_to}; it must be a multiple of the {process_count} processes")
        if not split.num_pairs:
            raise DataError(f"{split.name} has no (image, caption) pair", path=split.directory)
        load = functools.partial(
            load_pairs,
            split=split,
            tokens=TokenCache(split, tokenizer),
            max_regions=max_regions,
            region_dtype=region_dtype,
            pad_to=pad_to,
            process_index=process_index,
            process_count=process_count,
        )
        pairs = grain.MapDataset.range(split.num_pairs).seed(seed)
        pairs = pairs.shuffle() if shuffle else pairs
        self._batches = pairs.batch(batch_size, drop_remainder=False).repeat(num_epochs).map(load)
        self._read = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
        self._workers = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=prefetch)
        self._order = {"num_pairs": split.num_pairs, "batch_size": batch_size, "seed": seed, "shuffle": shuffle}
        self._directory = split.directory
        self._start(0)

    def __next__(self) -> Batch:
        """The next batch."""
        arrays, num_pairs = next(self._iterator)
        self._next_batch += 1
        lengths = {name: np.asarray(arrays[name]) for name in ("caption_len", "label_len", "region_len")}
        return Batch(arrays, num_pairs, lengths, self.get_state())

    def get_state(self) -> dict[str, Any]:
        """The state after the last batch handed out, however far reading is ahead of it: plain JSON values."""
        return {"next_batch": self._next_batch, **self._order}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on as the iterator did whose state this was, in the middle of an epoch too.

        Raises:
            DataError: the state is of another order of pairs (other data, batch size, seed or shuffling) or damaged.
        """
        saved = {name: state.get(name) for name in self._order}
        other = [f"{name} {saved[name]!r}, now {now!r}" for name, now in self._order.items() if saved[name] != now]
        if other:
            raise DataError(f"the saved state is of other batches: {', '.join(other)}", path=self._directory)
        next_batch = state.get("next_batch")
        if not isinstance(next_batch, int) or next_batch < 0:
            raise DataError(f"the saved state's next batch is {next_batch!r}, expected a count", path=self._directory)
        self.close()
        self._start(next_batch)

    def close(self) -> None:
        """Stops reading ahead."""
        self._iterator.close()

    def _start(self, next_batch: int) -> None:
        self._next_batch = next_batch
        dataset = self._batches.slice(slice(next_batch, None)).to_iter_dataset(self._read)
        if self._workers.num_workers:
            dataset = dataset.mp_prefetch(self._workers)
        self._iterator = iter(dataset)


def steps_per_epoch(num_pairs: int, batch_size: int) -> int:
    """Batches in an epoch, the last, smaller one included."""
    return -(-num_pairs // batch_size)


def prefetch_to_device(batches: Iterator[Batch], sharding: jax.sharding.Sharding, size: int = 2) -> Iterator[Batch]:
    """Keeps `size` batches on their way to the devices ahead of the one in use.

    Args:
        batches: this process's batches.
        sharding: how the rows of the global batch lie on the devices; one for all arrays.
        size: batches ahead; device memory holds as many and the one in use.

    Returns:
        The batches with global `jax.Array`s; each keeps the state that belongs to it.
    """
    return look_ahead((_on_devices(batch, sharding) for batch in batches), size)


def _on_devices(batch: Batch, sharding: jax.sharding.Sharding) -> Batch:
    arrays = {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.arrays.items()}
    return batch._replace(arrays=arrays)


def load_pairs(
    pairs: Int64[np.ndarray, "p"],
    *,
    split: Split,
    tokens: TokenCache,
    max_regions: int,
    region_dtype: DTypeLike,
    pad_to: int,
    process_index: int,
    process_count: int,
) -> tuple[Arrays, int]:
    """Reads one process's rows of the batch with these pairs; see `Batch` and `TrainBatches`."""
    rows = -(-len(pairs) // pad_to) * pad_to // process_count
    own = pairs[process_index * rows : (process_index + 1) * rows]
    images = split.images_of_pairs(own)
    records = {image: split.read(image) for image in np.unique(images).tolist()}
    caption_ids, caption_len = tokens.tokenize_captions(split, own, images, records)
    label_ids, label_len = tokens.tokenize_tags(images, records)
    regions = [records[image].regions for image in images.tolist()]
    region_features, region_len = pad_regions(regions, rows, split.feature_dim, max_regions, region_dtype)
    arrays: Arrays = {
        "caption_ids": caption_ids,
        "caption_len": caption_len,
        "label_ids": label_ids,
        "label_len": label_len,
        "region_features": region_features,
        "region_len": region_len,
        "image": images.astype(np.int32),
    }
    return pad_rows(arrays, rows), len(pairs)


def load_captions(
    split: Split, images: Int64[np.ndarray, "i"], tokenizer: CaptionTokenizer
) -> tuple[Ids, Lengths, Int64[np.ndarray, "c"]]:
    """Reads all captions of images, each once.

    Args:
        split: where they are.
        images: the images, as `Split.select` gives them.
        tokenizer: of the model's vocabulary.

    Returns:
        Their tokens and numbers of tokens, images in the given order and their captions in the record's; and for each
        caption the position in `images` of its image.
    """
    captions = [split.read(image).captions for image in images.tolist()]
    image_of_caption = np.repeat(np.arange(len(images)), [len(some) for some in captions])
    return *tokenizer.tokenize_captions([caption for some in captions for caption in some]), image_of_caption


def pad_rows(arrays: Arrays, rows: int) -> Arrays:
    """Fills all arrays up to `rows` rows with zeros: empty images and captions."""
    return {
        name: np.concatenate([array, np.zeros((rows - len(array), *array.shape[1:]), array.dtype)])
        if len(array) < rows
        else array
        for name, array in arrays.items()
    }


def image_arrays(records: Sequence[Record], feature_dim: int, tokenizer: CaptionTokenizer, max_regions: int) -> Arrays:
    """Of images: label_ids [i, l], label_len [i], region_features [i, r, f], region_len [i]."""
    label_ids, label_len = tokenizer.tokenize_tags([record.tags for record in records])
    regions = [record.regions for record in records]
    region_features, region_len = pad_regions(regions, len(regions), feature_dim, max_regions)
    return {
        "label_ids": label_ids,
        "label_len": label_len,
        "region_features": region_features,
        "region_len": region_len,
    }


def pad_regions(
    regions: Sequence[Float[np.ndarray, "_ f"]],
    rows: int,
    feature_dim: int,
    max_regions: int,
    dtype: DTypeLike = np.float32,
) -> tuple[Shaped[np.ndarray, "rows r f"], Int32[np.ndarray, "rows"]]:
    """Cuts and pads images' regions straight into one array, the rows past them empty; and how many each row has."""
    features, lengths = np.empty((rows, max_regions, feature_dim), dtype), np.zeros(rows, np.int32)
    for row, some in enumerate(regions):
        lengths[row] = count = min(len(some), max_regions)
        if some.dtype == np.float16:
            np.take(_of_float16(features.dtype), some[:count].view(np.uint16), out=features[row, :count], mode="clip")
        else:
            features[row, :count] = some[:count]
        features[row, count:] = 0
    features[len(regions) :] = 0
    return features, lengths


@functools.cache
def _of_float16(dtype: np.dtype) -> Shaped[np.ndarray, "65536"]:
    """Every float16 in another type, by its bits: looked up in half the time that NumPy takes to convert."""
    with np.errstate(invalid="ignore"):
        return np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(dtype)
