"""Changes an index: create, add, delete, merge. Each change is one replaced manifest: there as a whole, or not at all.

What is encoded is kept part by part, so that a build that was killed goes on after its last part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging
from tqdm import tqdm

from aladin_jax import model_folder
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.encoding import Encoded
from aladin_jax.errors import DataError
from aladin_jax.files import whole_file
from aladin_jax.lineage import as_json
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import Ragged, offsets_of
from aladin_jax.search import index_files
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import MANIFEST, MODEL, UNFINISHED, Manifest, Segment, SegmentEntry, read_manifest
from aladin_jax.search.inputs import check_shard
from aladin_jax.search.pictures import Pictures
from aladin_jax.untrusted import check_image_id

PART_IMAGES = 512  # a multiple of the encoding batch


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is to be indexed.

    Attributes:
        data: folder of a prepared data set.
        split: of it.
        images: folder of picture files, or None.
        shard: "i/n" for the i-th of n parts of the split alone.
    """

    data: Path
    split: str
    images: Path | None = None
    shard: str = "1/1"

    def rows(self, total: int) -> np.ndarray:
        """Those of the split's `total` rows that the shard has: n blocks, of sizes that differ by 1 at most."""
        number, count = check_shard(self.shard)
        return np.arange(total * (number - 1) // count, total * number // count)


def create_index(
    path: Path,
    model: PretrainedModel,
    contents: Contents,
    *,
    parts_dtype: str = "float32",
    part_images: int = PART_IMAGES,
    collection: str = "",
) -> Manifest:
    """Makes an index; called again after it was killed, goes on after the last finished part.

    Args:
        path: the folder, which must not exist, be empty, or hold an unfinished index.
        model: whose vectors it will hold.
        contents: what goes in.
        parts_dtype: number format of regions and words, "float32" or "float16".
        part_images: images encoded between two points at which it can go on.
        collection: of Qdrant, that its images will go to; "" for one of its own.

    Raises:
        ValueError: there is something at `path` already, or the data do not fit the model or are damaged.
    """
    if (path / MANIFEST).exists():
        raise ValueError(f"{path}: there is an index already; `add` to it, or choose another folder")
    others = {file.name for file in path.glob("[!.]*")} - {index_files.LOCK}
    if path.is_file() or (others and not (path / UNFINISHED).is_dir()):
        raise ValueError(f"{path}: holds something else; choose another folder")
    path.mkdir(parents=True, exist_ok=True)
    with index_files.writer_lock(path):
        manifest = Manifest(
            generation=0,
            fingerprint=model.fingerprint,
            model_source=model.described,
            settings=model.settings,
            width=model.config.backbone.hidden_size,
            feature_dim=model.feature_dim,
            parts_dtype=parts_dtype,
            segments=(),
            identity=uuid.uuid4().hex,
            collection=collection,
            shard=contents.shard,
            features=_how_made(contents),
        )
        entry = _build(path, model, contents, manifest, part_images, taken=())
        model_folder.save_model_folder(
            path / MODEL,
            model.params,
            model.config,
            model.vocabulary,
            {"source": model.described, "fingerprint": model.fingerprint, "lineage": as_json(model.lineage)},
            caption_ending=model.caption_ending,
            overwrite=(path / MODEL).exists(),
        )
        manifest = _commit(path, manifest, (entry,))
        shutil.rmtree(path / UNFINISHED)
    return manifest


def is_of(path: Path, model: PretrainedModel, contents: Contents, collection: str) -> bool:
    """Whether a finished index is what `create_index` would make, and was not changed since."""
    if not (path / MANIFEST).exists():
        return False
    manifest = read_manifest(path)
    made_for = (manifest.generation, manifest.fingerprint, manifest.shard, manifest.collection)
    if made_for != (1, model.fingerprint, contents.shard, collection):
        return False
    split = Split(open_dataset(contents.data), contents.split, model.feature_dim)
    return Index(path).ids == [split.ids[row] for row in contents.rows(split.num_images)]


def add_to_index(path: Path, model: PretrainedModel, contents: Contents, *, part_images: int = PART_IMAGES) -> Manifest:
    """Appends a split to an index: readers see all of it or nothing.

    Raises:
        ValueError: the model is not the index's, an id is in the index already, another writer is at work, or the
            data are damaged.
    """
    with _changing(path) as index:
        manifest = index.manifest
        if manifest.fingerprint != model.fingerprint:
            raise ValueError(
                f"{path}: holds vectors of model {manifest.fingerprint} ({manifest.model_source}), not of "
                f"{model.fingerprint} ({model.described}); index the data anew with one of them"
            )
        made = _how_made(contents)
        if made and manifest.features and made != manifest.features:
            raise ValueError(
                f"{path}: its features were made with {manifest.features}, those of {contents.data} with {made}; make "
                "them in the same way"
            )
        entry = _build(path, model, contents, manifest, part_images, taken=index.row_of_id.keys())
        manifest = _commit(path, manifest, (*manifest.segments, entry))
        shutil.rmtree(path / UNFINISHED)
    return manifest


def delete_images(path: Path, image_ids: Iterable[str]) -> Manifest:
    """Takes images and their captions out of all results; their files stay until `merge`.

    Raises:
        ValueError: an id is not in the index, or comes twice; then nothing is deleted. Or another writer is at work.
    """
    with _changing(path) as index:
        rows = np.array([index.row(image_id) for image_id in image_ids], np.int64)
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"{path}: an id to delete comes more than once")
        alive = index.images.alive  # of this writer's own view
        alive[rows] = False
        if not alive.any():
            raise ValueError(f"{path}: that would delete every image; remove the folder instead")
        entries = []
        for entry, segment, kept in index.by_segment():
            counts = segment.counts(kept)
            if counts["deleted_images"] != entry.deleted_images:
                name = f"deleted-{index.manifest.generation + 1:06d}.npy"
                with whole_file(path / entry.name / name) as file:
                    np.save(file, np.flatnonzero(~kept))
                entry = dataclasses.replace(entry, deleted=name, **counts)
            entries.append(entry)
        return _commit(path, index.manifest, tuple(entries))


def merge(path: Path) -> Manifest:
    """Writes all that is not deleted into one segment and removes the others; readers of these go on.

    Raises:
        ValueError: another writer is at work, or the index is damaged.
    """
    with _changing(path) as index:
        manifest = index.manifest
        if len(manifest.segments) == 1 and not manifest.segments[0].deleted:
            return manifest
        pieces = [(segment, alive) for _, segment, alive in index.by_segment()]
        return _commit(path, manifest, (_write_segment(path, manifest, pieces),))


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[Index]:
    """An index as the one writer sees it, without what an earlier one left when it was killed."""
    read_manifest(path)
    with index_files.writer_lock(path):
        index = Index(path)
        index_files.remove_unlisted(path, index.manifest)
        yield index


def _commit(path: Path, manifest: Manifest, entries: tuple[SegmentEntry, ...]) -> Manifest:
    manifest = dataclasses.replace(manifest, generation=manifest.generation + 1, segments=entries)
    index_files.write_manifest(path, manifest)
    return manifest


def _write_segment(path: Path, manifest: Manifest, pieces: list[tuple[Segment, np.ndarray]]) -> SegmentEntry:
    """Writes the segment of the next generation."""
    return index_files.write_segment(path / f"segment-{manifest.generation + 1:06d}", pieces, manifest.parts_dtype)


def _build(
    path: Path, model: PretrainedModel, contents: Contents, manifest: Manifest, part_images: int, taken: Collection[str]
) -> SegmentEntry:
    """Encodes a split part by part and writes its segment; the caller's manifest makes it count."""
    split = Split(open_dataset(contents.data), contents.split, model.feature_dim)
    chosen = contents.rows(split.num_images)
    ids = [split.ids[row] for row in chosen]
    _check_ids(split, ids, taken, path)
    pictures = Pictures(split, contents.images)
    pictures.require_any(split.ids)
    folder = _parts_folder(path, manifest, contents, split, ids, part_images)
    pieces = []
    with tqdm(total=len(chosen), desc=f"indexing {split.name}", unit="image", disable=None) as progress:
        for number, start in enumerate(range(0, len(chosen), part_images)):
            rows = chosen[start : start + part_images]
            part, every = folder / f"part-{number:06d}", np.ones(len(rows), bool)
            if not part.exists():
                encoded = _encode(model, split, rows, pictures)
                index_files.write_segment(part, [(encoded, every)], manifest.parts_dtype)
            pieces.append((index_files.read_segment(part), every))
            progress.update(len(rows))
    return _write_segment(path, manifest, pieces)


def _how_made(contents: Contents) -> dict[str, Any] | None:
    """How the features of a data set were made, where it says."""
    features = open_dataset(contents.data).metadata.get("features")
    return features if index_files.says_how_made(features) else None


def _check_ids(split: Split, ids: list[str], taken: Collection[str], path: Path) -> None:
    if not ids:
        raise DataError(f"{split.name} has no image for this index", path=split.directory)
    for image_id in ids:
        check_image_id(image_id, path=split.directory)
    if len(split.index_of_id) != split.num_images:
        raise DataError(f"ids of {split.name} come more than once", "give each image an id of its own", path=path)
    there = [image_id for image_id in ids if image_id in taken]
    if there:
        raise ValueError(
            f"{path}: {len(there)} of {len(ids)} ids are in the index already (first: {there[0]}); "
            "delete them first, or add other data"
        )


def _parts_folder(path: Path, manifest: Manifest, contents: Contents, split: Split, ids: list[str], size: int) -> Path:
    """Where the parts of just this build are; parts of any other are removed."""
    build = {
        "fingerprint": manifest.fingerprint,
        "parts_dtype": manifest.parts_dtype,
        "part_images": size,
        "split": f"{split.directory.absolute()}:{split.name}",
        "ids": ids,
        "captions": split.caption_counts.tolist(),
        "images": None if contents.images is None else str(contents.images.absolute()),
    }
    folder = path / UNFINISHED / hashlib.sha256(json.dumps(build).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.parent.iterdir():
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)  # may be a file, of an earlier version
    if done := sum(1 for _ in folder.glob("part-*")):
        logging.info("Going on after %d finished parts", done)
    return folder


def _encode(model: PretrainedModel, split: Split, rows: np.ndarray, pictures: Pictures) -> Segment:
    """A part: vectors, texts and pictures of some images."""
    images = model.encoder.encode_images(model.device_params, split, rows)
    nothing = images.vectors[:0]
    captions, image_of_caption = Encoded(nothing, Ragged(nothing, offsets_of(np.zeros(0, int)))), np.zeros(0, int)
    if split.caption_counts[rows].any():
        captions, image_of_caption = model.encoder.encode_captions(model.device_params, split, rows)
    described, texts, jpegs = [], [], []
    for row in rows.tolist():
        record = split.read(row)
        picture, boxes = pictures.read(row, record)
        boxes = [] if boxes is None else boxes.reshape(-1).tolist()
        described.append({"id": record.id, "tags": record.tags, "boxes": boxes, "file": picture.file})
        texts += record.captions
        jpegs.append(picture.jpeg)
    return Segment(
        images,
        captions,
        pa.Table.from_pylist(described, index_files.IMAGE_SCHEMA),
        pa.table({"image": image_of_caption, "text": texts}, schema=index_files.CAPTION_SCHEMA),
        Ragged(np.frombuffer(b"".join(jpegs), np.uint8), offsets_of(np.array([*map(len, jpegs)]))),
    )
