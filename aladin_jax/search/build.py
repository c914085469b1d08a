"""Builds an index or adds to one, part by part: a build that was killed goes on after its last part."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from absl import logging
from tqdm import tqdm

from aladin_jax import model_folder
from aladin_jax.data.records import Split, open_dataset
from aladin_jax.encoding import Encoded
from aladin_jax.errors import DataError
from aladin_jax.files import read_json, write_whole
from aladin_jax.lineage import as_json
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.scores.ragged import Packed, offsets_of
from aladin_jax.search import manifest as manifests
from aladin_jax.search import segment as segments
from aladin_jax.search.index import Index
from aladin_jax.search.inputs import check_shard
from aladin_jax.search.manifest import Manifest, SegmentEntry
from aladin_jax.search.pictures import Pictures
from aladin_jax.search.segment import Segment
from aladin_jax.untrusted import check_image_id

PART_IMAGES = 512  # a multiple of the encoding batch
_JOB = "job.json"


@dataclasses.dataclass(frozen=True)
class Source:
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
    source: Source,
    *,
    parts_dtype: str = "float32",
    part_images: int = PART_IMAGES,
    collection: str = "",
) -> Manifest:
    """Makes an index; called again after it was killed, goes on after the last finished part.

    Args:
        path: the folder, which must not exist, be empty, or hold an unfinished index.
        model: whose vectors it will hold.
        source: what goes in.
        parts_dtype: number format of regions and words, "float32" or "float16".
        part_images: images encoded between two points at which it can go on.
        collection: of Qdrant, that its images will go to; "" for one of its own.

    Raises:
        ValueError: there is something at `path` already, or the data do not fit the model or are damaged.
    """
    if (path / manifests.MANIFEST).exists():
        raise ValueError(f"{path}: there is an index already; `add` to it, or choose another folder")
    own = {manifests.UNFINISHED, manifests.LOCK, manifests.MODEL}
    if (path / manifests.UNFINISHED).is_dir():
        own.add(_segment_name(1))  # of a build killed just before its manifest
    if path.exists() and (not path.is_dir() or any(f.name not in own and f.name[0] != "." for f in path.iterdir())):
        raise ValueError(f"{path}: holds something else; choose another folder")
    path.mkdir(parents=True, exist_ok=True)
    with manifests.writer_lock(path):
        manifest = Manifest(
            generation=1,
            fingerprint=model.fingerprint,
            model_source=model.described,
            settings=model.settings,
            width=model.config.backbone.hidden_size,
            feature_dim=model.feature_dim,
            parts_dtype=parts_dtype,
            segments=(),
            identity=uuid.uuid4().hex,
            collection=collection,
            shard=source.shard,
            features=_made(source),
        )
        entry = _build(path, model, source, manifest, part_images, taken=frozenset())
        model_folder.save_model_folder(
            path / manifests.MODEL,
            model.params,
            model.config,
            model.vocabulary,
            {"source": model.described, "fingerprint": model.fingerprint, "lineage": as_json(model.lineage)},
            caption_ending=model.caption_ending,
            overwrite=(path / manifests.MODEL).exists(),
        )
        manifest = dataclasses.replace(manifest, segments=(entry,))
        manifests.write_manifest(path, manifest)
        shutil.rmtree(path / manifests.UNFINISHED)
    return manifest


def is_of(path: Path, model: PretrainedModel, source: Source, collection: str) -> bool:
    """Whether a finished index is what `create_index` would make, and was not changed since."""
    if not (path / manifests.MANIFEST).exists():
        return False
    manifest = manifests.read_manifest(path)
    made_for = (manifest.generation, manifest.fingerprint, manifest.shard, manifest.collection)
    if made_for != (1, model.fingerprint, source.shard, collection):
        return False
    split = Split(open_dataset(source.data), source.split, model.feature_dim)
    return Index(path).ids == [split.ids[row] for row in source.rows(split.num_images)]


def add_to_index(path: Path, model: PretrainedModel, source: Source, *, part_images: int = PART_IMAGES) -> Manifest:
    """Appends a split to an index: readers see all of it or nothing.

    Raises:
        ValueError: the model is not the index's, an id is in the index already, another writer is at work, or the
            data are damaged.
    """
    manifests.read_manifest(path)
    with manifests.writer_lock(path):
        index = Index(path)
        manifest = index.manifest
        if manifest.fingerprint != model.fingerprint:
            raise ValueError(
                f"{path}: holds vectors of model {manifest.fingerprint} ({manifest.model_source}), not of "
                f"{model.fingerprint} ({model.described}); index the data anew with one of them"
            )
        made = _made(source)
        if made and manifest.features and made != manifest.features:
            raise ValueError(
                f"{path}: its features were made with {manifest.features}, those of {source.data} with {made}; make "
                "them in the same way"
            )
        manifests.remove_unlisted(path, manifest)
        manifest = dataclasses.replace(manifest, generation=manifest.generation + 1)
        entry = _build(path, model, source, manifest, part_images, taken=index.row_of_id.keys())
        manifest = dataclasses.replace(manifest, segments=(*manifest.segments, entry))
        manifests.write_manifest(path, manifest)
        shutil.rmtree(path / manifests.UNFINISHED)
    return manifest


def _build(
    path: Path, model: PretrainedModel, source: Source, manifest: Manifest, part_images: int, taken: Any
) -> SegmentEntry:
    """Encodes a split part by part and writes its segment; the caller's manifest makes it count."""
    dataset = open_dataset(source.data)
    split = Split(dataset, source.split, model.feature_dim)
    chosen = source.rows(split.num_images)
    ids = [split.ids[row] for row in chosen]
    _check_ids(split, ids, taken, path)
    pictures = Pictures(dataset, source.split, source.images)
    pictures.require_any(split.ids)
    folder = path / manifests.UNFINISHED
    _start_or_go_on(folder, manifest, source, split, ids, part_images)
    starts = range(0, len(chosen), part_images)
    parts = [folder / f"part-{number:06d}" for number in range(len(starts))]
    encoder, params = model.encoder, model.device_params
    with tqdm(total=len(chosen), desc=f"indexing {split.name}", unit="image", disable=None) as progress:
        for part, start in zip(parts, starts, strict=True):
            rows = chosen[start : start + part_images]
            if not part.exists():
                images = encoder.encode_images(params, split, rows)
                captions, image_of_caption = _encode_captions(encoder, params, split, rows, manifest.width)
                encoded = Segment(images, captions, *_describe(split, rows, image_of_caption, pictures))
                segments.write_segment(part, [(encoded, np.ones(len(rows), bool))], manifest.parts_dtype)
            progress.update(len(rows))
    name = _segment_name(manifest.generation)
    shutil.rmtree(path / name, ignore_errors=True)  # of a build killed just before its manifest
    read = [segments.read_segment(part) for part in parts]
    written = segments.write_segment(
        path / name, [(part, np.ones(part.image_table.num_rows, bool)) for part in read], manifest.parts_dtype
    )
    return SegmentEntry(**written)


def _made(source: Source) -> dict[str, Any] | None:
    """How the features of a data set were made, where it says."""
    features = open_dataset(source.data).metadata.get("features")
    return features if manifests.is_made(features) else None


def _segment_name(generation: int) -> str:
    return f"segment-{generation:06d}"


def _check_ids(split: Split, ids: list[str], taken: Any, path: Path) -> None:
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


def _start_or_go_on(
    folder: Path, manifest: Manifest, source: Source, split: Split, ids: list[str], part_images: int
) -> None:
    """Keeps finished parts of the same job; parts of any other are removed."""
    job = {
        "fingerprint": manifest.fingerprint,
        "parts_dtype": manifest.parts_dtype,
        "part_images": part_images,
        "generation": manifest.generation,
        "split": f"{split.directory.absolute()}:{split.name}",
        "ids": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "captions": hashlib.sha256(split.caption_counts.tobytes()).hexdigest(),
        "images": None if source.images is None else str(source.images.absolute()),
    }
    if (folder / _JOB).exists() and read_json(folder / _JOB) == job:
        done = sum(1 for _ in folder.glob("part-*"))
        logging.info("Going on after %d finished parts", done)
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_whole(folder / _JOB, json.dumps(job).encode())


def _encode_captions(encoder: Any, params: Any, split: Split, rows: np.ndarray, width: int) -> tuple[Encoded, Any]:
    if split.caption_counts[rows].any():
        return encoder.encode_captions(params, split, rows)
    nothing = np.zeros((0, width), np.float32)
    return Encoded(nothing, Packed(nothing, offsets_of(np.zeros(0, np.int64)))), np.zeros(0, np.int64)


def _describe(
    split: Split, rows: np.ndarray, image_of_caption: np.ndarray, pictures: Pictures
) -> tuple[pa.Table, pa.Table, np.ndarray, np.ndarray]:
    """The tables and pictures of a part."""
    ids, tags, boxes, files, texts, jpegs = [], [], [], [], [], []
    for row in rows.tolist():
        record = split.read(row)
        picture, box = pictures.read(row, record.id, record.regions)
        ids.append(record.id)
        tags.append(record.tags)
        boxes.append([] if box is None else box.reshape(-1))
        files.append("" if picture is None else picture.file)
        texts += record.captions
        jpegs.append(b"" if picture is None else picture.jpeg)
    image_table = pa.table({"id": ids, "tags": tags, "boxes": boxes, "file": files}, schema=segments.IMAGE_SCHEMA)
    caption_table = pa.table({"image": image_of_caption, "text": texts}, schema=segments.CAPTION_SCHEMA)
    return (
        image_table,
        caption_table,
        np.frombuffer(b"".join(jpegs), np.uint8),
        offsets_of(np.array([*map(len, jpegs)])),
    )
