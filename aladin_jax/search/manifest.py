"""The manifest of an index: its segments and its model. Replacing the file commits a change.

INDEX/manifest.json      written last, under a temporary name and renamed
INDEX/model/             the model's folder, so that an index is all that a query needs
INDEX/segment-000001/    see `segment`; with deleted-000002.npy, the rows deleted as of that generation
INDEX/.unfinished/       a build that can go on
INDEX/lock               held by the one writer
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aladin_jax.config import Settings
from aladin_jax.files import read_json, write_whole
from aladin_jax.search import segment
from aladin_jax.search.inputs import COLLECTION_NAME, PARTS_DTYPES, check_shard

SCHEMA = 1
MANIFEST, MODEL, UNFINISHED, LOCK = "manifest.json", "model", ".unfinished", "lock"
_SEGMENT_NAME = re.compile(r"segment-\d{6,}")
_DELETED_NAME = re.compile(r"deleted-\d{6,}\.npy")


@dataclasses.dataclass(frozen=True)
class SegmentEntry:
    """A segment as the manifest lists it.

    Attributes:
        name: of its folder.
        images: rows, deleted ones included.
        captions: rows.
        regions: vectors.
        words: vectors.
        files: {name: {"bytes", "sha256"}}.
        deleted: file of the deleted rows, "" for none.
        deleted_images: how many are deleted.
        deleted_captions: how many captions those have.
    """

    name: str
    images: int
    captions: int
    regions: int
    words: int
    files: dict[str, dict[str, Any]]
    deleted: str = ""
    deleted_images: int = 0
    deleted_captions: int = 0


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What an index holds.

    Attributes:
        generation: counts the changes.
        fingerprint: of the model; see `PretrainedModel.fingerprint`.
        model_source: a few words on where the model was from.
        settings: how inputs are cut and scores made.
        width: of all vectors.
        feature_dim: width of region features that the model takes.
        parts_dtype: number format of regions and words.
        segments: in row order.
        identity: of this index, made when it was; copies share it.
        collection: of Qdrant, that it was made for; "" for one of its own.
        shard: "i/n", which of n parts of a data set it was made of.
        schema: version of this format.
        features: how regions were made ("detector" or "encoder", its fingerprint, settings); None if that is not known.
    """

    generation: int
    fingerprint: str
    model_source: str
    settings: Settings
    width: int
    feature_dim: int
    parts_dtype: str
    segments: tuple[SegmentEntry, ...]
    identity: str
    collection: str = ""
    shard: str = "1/1"
    schema: int = SCHEMA
    features: dict[str, Any] | None = None

    @property
    def images(self) -> int:
        """Images that are not deleted."""
        return sum(entry.images - entry.deleted_images for entry in self.segments)

    @property
    def captions(self) -> int:
        """Captions of images that are not deleted."""
        return sum(entry.captions - entry.deleted_captions for entry in self.segments)


def read_manifest(index: Path) -> Manifest:
    """Reads and checks the manifest of an index.

    Raises:
        ValueError: there is no index, it is unfinished, of another schema version, or damaged.
    """
    path = index / MANIFEST
    if not path.is_file():
        if (index / UNFINISHED).is_dir():
            raise ValueError(f"{index}: unfinished; run the same `index` command again, it goes on where it stopped")
        raise ValueError(f"{index}: no index there; python -m aladin_jax.search index makes one")
    values = read_json(path)
    if values.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema {values.get('schema')!r}, this program reads {SCHEMA}; index the data again")
    try:
        settings = Settings.from_dict(values.pop("settings"), str(path))
        segments = tuple(SegmentEntry(**entry) for entry in values.pop("segments"))
        values.setdefault("identity", _identity_of_old(segments))
        manifest = Manifest(settings=settings, segments=segments, **values)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: damaged ({error}); restore it, or index the data again") from error
    _check(manifest, path)
    return manifest


def _identity_of_old(segments: tuple[SegmentEntry, ...]) -> str:
    """An identity for an index made before they had one; the next change writes it down."""
    return hashlib.sha256(json.dumps([entry.files for entry in segments], sort_keys=True).encode()).hexdigest()[:32]


def _check(manifest: Manifest, path: Path) -> None:
    faults = []
    for name in ("generation", "width", "feature_dim"):
        if type(getattr(manifest, name)) is not int or getattr(manifest, name) < 1:
            faults.append(name)
    if not re.fullmatch(r"[0-9a-f]{64}", str(manifest.fingerprint)):
        faults.append("fingerprint")
    if manifest.features is not None and not is_made(manifest.features):
        faults.append("features")
    if not re.fullmatch(r"[0-9a-f]{32}", str(manifest.identity)):
        faults.append("identity")
    if not COLLECTION_NAME.fullmatch(str(manifest.collection)) and manifest.collection != "":
        faults.append("collection")
    try:
        check_shard(str(manifest.shard))
    except ValueError:
        faults.append("shard")
    if manifest.parts_dtype not in PARTS_DTYPES:
        faults.append("parts_dtype")
    for entry in manifest.segments:
        counts = (
            entry.images,
            entry.captions,
            entry.regions,
            entry.words,
            entry.deleted_images,
            entry.deleted_captions,
        )
        if any(type(count) is not int or count < 0 for count in counts):
            faults.append(f"counts of {entry.name}")
        # Names become paths: nothing but what this program writes.
        if not _SEGMENT_NAME.fullmatch(str(entry.name)):
            faults.append("a segment's name")
        if entry.deleted and not _DELETED_NAME.fullmatch(str(entry.deleted)):
            faults.append(f"deleted of {entry.name}")
        if not isinstance(entry.files, dict) or set(entry.files) != set(segment.FILES):
            faults.append(f"files of {entry.name}")
    if faults:
        raise ValueError(f"{path}: damaged: {', '.join(faults)}; restore it, or index the data again")


def is_made(features: Any) -> bool:
    """Whether something says how features were made, as `convert.detect` does."""
    if not isinstance(features, dict) or len(features.keys() & {"detector", "encoder"}) != 1:
        return False
    return all(
        isinstance(value, str if name in ("detector", "encoder") else int | float) for name, value in features.items()
    )


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Replaces the manifest: the moment at which a change is there, for every reader that opens after it."""
    write_whole(index / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1).encode() + b"\n")
    segment.sync(index)


@contextlib.contextmanager
def writer_lock(index: Path) -> Iterator[None]:
    """Holds the index for writing; readers need no lock.

    Raises:
        ValueError: another writer holds it.
    """
    with (index / LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            other = file.read(20).strip() or "unknown"
            raise ValueError(
                f"{index}: another writer is at work (process {other}); wait until it has finished"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def remove_unlisted(index: Path, manifest: Manifest) -> None:
    """Removes segments and tombstones that no manifest lists: of a writer that was killed, or merged away."""
    listed = {entry.name: entry.deleted for entry in manifest.segments}
    for folder in index.glob("*segment-*"):
        if folder.name not in listed:
            shutil.rmtree(folder)
            continue
        for file in folder.glob("deleted-*.npy"):
            if file.name != listed[folder.name]:
                file.unlink()
