"""What an index is on disk: segments, whose files never change, and a manifest, which is replaced.

INDEX/manifest.json      the segments and the model; written last: replacing it is the moment at which a change is there
INDEX/model/             the model's folder, so that an index is all that a query needs
INDEX/segment-000001/    some images and their captions
  image_vectors.npy      [i, d] float32    the matching head's; caption_vectors.npy likewise
  image_parts.npy        [n, d]            unit vectors of regions end to end; caption_parts.npy: of words
  image_offsets.npy      [i + 1]           where each image's regions start; caption_offsets.npy likewise
  images.parquet         id, tags, boxes (x1, y1, x2, y2 of each region as shares of the picture; empty: not known),
                         file (the picture's path in the folder that it was in; empty: not known)
  captions.parquet       image (row in this segment), text
  pictures.bin           JPEG files end to end (an image without picture has no bytes); picture_offsets.npy
  deleted-000002.npy     rows deleted as of that generation
INDEX/.unfinished/HASH/  parts of a build, which can go on; each like a segment, HASH of all that makes them
INDEX/lock               held by the one writer
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int

from aladin_jax.checked import Count, Form, Natural, checked
from aladin_jax.config import Settings
from aladin_jax.encoding import Encoded
from aladin_jax.files import read_json, sha256, whole_folder, write_whole
from aladin_jax.scores.ragged import Ragged, offsets_of
from aladin_jax.search.inputs import COLLECTION_NAME, PARTS_DTYPES, check_shard

SCHEMA = 1
MANIFEST, MODEL, UNFINISHED, LOCK = "manifest.json", "model", ".unfinished", "lock"
IMAGE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("boxes", pa.list_(pa.float32())),
        ("file", pa.string()),
    ]
)
CAPTION_SCHEMA = pa.schema([("image", pa.int64()), ("text", pa.string())])
_ARRAYS = tuple(f"{side}_{kind}.npy" for side in ("image", "caption") for kind in ("vectors", "parts", "offsets"))
FILES = (*_ARRAYS, "images.parquet", "captions.parquet", "pictures.bin", "picture_offsets.npy")


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

    # `name` and `deleted` become paths: nothing but what this program writes.
    name: Annotated[str, Form(r"segment-\d{6,}")]
    images: Natural
    captions: Natural
    regions: Natural
    words: Natural
    files: Mapping[str, Any]
    deleted: Annotated[str, Form(r"(deleted-\d{6,}\.npy)?")]
    deleted_images: Natural
    deleted_captions: Natural


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

    generation: Natural
    fingerprint: Annotated[str, Form("[0-9a-f]{64}")]
    model_source: str
    settings: Settings
    width: Count
    feature_dim: Count
    parts_dtype: Annotated[str, Form("|".join(PARTS_DTYPES))]
    segments: tuple[SegmentEntry, ...]
    identity: Annotated[str, Form("[0-9a-f]{32}")]
    collection: Annotated[str, Form(f"({COLLECTION_NAME.pattern})?")] = ""
    shard: str = "1/1"
    schema: int = SCHEMA
    features: Mapping[str, Any] | None = None

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
        manifest = checked(Manifest, {"identity": "0" * 32, "settings": {}, **values})  # the first indices lack these
        if "identity" not in values:  # this one stays: the next change writes it down
            files = json.dumps([entry.files for entry in manifest.segments], sort_keys=True)
            manifest = dataclasses.replace(manifest, identity=hashlib.sha256(files.encode()).hexdigest()[:32])
        check_shard(manifest.shard)
        if any(entry.files.keys() != set(FILES) for entry in manifest.segments):
            raise ValueError("a segment has not the files that it should")
        if manifest.features is not None and not says_how_made(manifest.features):
            raise ValueError("features does not say how they were made")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged ({error}); restore it, or index the data again") from error
    return manifest


def says_how_made(features: Any) -> bool:
    """Whether something says how features were made, as `convert.detect` does."""
    if not isinstance(features, dict) or len(features.keys() & {"detector", "encoder"}) != 1:
        return False
    return all(
        isinstance(value, str if name in ("detector", "encoder") else int | float) for name, value in features.items()
    )


def write_manifest(index: Path, manifest: Manifest) -> None:
    """Replaces the manifest: the moment at which a change is there, for every reader that opens after it.

    What it no longer lists is removed; readers that have it open go on.
    """
    write_whole(index / MANIFEST, json.dumps(dataclasses.asdict(manifest), indent=1).encode() + b"\n")
    remove_unlisted(index, manifest)


def remove_unlisted(index: Path, manifest: Manifest) -> None:
    """Removes segments and lists of deleted rows that are not the manifest's: of a killed writer, or merged away."""
    listed = {entry.name: entry.deleted for entry in manifest.segments}
    for folder in index.glob("*segment-*"):
        if folder.name not in listed:
            shutil.rmtree(folder)
            continue
        for file in folder.glob("*deleted-*"):
            if file.name != listed[folder.name]:
                file.unlink()


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


class Segment(NamedTuple):
    """What a segment holds, in memory or mapped from its files.

    Attributes:
        images: vectors and regions.
        captions: vectors and words.
        image_table: of `IMAGE_SCHEMA`.
        caption_table: of `CAPTION_SCHEMA`.
        pictures: uint8 bytes of JPEG files, none where an image has no picture.
    """

    images: Encoded
    captions: Encoded
    image_table: pa.Table
    caption_table: pa.Table
    pictures: Ragged

    @property
    def caption_images(self) -> Int[np.ndarray, " c"]:
        """The row of each caption's image."""
        return self.caption_table["image"].to_numpy()

    def counts(self, alive: Bool[np.ndarray, " i"]) -> dict[str, Any]:
        """Those that the manifest lists, where these images are not deleted."""
        return {
            "images": len(self.images.vectors),
            "captions": len(self.captions.vectors),
            "regions": len(self.images.parts.vectors),
            "words": len(self.captions.parts.vectors),
            "deleted_images": int((~alive).sum()),
            "deleted_captions": int((~alive)[self.caption_images].sum()),
        }

    def picture(self, row: int) -> bytes:
        """The JPEG file of an image; empty where there is none."""
        files, offsets = self.pictures
        return files[offsets[row] : offsets[row + 1]].tobytes()


def read_segment(folder: Path) -> Segment:
    """Maps a segment's arrays into memory and reads its tables.

    Raises:
        ValueError: a file is damaged, or the files do not fit together.
        FileNotFoundError: a file is not there.
    """
    files = {name: _read(folder / name) for name in FILES}
    table = files["images.parquet"]
    if "file" not in table.schema.names:  # of an index made before there was one
        files["images.parquet"] = table.append_column(IMAGE_SCHEMA.field("file"), [[""] * table.num_rows])
    for name, schema in (("images.parquet", IMAGE_SCHEMA), ("captions.parquet", CAPTION_SCHEMA)):
        if not files[name].schema.equals(schema):
            raise ValueError(f"{folder / name}: its columns are {files[name].schema.names}, not an index's")
    segment = Segment(
        Encoded(files["image_vectors.npy"], Ragged(files["image_parts.npy"], files["image_offsets.npy"])),
        Encoded(files["caption_vectors.npy"], Ragged(files["caption_parts.npy"], files["caption_offsets.npy"])),
        files["images.parquet"],
        files["captions.parquet"],
        Ragged(files["pictures.bin"], files["picture_offsets.npy"]),
    )
    _check_segment(segment, folder)
    return segment


def _read(path: Path) -> Any:
    """A file of a segment: a table, or an array, mapped into memory where it is large."""
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path, memory_map=True)
        if path.suffix == ".bin":
            return np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); restore it, or index the data again") from error
    return np.array(array) if array.ndim == 1 else array


def _check_segment(segment: Segment, folder: Path) -> None:
    """Checks that counts and offsets agree, so that nothing is read beyond its end."""
    for side, encoded, table in (
        ("image", segment.images, segment.image_table),
        ("caption", segment.captions, segment.caption_table),
    ):
        vectors, parts = encoded.vectors, encoded.parts.vectors
        fit = vectors.ndim == parts.ndim == 2 and vectors.shape == (table.num_rows, parts.shape[1])
        if not fit or vectors.dtype != np.float32 or parts.dtype.name not in PARTS_DTYPES:
            raise ValueError(
                f"{folder}: {side} vectors are {vectors.dtype}{vectors.shape} and {parts.dtype}{parts.shape}, for "
                f"{table.num_rows} rows of the table"
            )
        _check_offsets(encoded.parts, len(vectors), folder / f"{side}_offsets.npy")
    images = len(segment.images.vectors)
    _check_offsets(segment.pictures, images, folder / "picture_offsets.npy")
    if not ((segment.caption_images >= 0) & (segment.caption_images < images)).all():
        raise ValueError(f"{folder}: captions.parquet names an image outside the {images} of the segment")


def _check_offsets(array: Ragged, examples: int, path: Path) -> None:
    rows, offsets = array
    fit = offsets.dtype == np.int64 and offsets.shape == (examples + 1,)
    if not fit or offsets[0] != 0 or offsets[-1] != len(rows) or (np.diff(offsets) < 0).any():
        raise ValueError(f"{path}: does not divide {len(rows)} rows among {examples} examples")


def write_segment(
    folder: Path, pieces: Sequence[tuple[Segment, Bool[np.ndarray, " _"]]], parts_dtype: str
) -> SegmentEntry:
    """Writes a segment out of pieces of others, in their order; what is mapped from files stays there.

    Args:
        folder: whole or not there, whenever the writer is killed; an earlier one is replaced.
        pieces: segments, each with a mask [i] of the images to keep. Captions go with their images.
        parts_dtype: number format of regions and words.

    Returns:
        What the manifest says of the segment.
    """
    with whole_folder(folder) as unfinished:
        sides = {
            "image": [(segment.images, keep) for segment, keep in pieces],
            "caption": [(segment.captions, keep[segment.caption_images]) for segment, keep in pieces],
        }
        for side, kept in sides.items():
            vectors = [(encoded.vectors, _spans(keep)) for encoded, keep in kept]
            _write_rows(unfinished / f"{side}_vectors.npy", vectors, "float32")
            parts = [(encoded.parts, keep) for encoded, keep in kept]
            _write_ragged(unfinished / f"{side}_parts.npy", unfinished / f"{side}_offsets.npy", parts, parts_dtype)
        pictures = [(segment.pictures, keep) for segment, keep in pieces]
        _write_ragged(unfinished / "pictures.bin", unfinished / "picture_offsets.npy", pictures, "uint8")
        image_tables, caption_tables, first = [], [], 0
        for (segment, keep), (_, of_caption) in zip(pieces, sides["caption"], strict=True):
            image_tables.append(segment.image_table.filter(pa.array(keep)))
            rows = (first + np.cumsum(keep) - 1)[segment.caption_images[of_caption]]
            table = segment.caption_table.filter(pa.array(of_caption))
            caption_tables.append(table.set_column(0, CAPTION_SCHEMA.field("image"), [rows]))
            first += int(keep.sum())
        pq.write_table(pa.concat_tables(image_tables), unfinished / "images.parquet")
        pq.write_table(pa.concat_tables(caption_tables), unfinished / "captions.parquet")
    segment = read_segment(folder)
    counts = segment.counts(np.ones(len(segment.images.vectors), bool))
    files = {name: about_file(folder / name) for name in FILES}
    return SegmentEntry(folder.name, files=files, deleted="", **counts)


def about_file(path: Path) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _spans(keep: Bool[np.ndarray, " n"]) -> Int[np.ndarray, "s 2"]:
    """Where each run of rows that are kept starts and ends."""
    return np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)


def _write_ragged(path: Path, offsets: Path, pieces: Sequence[tuple[Ragged, np.ndarray]], dtype: str) -> None:
    """Writes the rows of examples that are kept end to end, and where each example's start."""
    _write_rows(path, [(array.vectors, array.offsets[_spans(keep)]) for array, keep in pieces], dtype)
    np.save(offsets, offsets_of(np.concatenate([array.lengths[keep] for array, keep in pieces])))


def _write_rows(path: Path, pieces: Sequence[tuple[np.ndarray, np.ndarray]], dtype: str) -> None:
    """Writes spans of arrays one after the other, to an .npy file or bare."""
    with path.open("wb") as file:
        if path.suffix == ".npy":
            shape = (sum(int(np.diff(spans).sum()) for _, spans in pieces), pieces[0][0].shape[1])
            about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, about)
        for rows, spans in pieces:
            for first, last in spans.tolist():
                file.write(np.ascontiguousarray(rows[first:last], dtype).data)
