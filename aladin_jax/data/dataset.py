"""A data set's folder as TFDS writes it, read without TFDS or TensorFlow: its description, and its records' fields.

Training then needs Grain, ArrayRecord and protobuf alone, and a record's regions are not copied on the way.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from jaxtyping import Float

from aladin_jax.errors import DataError, first_few, shown
from aladin_jax.untrusted import decode, parse_json, require_file

PREPARE_AGAIN = "prepare it again with python -m convert.coco_ir"
TEXTS = ("id", "tags", "captions")
OPTIONAL_TEXTS = ("caption_ids",)  # data sets of earlier versions lack them
REGIONS = "regions"
DTYPES = ("float32", "float16")  # that regions may be stored as

_MAX_DESCRIPTION_BYTES = 1 << 20
_MAX_METADATA_BYTES = 1 << 30  # the ids of all images
_FILE_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class Record(NamedTuple):
    """One image: its id, its region vectors [r, f] as stored, its detected class names and its captions.

    Regions are a read-only view of the stored bytes. `caption_ids` is what the captions' source calls each of them:
    COCO's annotation id, Karpathy's sentid, Flickr's name#k. It is empty where the source does not say, or the data
    set is older than the field.
    """

    id: str
    regions: Float[np.ndarray, "r f"]
    tags: list[str]
    captions: list[str]
    caption_ids: Sequence[str] = ()


class Dataset:
    """A prepared data set.

    Attributes:
        folder: its version folder.
        name: such as `coco_ir`.
        splits: how many records each file of a split has, by split.
        metadata: what its builder recorded beside it.
        dtype: what regions are stored as.
        feature_dim: width of a region vector.
        has_pictures: whether records have pictures, or boxes of their regions in pixels.
    """

    def __init__(self, folder: Path):
        """Reads the description; opens no record.

        Raises:
            DataError: it is damaged, is not stored as ArrayRecord, or has no regions and texts of the kinds read here.
        """
        self.folder = folder
        info = _read_object(folder / "dataset_info.json", _MAX_DESCRIPTION_BYTES)
        if info.get("fileFormat") != "array_record":
            raise DataError("not stored as ArrayRecord", PREPARE_AGAIN, path=folder)
        try:
            self.name = _file_part(info["name"])
            self.splits = {_file_part(split["name"]): _shard_lengths(split) for split in info.get("splits", [])}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"dataset_info.json does not describe its files ({type(error).__name__}: {error})"
            raise DataError(problem, PREPARE_AGAIN, path=folder) from error
        features = _described_features(folder)
        self.dtype, self.feature_dim = self._stored_regions(features)
        self.has_pictures = not features.keys().isdisjoint(("image", "boxes"))
        metadata = folder / "metadata.json"
        self.metadata: dict[str, Any] = _read_object(metadata, _MAX_METADATA_BYTES) if metadata.is_file() else {}

    def source(self, split: str) -> Any:
        """An ArrayRecordDataSource: the records of a split as bytes, by number; files are opened when they are read."""
        # Here, for what is in memory already needs no reader; a lazy import gives modules, not classes.
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        lengths = self.splits[split]
        prefix, count = f"{self.folder / self.name}-{split}.array_record", len(lengths)
        files = [f"{prefix}-{shard:05d}-of-{count:05d}" for shard in range(count)]
        for file in files:
            require_file(Path(file))
        return ArrayRecordDataSource([f"{file}[0:{length}]" for file, length in zip(files, lengths, strict=True)])

    def record(self, stored: bytes) -> Record:
        """Parses a record.

        Raises:
            ValueError: it is damaged.
        """
        features = _features(stored)
        names = (*TEXTS, *OPTIONAL_TEXTS)
        values = {name: list(features[name].bytes_list.value) if name in features else [] for name in (*names, REGIONS)}
        texts = {name: [value.decode() for value in values[name]] for name in names}
        if len(texts["id"]) != 1 or len(values[REGIONS]) != 1:
            raise ValueError("not one id and one array of regions")
        regions = np.frombuffer(values[REGIONS][0], self.dtype).reshape(-1, self.feature_dim)
        return Record(texts["id"][0], regions, texts["tags"], texts["captions"], texts["caption_ids"])

    def picture(self, stored: bytes) -> tuple[bytes | None, Float[np.ndarray, "r 4"] | None]:
        """A record's picture file, and its regions' boxes x1, y1, x2, y2 in pixels; None for what it has not.

        Raises:
            ValueError: it is damaged.
        """
        features = _features(stored)
        image = boxes = None
        if "image" in features:
            [image] = features["image"].bytes_list.value
        if "boxes" in features:
            boxes = np.array(features["boxes"].float_list.value, np.float32).reshape(-1, 4)
        return image, boxes

    def _stored_regions(self, features: Mapping[str, Any]) -> tuple[np.dtype, int]:
        missing = [name for name in (*TEXTS, REGIONS) if name not in features]
        if missing:
            raise DataError(f"its records have no {', '.join(missing)}", PREPARE_AGAIN, path=self.folder)
        try:
            tensor = features[REGIONS]["tensor"]
            dtype, encoding = tensor["dtype"], tensor["encoding"].lower()
            rows, width = (int(size) for size in tensor["shape"]["dimensions"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problem = f"features.json does not describe regions ({type(error).__name__}: {error})"
            raise DataError(problem, PREPARE_AGAIN, path=self.folder) from error
        if dtype not in DTYPES or encoding != "bytes" or rows != -1 or width < 1:
            found = f"{shown(dtype)} [{rows}, {width}] as {shown(encoding)}"
            problem = f"regions are {found}, expected {' or '.join(DTYPES)} [-1, f] as bytes"
            raise DataError(problem, PREPARE_AGAIN, path=self.folder)
        return np.dtype(dtype), width


@functools.cache
def example_message() -> Any:
    """The message `tf.train.Example`, as far as records here use it: a map of names to lists of bytes or floats."""
    kinds = descriptor_pb2.FieldDescriptorProto

    def add(message: Any, name: str, kind: int | str, label: int = kinds.LABEL_OPTIONAL) -> None:
        field = message.field.add(name=name, number=1 + len(message.field), label=label)
        if isinstance(kind, str):
            field.type, field.type_name = kinds.TYPE_MESSAGE, f".aladin_jax.{kind}"
        else:
            field.type = kind

    file = descriptor_pb2.FileDescriptorProto(name="aladin_jax/example.proto", package="aladin_jax", syntax="proto3")
    add(file.message_type.add(name="BytesList"), "value", kinds.TYPE_BYTES, kinds.LABEL_REPEATED)
    add(file.message_type.add(name="FloatList"), "value", kinds.TYPE_FLOAT, kinds.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    add(feature, "bytes_list", "BytesList")
    add(feature, "float_list", "FloatList")
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", kinds.TYPE_STRING)
    add(entry, "value", "Feature")
    add(features, "feature", "Features.FeatureEntry", kinds.LABEL_REPEATED)
    add(file.message_type.add(name="Example"), "features", "Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("aladin_jax.Example"))


def _features(record: bytes) -> Mapping[str, Any]:
    try:
        return example_message().FromString(record).features.feature
    except Exception as error:  # protobuf's implementations have errors of their own
        raise ValueError(f"no tf.train.Example: {error}") from error


def _described_features(folder: Path) -> Mapping[str, Any]:
    description = _read_object(folder / "features.json", _MAX_DESCRIPTION_BYTES)
    features = description.get("featuresDict")
    features = features.get("features") if isinstance(features, dict) else None
    if not isinstance(features, dict):
        raise DataError("features.json describes no features", PREPARE_AGAIN, path=folder)
    return features


def _shard_lengths(split: Mapping[str, Any]) -> list[int]:
    if split.get("filepathTemplate", _FILE_NAME) != _FILE_NAME:
        raise ValueError(f"files are named {shown(split['filepathTemplate'])}, expected {_FILE_NAME}")
    lengths = [int(length) for length in split["shardLengths"]]
    if any(length < 0 for length in lengths):
        raise ValueError("a file with less than no record")
    return lengths


def _file_part(name: object) -> str:
    """Checks that a name becomes part of a file's name, and leads nowhere else."""
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ValueError(f"{shown(name)} is no name")
    return name


def _read_object(path: Path, max_bytes: int) -> dict[str, Any]:
    require_file(path, max_bytes)
    value = parse_json(decode(path.read_bytes(), path=path), path=path)
    if not isinstance(value, dict):
        raise DataError(f"holds {shown(value)}, expected a JSON object", PREPARE_AGAIN, path=path)
    return value


def open_dataset(data_dir: str | Path) -> Dataset:
    """Opens the one prepared data set at or below a folder, for reading.

    Args:
        data_dir: a version folder (such as ``OUT/coco_ir/default/1.0.0``) or a parent of it, such as `--output` of
            ``python -m convert.coco_ir``.

    Raises:
        DataError: there is none, or several, or it is damaged or not stored as ArrayRecord.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise DataError("no such folder", "python -m convert.coco_ir makes a data set", path=root)
    # output / name / configuration / version; a folder named incomplete.* is an interrupted preparation.
    markers = [marker for depth in range(4) for marker in root.glob("*/" * depth + "dataset_info.json")]
    found = sorted(
        marker.parent
        for marker in markers
        if not any(part.startswith("incomplete.") for part in marker.relative_to(root).parts)
    )
    if not found:
        raise DataError("no prepared data set here", "python -m convert.coco_ir makes one", path=root)
    if len(found) > 1:
        raise DataError(f"{len(found)} data sets", f"name one of {first_few([str(path) for path in found])}", path=root)
    return Dataset(found[0])
