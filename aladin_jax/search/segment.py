"""One segment of an index: some images and their captions, in files that never change once they are written.

image_vectors.npy    [i, d] float32    the matching head's; caption_vectors.npy likewise
image_parts.npy      [n, d]            unit vectors of regions end to end; caption_parts.npy: of words
image_offsets.npy    [i + 1]           where each image's regions start; caption_offsets.npy likewise
images.parquet       id, tags, boxes (x1, y1, x2, y2 of each region as shares of the picture; empty: not known),
                     file (the picture's path in the folder that it was in; empty: not known)
captions.parquet     image (row in this segment), text
pictures.bin, picture_offsets.npy      JPEG files end to end (an image without picture has no bytes)
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from aladin_jax.encoding import Encoded
from aladin_jax.files import sha256
from aladin_jax.scores.ragged import Packed, offsets_of

IMAGE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.float32())),
        ("file", pa.string()),
    ]
)
CAPTION_SCHEMA = pa.schema([("image", pa.int64()), ("text", pa.string())])
ARRAYS = tuple(f"{side}_{kind}.npy" for side in ("image", "caption") for kind in ("vectors", "parts", "offsets"))
FILES = (*ARRAYS, "images.parquet", "captions.parquet", "pictures.bin", "picture_offsets.npy")
_COPIED_ROWS = 8192


class Segment(NamedTuple):
    """What a segment holds, in memory or mapped from its files.

    Attributes:
        images: vectors and regions.
        captions: vectors and words.
        image_table: of `IMAGE_SCHEMA`.
        caption_table: of `CAPTION_SCHEMA`.
        pictures: uint8 bytes of JPEG files end to end.
        picture_offsets: [i + 1] where each one starts.
    """

    images: Encoded
    captions: Encoded
    image_table: pa.Table
    caption_table: pa.Table
    pictures: np.ndarray
    picture_offsets: np.ndarray

    @property
    def caption_images(self) -> np.ndarray:
        """The row of each caption's image."""
        return self.caption_table["image"].to_numpy()

    def picture(self, row: int) -> bytes:
        """The JPEG file of an image; empty where there is none."""
        return self.pictures[self.picture_offsets[row] : self.picture_offsets[row + 1]].tobytes()


def read_segment(folder: Path) -> Segment:
    """Maps a segment's arrays into memory and reads its tables.

    Raises:
        ValueError: a file is damaged, or the files do not fit together.
        FileNotFoundError: a file is not there.
    """
    arrays = {name: _map(folder / name) for name in (*ARRAYS, "picture_offsets.npy")}
    tables = {}
    for name, schema in (("images", IMAGE_SCHEMA), ("captions", CAPTION_SCHEMA)):
        try:
            tables[name] = pq.read_table(folder / f"{name}.parquet", memory_map=True)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{folder / name}.parquet: not a Parquet file that can be read ({error})") from error
        if name == "images" and "file" not in tables[name].schema.names:  # of an index made before there was one
            tables[name] = tables[name].append_column(schema.field("file"), [[""] * tables[name].num_rows])
        if not tables[name].schema.equals(schema):
            raise ValueError(f"{folder / name}.parquet: its columns are {tables[name].schema.names}, not an index's")
    sides = {
        side: Encoded(arrays[f"{side}_vectors.npy"], Packed(arrays[f"{side}_parts.npy"], arrays[f"{side}_offsets.npy"]))
        for side in ("image", "caption")
    }
    path = folder / "pictures.bin"
    pictures = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    segment = Segment(
        sides["image"], sides["caption"], tables["images"], tables["captions"], pictures, arrays["picture_offsets.npy"]
    )
    check_segment(segment, str(folder))
    return segment


def check_segment(segment: Segment, source: str) -> None:
    """Checks that counts and offsets of a segment's files agree, so that nothing is read beyond its end.

    Raises:
        ValueError: naming the segment and what disagrees.
    """
    counts = {"image": segment.image_table.num_rows, "caption": segment.caption_table.num_rows}
    for side, encoded in (("image", segment.images), ("caption", segment.captions)):
        vectors, (parts, offsets) = encoded
        if vectors.dtype != np.float32 or parts.dtype not in (np.float32, np.float16) or offsets.dtype != np.int64:
            raise ValueError(f"{source}: {side} arrays are {vectors.dtype}, {parts.dtype}, {offsets.dtype}")
        if vectors.ndim != 2 or parts.ndim != 2 or parts.shape[1] != vectors.shape[1]:
            raise ValueError(f"{source}: {side} vectors have shapes {vectors.shape} and {parts.shape}")
        if len(vectors) != counts[side]:
            raise ValueError(f"{source}: {len(vectors)} {side} vectors for {counts[side]} rows of the table")
        _check_offsets(offsets, counts[side], len(parts), f"{source}: {side}_offsets.npy")
    _check_offsets(segment.picture_offsets, counts["image"], len(segment.pictures), f"{source}: picture_offsets.npy")
    images = segment.caption_images
    if len(images) and not (images.min() >= 0 and images.max() < counts["image"]):
        raise ValueError(f"{source}: captions.parquet names an image outside the {counts['image']} of the segment")


def write_segment(folder: Path, pieces: Sequence[tuple[Segment, np.ndarray]], parts_dtype: str) -> dict[str, Any]:
    """Writes a segment out of pieces of others, in their order; never holds more than a few thousand rows in memory.

    Args:
        folder: must not exist; made under a temporary name and renamed.
        pieces: segments, each with a mask [i] of the images to keep. Captions go with their images.
        parts_dtype: number format of regions and words.

    Returns:
        What the manifest says of the segment: counts, and the size and SHA-256 of each file.
    """
    unfinished = folder.with_name(f".{folder.name}.unfinished")
    _remove_files(unfinished)
    unfinished.mkdir(parents=True)
    kept_captions = [keep[segment.caption_images] for segment, keep in pieces]
    regions = _write_side(unfinished, "image", [(s.images, keep) for s, keep in pieces], parts_dtype)
    words = _write_side(
        unfinished,
        "caption",
        [(s.captions, keep) for (s, _), keep in zip(pieces, kept_captions, strict=True)],
        parts_dtype,
    )
    image_tables, caption_tables, first = [], [], 0
    for (segment, keep), kept in zip(pieces, kept_captions, strict=True):
        image_tables.append(segment.image_table.filter(pa.array(keep)))
        table = segment.caption_table.filter(pa.array(kept))
        new_rows = first + np.cumsum(keep) - 1
        caption_tables.append(table.set_column(0, "image", pa.array(new_rows[table["image"].to_numpy()], pa.int64())))
        first += int(keep.sum())
    images, captions = pa.concat_tables(image_tables), pa.concat_tables(caption_tables)
    pq.write_table(images.cast(IMAGE_SCHEMA), unfinished / "images.parquet")
    pq.write_table(captions.cast(CAPTION_SCHEMA), unfinished / "captions.parquet")
    _write_pictures(unfinished, pieces)
    files = {}
    for name in FILES:
        files[name] = {"bytes": (unfinished / name).stat().st_size, "sha256": sha256(unfinished / name)}
        sync(unfinished / name)
    unfinished.rename(folder)
    sync(folder.parent)
    return {
        "name": folder.name,
        "images": images.num_rows,
        "captions": captions.num_rows,
        "regions": regions,
        "words": words,
        "files": files,
    }


def sync(path: Path) -> None:
    """Waits until a file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_side(folder: Path, side: str, pieces: Sequence[tuple[Encoded, np.ndarray]], parts_dtype: str) -> int:
    """Writes one side's three arrays; returns the number of parts."""
    lengths = np.concatenate([encoded.parts.lengths[keep] for encoded, keep in pieces])
    offsets = offsets_of(lengths)
    width = pieces[0][0].vectors.shape[1]
    vectors = _create(folder / f"{side}_vectors.npy", (len(lengths), width), "float32")
    parts = _create(folder / f"{side}_parts.npy", (int(offsets[-1]), width), parts_dtype)
    at = part_at = 0
    for encoded, keep in pieces:
        at = _copy(encoded.vectors, keep, vectors, at)
        part_at = _copy(encoded.parts.vectors, np.repeat(keep, encoded.parts.lengths), parts, part_at)
    np.save(folder / f"{side}_offsets.npy", offsets)
    return int(offsets[-1])


def _write_pictures(folder: Path, pieces: Sequence[tuple[Segment, np.ndarray]]) -> None:
    lengths = []
    with (folder / "pictures.bin").open("wb") as file:
        for segment, keep in pieces:
            for row in np.flatnonzero(keep):
                lengths.append(file.write(segment.picture(int(row))))
    np.save(folder / "picture_offsets.npy", offsets_of(np.asarray(lengths, np.int64)))


def _create(path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    if 0 in shape:  # nothing can be mapped of an empty file
        np.save(path, np.zeros(shape, dtype))
        return np.zeros(shape, dtype)
    return np.lib.format.open_memmap(path, "w+", dtype, shape)


def _copy(source: np.ndarray, keep: np.ndarray, target: np.ndarray, at: int) -> int:
    """Copies the rows that are kept to `target[at:]`; returns where they end."""
    for start in range(0, len(source), _COPIED_ROWS):
        rows = source[start : start + _COPIED_ROWS][keep[start : start + _COPIED_ROWS]]
        target[at : at + len(rows)] = rows
        at += len(rows)
    if isinstance(target, np.memmap):
        target.flush()
    return at


def _map(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array that can be read ({error})") from error
    return np.array(array) if array.ndim == 1 else array


def _check_offsets(offsets: np.ndarray, examples: int, total: int, source: str) -> None:
    if offsets.shape != (examples + 1,) or offsets[0] != 0 or offsets[-1] != total or (np.diff(offsets) < 0).any():
        raise ValueError(f"{source}: does not divide {total} rows among {examples} examples")


def _remove_files(folder: Path) -> None:
    """Removes what a killed writer left: a folder of plain files."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
