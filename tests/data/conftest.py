"""Small prepared data sets for the tests of the input pipeline."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from aladin_jax.data.tokenization import CaptionTokenizer

CAPTIONS_OF_IMAGE = (1, 3, 0, 7, 2, 5, 1)


def prepare(folder, splits, *, feature_dim, dtype=np.float32, picture=None, describe=lambda metadata: metadata):
    """Prepares a data set of the project's record format; `describe` may spoil what the metadata says."""
    features = {
        "id": tfds.features.Text(),
        "regions": tfds.features.Tensor(shape=(None, feature_dim), dtype=dtype, encoding="bytes"),
        "tags": tfds.features.Sequence(tfds.features.Text()),
        "captions": tfds.features.Sequence(tfds.features.Text()),
    }
    if picture is not None:
        features["image"] = tfds.features.Image(shape=(None, None, 3))
    metadata = {
        "feature_dim": feature_dim,
        "splits": {
            split: {
                "ids": [record["id"] for record in records],
                "caption_counts": [len(record["captions"]) for record in records],
                "skipped": 0,
            }
            for split, records in splits.items()
        },
    }

    class Pictures(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "pictures"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                metadata=tfds.core.MetadataDict(describe(metadata)),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(records) for split, records in splits.items()}

        def _generate_examples(self, records):
            for index, record in enumerate(records):
                yield index, record | ({} if picture is None else {"image": picture})

    builder = Pictures(data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_path)


def make_records(regions=3, dtype=np.float32):
    """Images whose regions hold the image's number, with captions that spell their pair's number."""
    first = np.cumsum([0, *CAPTIONS_OF_IMAGE])
    return [
        {
            "id": f"image-{image}",
            "regions": np.full((regions, 4), image, dtype),
            "tags": [f"t{image}"] * image,
            "captions": [f"p{first[image] + number}" for number in range(count)],
        }
        for image, count in enumerate(CAPTIONS_OF_IMAGE)
    ]


@pytest.fixture(scope="session")
def write_dataset():
    return prepare


@pytest.fixture(scope="session")
def numbered_records():
    return make_records


@pytest.fixture(scope="session")
def numbered(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("numbered"), {"train": make_records()}, feature_dim=4)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Its ids are 4 + n for p<n> and 104 + n for t<n>."""
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    words = [f"p{number}" for number in range(100)] + [f"t{number}" for number in range(10)]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    return CaptionTokenizer(path, max_caption_len=5, max_labels_len=6)
