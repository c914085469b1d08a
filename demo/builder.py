"""The TFDS builder `scenes`: drawn pictures in the records that training and evaluation read."""

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aladin_jax.data.dataset import Dataset
from aladin_jax.files import write_whole
from convert.dataset.record_writer import record_features
from demo.captions import CAPTIONS, describe
from demo.detections import detect
from demo.drawing import draw
from demo.region_features import REGION_DIM, region_features
from demo.scene import SIDE, SPLITS, sample_scene
from demo.wording import vocabulary

SEED = 88
VOCABULARY = "vocab.txt"

_CONFIG = "default"


class Scenes(tfds.core.GeneratorBasedBuilder):
    """Pictures of shapes, with region features, detected classes and captions; one record a picture."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  (TFDS declares it so)
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=_CONFIG)]  # noqa: RUF012
    # Nothing is downloaded. TFDS would look for checksums with importlib_resources, which it does not install.
    url_infos = None

    def __init__(self, *, sizes: dict[str, int], seed: int = SEED, **kwargs: Any):
        """Describes the data set; `download_and_prepare` makes it.

        Args:
            sizes: how many pictures each split has.
            seed: every picture follows from it, its split and its index.
            **kwargs: as for any TFDS builder; `data_dir` above all.
        """
        self._sizes = sizes
        self._seed = seed
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        about = {
            split: {
                "ids": [_id(split, index) for index in range(size)],
                "caption_counts": [CAPTIONS] * size,
                "skipped": 0,
            }
            for split, size in self._sizes.items()
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    **record_features(REGION_DIM, np.dtype(np.float32)),
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png"),
                    "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
                }
            ),
            metadata=tfds.core.MetadataDict(feature_dim=REGION_DIM, seed=self._seed, splits=about),
            disable_shuffling=True,  # the metadata lists the ids in the records' order
        )

    def _download_and_prepare(self, dl_manager: Any, download_config: Any) -> None:
        # TFDS's progress bars tell the time left only for splits whose size is known beforehand.
        expected = [tfds.core.SplitInfo(name=name, shard_lengths=[n], num_bytes=0) for name, n in self._sizes.items()]
        self.info.set_splits(tfds.core.SplitDict(expected))
        super()._download_and_prepare(dl_manager, download_config)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split, size) for split, size in self._sizes.items()}

    def _generate_examples(self, split: str, size: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(size):
            yield index, scene_record(split, index, self._seed)


def scene_record(split: str, index: int, seed: int = SEED) -> dict[str, Any]:
    """Everything that one record holds, before it is encoded; the picture is PNG already."""
    scene = sample_scene(split, index, seed)
    image = draw(scene)
    boxes, tags = detect(scene)
    png = io.BytesIO()
    Image.fromarray(image).save(png, "PNG", compress_level=1)  # grain hardly compresses, but costs time
    return {
        "id": _id(split, index),
        "regions": region_features(image, boxes),
        "tags": tags,
        "captions": [caption.text for caption in describe(scene)],
        "caption_ids": [],  # they are called by their image and place
        "image": png.getvalue(),
        "boxes": boxes,
    }


def prepare(output: str | Path, sizes: dict[str, int], seed: int = SEED) -> bool:
    """Makes the data set and `vocab.txt` under a folder, unless they are there already.

    The data set comes into being under its name when it is complete; what an interrupted run left is removed.

    Args:
        output: the folder; it gets `scenes/default/1.0.0` and `vocab.txt`.
        sizes: how many pictures train, minival and test have; each at least 1.
        seed: of all that is drawn and said.

    Returns:
        Whether anything had to be drawn.

    Raises:
        ValueError: impossible sizes, or there is a data set of other sizes or another seed.
    """
    if set(sizes) != set(SPLITS) or min(sizes.values()) < 1:
        raise ValueError(f"the sizes are {sizes}; each of {', '.join(SPLITS)} needs at least 1 picture")
    output = Path(output)
    builder = Scenes(sizes=sizes, seed=seed, data_dir=output)
    target = Path(builder.data_path)
    exists = target.is_dir()
    if exists:
        _check_same(target, sizes, seed)
    else:
        for unfinished in target.parent.glob("incomplete.*"):
            shutil.rmtree(unfinished)
        # TFDS wants a folder for downloads, and prints that it downloads.
        with tempfile.TemporaryDirectory() as downloads, contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / VOCABULARY, "".join(f"{word}\n" for word in vocabulary()).encode())
    return not exists


def _check_same(target: Path, sizes: dict[str, int], seed: int) -> None:
    if not (target / "dataset_info.json").is_file():  # TFDS gives a folder this name when all is in it
        raise ValueError(f"{target}: there, but not a data set; remove it or choose another --output")
    metadata = Dataset(target).metadata
    found = {split: len(about["ids"]) for split, about in metadata["splits"].items()}
    if (found, metadata["seed"]) != (sizes, seed):
        raise ValueError(
            f"{target}: holds {found} pictures of seed {metadata['seed']}, asked for are {sizes} of seed {seed}; "
            f"remove it or choose another --output"
        )


def _id(split: str, index: int) -> str:
    return f"{split}-{index:05d}"
