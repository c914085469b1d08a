"""Keeps an index in order: delete, merge, verify, info. Each change is one replaced manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax import model_folder
from aladin_jax.files import sha256
from aladin_jax.search import ann
from aladin_jax.search import manifest as manifests
from aladin_jax.search import segment as segments
from aladin_jax.search.index import Index
from aladin_jax.search.manifest import Manifest, SegmentEntry

_UNIT_TOLERANCE = 2e-3  # float16 keeps three digits
_CHECKED_ROWS = 65536


def delete_images(path: Path, image_ids: Iterable[str]) -> Manifest:
    """Takes images and their captions out of all results; their files stay until `merge`.

    Raises:
        ValueError: an id is not in the index, or comes twice; then nothing is deleted. Or another writer is at work.
    """
    manifests.read_manifest(path)
    with manifests.writer_lock(path):
        index = Index(path)
        manifests.remove_unlisted(path, index.manifest)
        rows = np.array([index.row(image_id) for image_id in image_ids], np.int64)
        if len(np.unique(rows)) != len(rows):
            raise ValueError(f"{path}: an id to delete comes more than once")
        alive = index.images.alive.copy()
        alive[rows] = False
        if not alive.any():
            raise ValueError(f"{path}: that would delete every image; remove the folder instead")
        generation = index.manifest.generation + 1
        entries, first = [], 0
        for entry in index.manifest.segments:
            dead = np.flatnonzero(~alive[first : first + entry.images])
            captions = index.caption_image - first
            of_segment = captions[(captions >= 0) & (captions < entry.images)]
            if len(dead) != entry.deleted_images:
                name = f"deleted-{generation:06d}.npy"
                np.save(path / entry.name / name, dead)
                segments.sync(path / entry.name / name)
                entry = dataclasses.replace(
                    entry,
                    deleted=name,
                    deleted_images=len(dead),
                    deleted_captions=int(np.isin(of_segment, dead).sum()),
                )
            entries.append(entry)
            first += entry.images
        manifest = dataclasses.replace(index.manifest, generation=generation, segments=tuple(entries))
        manifests.write_manifest(path, manifest)
        manifests.remove_unlisted(path, manifest)
    return manifest


def merge(path: Path) -> Manifest:
    """Writes all that is not deleted into one segment and removes the others; readers of these go on.

    Raises:
        ValueError: another writer is at work, or the index is damaged.
    """
    manifests.read_manifest(path)
    with manifests.writer_lock(path):
        manifest = manifests.read_manifest(path)
        manifests.remove_unlisted(path, manifest)
        if len(manifest.segments) == 1 and not manifest.segments[0].deleted:
            return manifest
        index = Index(path)
        generation = manifest.generation + 1
        pieces, first = [], 0
        for entry in manifest.segments:
            keep = index.images.alive[first : first + entry.images]
            pieces.append((segments.read_segment(path / entry.name), keep))
            first += entry.images
        written = segments.write_segment(path / f"segment-{generation:06d}", pieces, manifest.parts_dtype)
        manifest = dataclasses.replace(manifest, generation=generation, segments=(SegmentEntry(**written),))
        manifests.write_manifest(path, manifest)
        manifests.remove_unlisted(path, manifest)
    return manifest


def verify(path: Path) -> list[str]:
    """Checks every file's size and sum, all counts and offsets, that vectors are unit vectors, and the model.

    Returns:
        One line for each fault; none if the index is sound.
    """
    faults: list[str] = []
    manifest = manifests.read_manifest(path)
    for entry in manifest.segments:
        for name, about in entry.files.items():
            file = path / entry.name / name
            if not file.is_file():
                faults.append(f"{file}: missing")
            elif (size := file.stat().st_size) != about.get("bytes"):
                faults.append(f"{file}: {size:,} bytes, the manifest says {about.get('bytes')}")
            elif (found := sha256(file)) != about.get("sha256"):
                faults.append(f"{file}: SHA-256 is {found}, the manifest says {about.get('sha256')}")
    if faults:
        return faults
    try:
        index = Index(path)
        index.model()
    except ValueError as error:
        return [str(error)]
    if len({index.ids[row] for row in index.images.live_rows}) != len(index.images.live_rows):
        faults.append(f"{path}: an id comes more than once")
    for entry in manifest.segments:
        faults += _faults_of_vectors(path / entry.name, entry)
        faults += ann.faults(path / entry.name)
    for name, side, expected in (
        ("images", index.images, manifest.images),
        ("captions", index.captions, manifest.captions),
    ):
        if len(side.live_rows) != expected:
            faults.append(f"{path}: {len(side.live_rows)} {name}, the manifest says {expected}")
    return faults


def _faults_of_vectors(folder: Path, entry: SegmentEntry) -> list[str]:
    faults = []
    segment = segments.read_segment(folder)
    counts = len(segment.images.parts.vectors), len(segment.captions.parts.vectors)
    if counts != (entry.regions, entry.words):
        faults.append(f"{folder}: {counts} regions and words, the manifest says {(entry.regions, entry.words)}")
    for side, encoded in (("image", segment.images), ("caption", segment.captions)):
        for kind, array in (("vectors", encoded.vectors), ("parts", encoded.parts.vectors)):
            for start in range(0, len(array), _CHECKED_ROWS):
                norms = np.linalg.norm(np.asarray(array[start : start + _CHECKED_ROWS], np.float32), axis=1)
                bad = np.flatnonzero(~(np.abs(norms - 1) <= _UNIT_TOLERANCE))
                if len(bad):
                    row = start + int(bad[0])
                    faults.append(f"{folder}/{side}_{kind}.npy: row {row} has length {norms[bad[0]]:g}, expected 1")
                    break
    return faults


def describe(path: Path) -> dict[str, Any]:
    """What an index holds, as `info` shows it."""
    manifest = manifests.read_manifest(path)
    files = [file for entry in manifest.segments for file in (path / entry.name).iterdir()]
    return {
        "path": str(path),
        "schema": manifest.schema,
        "generation": manifest.generation,
        "images": manifest.images,
        "captions": manifest.captions,
        "deleted_images": sum(entry.deleted_images for entry in manifest.segments),
        "regions": sum(entry.regions for entry in manifest.segments),
        "words": sum(entry.words for entry in manifest.segments),
        "segments": len(manifest.segments),
        "width": manifest.width,
        "parts_dtype": manifest.parts_dtype,
        "bytes": sum(file.stat().st_size for file in files),
        "identity": manifest.identity,
        "collection": manifest.collection,
        "shard": manifest.shard,
        "model": manifest.model_source,
        "fingerprint": manifest.fingerprint,
        "caption_ending": model_folder.read_caption_ending(path / manifests.MODEL),
        "features": manifest.features,
        "settings": dataclasses.asdict(manifest.settings),
        "unfinished": (path / manifests.UNFINISHED).exists(),
    }
