"""Verifies an index, and says what it holds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from aladin_jax import model_folder
from aladin_jax.search import ann
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import MODEL, UNFINISHED, Segment, about_file, read_manifest

_UNIT_TOLERANCE = 2e-3  # float16 keeps three digits
_CHECKED_ROWS = 65536


def verify(path: Path) -> list[str]:
    """Checks every file's size and sum, all counts and offsets, that vectors are unit vectors, and the model.

    Returns:
        One line for each fault; none if the index is sound.
    """
    faults: list[str] = []
    for entry in read_manifest(path).segments:
        for name, about in entry.files.items():
            file = path / entry.name / name
            if not file.is_file():
                faults.append(f"{file}: missing")
            elif (found := about_file(file)) != about:
                faults.append(f"{file}: has {found}, the manifest says {about}")
    if faults:
        return faults
    try:
        index = Index(path)
        index.model()
    except ValueError as error:
        return [str(error)]
    if len(index.row_of_id) != len(index.images.live_rows):
        faults.append(f"{path}: an id comes more than once")
    for entry, segment, _ in index.by_segment():
        faults += _faults_of_vectors(path / entry.name, segment)
        faults += ann.faults(path / entry.name)
    return faults


def _faults_of_vectors(folder: Path, segment: Segment) -> list[str]:
    faults = []
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
    manifest = read_manifest(path)
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
        "caption_ending": model_folder.read_caption_ending(path / MODEL),
        "features": manifest.features,
        "settings": dataclasses.asdict(manifest.settings),
        "unfinished": (path / UNFINISHED).exists(),
    }
