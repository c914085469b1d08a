"""The same two stages in Qdrant, for collections beyond one machine: both in one request.

An image is one point: its matching vector, dense; its regions as a multivector scored by MaxSim over dot products, with
no index of its own; as payload its id, tags, boxes, file name, the identity of its index, and a hash of all this.
MaxSim has no floor, while ALADIN's evaluation counts a word that no region is similar to as 0: one zero vector among
the regions is that floor.

The collection's metadata say whose it is: the model's fingerprint and settings, and for each of its shards the index
that fills it. An index that is whole fills the only shard; `index --shard i/n` makes one that fills the i-th of n.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException
from tqdm import tqdm

from aladin_jax.checked import checked
from aladin_jax.config import Settings
from aladin_jax.errors import first_line
from aladin_jax.files import make_folder
from aladin_jax.model_folder import read_caption_ending
from aladin_jax.search.index import Index, describe_regions
from aladin_jax.search.index_files import MODEL, Manifest
from aladin_jax.search.inputs import check_shard
from aladin_jax.search.results import Found, Hit

VECTOR, REGIONS = "matching", "regions"
_BATCH = 32  # of BERT-base, some 8 MB a request; the server takes 32
_SCROLLED = 1000
_OWN = ["id", "index", "content"]  # of the payload, what tells whether a point is as it should be


class Sent(NamedTuple):
    """What an upload changed: points written, points removed."""

    written: int
    removed: int


def collection_of(manifest: Manifest) -> str:
    """The collection that an index's images go to: the one it was made for, else one of its own."""
    return manifest.collection or f"aladin-{manifest.identity[:16]}"


def upload(
    client: QdrantClient,
    index: Index,
    *,
    batch: int = _BATCH,
    shards: int = 1,
    replicas: int = 1,
    quantization: str = "none",
) -> Sent:
    """Makes the collection hold what the index holds, and nothing else of this index.

    An image is sent if its point is missing or holds other content; called again after it was cut off, it goes on.
    Points of other indexes are left alone.

    Args:
        client: connected.
        index: whose images are sent.
        batch: points of a request.
        shards: parts that a new collection is divided into, over the cluster's machines.
        replicas: copies of each part.
        quantization: of its dense vectors in memory; "int8" takes a quarter, and the best are scored again in float32.

    Raises:
        ValueError: the collection is another index's, or of another model; or the index's scores are others than
            inner products and MrSw.
    """
    manifest = index.manifest
    name = collection_of(manifest)
    _claim(client, name, index, shards=shards, replicas=replicas, quantization=quantization)
    rows = index.images.live_rows.tolist()
    written = 0
    for start in tqdm(range(0, len(rows), batch), desc=f"uploading to {name}", unit="batch", disable=None):
        wanted = [_point(index, row) for row in rows[start : start + batch]]
        points = client.retrieve(name, [point.id for point, _ in wanted], with_payload=_OWN)
        there = {str(point.id): point.payload or {} for point in points}
        for payload in there.values():
            if payload.get("index") != manifest.identity:
                raise ValueError(
                    f"collection {name}: image {payload.get('id')!r} is there from another index; "
                    "delete it there, or give one of the two another id"
                )
        changed = [point for point, content in wanted if there.get(str(point.id), {}).get("content") != content]
        if changed:
            client.upsert(name, changed, wait=True)
            written += len(changed)
    removed = _remove_deleted(client, name, index)
    number, _ = check_shard(manifest.shard)
    client.update_collection(name, metadata={f"shard-{number}": {"index": manifest.identity, "images": len(rows)}})
    return Sent(written, removed)


class QdrantEngine:
    """Asks a collection; needs no index, for all that an answer says is in the points."""

    def __init__(self, client: QdrantClient, collection: str):
        """Reads whose the collection is.

        Raises:
            ValueError: there is no such collection, or it is not one that `upload` made.
        """
        self._client, self.collection = client, collection
        about = _metadata(client, collection)
        self.fingerprint: str = about["fingerprint"]
        self.caption_ending: str | None = about.get("caption_ending")
        self.settings = checked(Settings, about["settings"], f"collection {collection}")
        shards = [about.get(f"shard-{i}") for i in range(1, about["shards"] + 1)]
        missing = [str(i) for i, shard in enumerate(shards, 1) if shard is None or shard["images"] is None]
        self.note = ""
        if missing:
            self.note = f"shard {', '.join(missing)} of {len(shards)} is not all there yet: its images cannot be found"
        self.images: int = client.count(collection, exact=True).count

    def find(self, vector: Float[np.ndarray, " d"], words: Float[np.ndarray, "w d"], depth: int, k: int) -> list[Found]:
        """The first k images: `depth` candidates of the matching head in the alignment head's order, then the rest."""
        k, found = min(k, self.images), []
        ask = functools.partial(self._client.query_points, self.collection, with_payload=True, with_vectors=True)
        nearest: dict[str, Any] = {"query": vector.tolist(), "using": VECTOR}
        if depth and len(words):
            candidates = models.Prefetch(**nearest, limit=depth)
            aligned = ask(query=words.tolist(), using=REGIONS, prefetch=candidates, limit=min(k, depth)).points
            found = [_found(point, vector, point.score) for point in aligned]
        if len(found) < k:
            known = {hit.id for hit, *_ in found}
            matched = [_found(point, vector, None) for point in ask(**nearest, limit=max(k, depth)).points]
            found += [some for some in matched if some[0].id not in known][: k - len(found)]
        return found


@contextlib.contextmanager
def connect(url: str) -> Iterator[QdrantClient]:
    """A client of the server at an address, or of an embedded Qdrant in a folder (`./name` or `/name`), to try it.

    A server's key, if it wants one, is in the environment's QDRANT_API_KEY. A folder is one process's at a time: others
    wait for it.

    Raises:
        ValueError: the server does not answer, or refuses; or the folder stays in use.
    """
    with contextlib.ExitStack() as last:
        if url.startswith(("/", "./", "../")):
            make_folder(Path(url))
            # Taken in turns: an embedded Qdrant reads what it holds before it looks whether another process has it.
            fcntl.flock(last.enter_context((Path(url) / ".turn").open("w")), fcntl.LOCK_EX)
            try:
                client = QdrantClient(path=url)
            except RuntimeError as error:  # a process that takes no turns has it
                raise ValueError(f"{url}: in use by another program; wait until it has finished") from error
        else:
            client = QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)
        last.callback(client.close)
        try:
            yield client
        except ApiException as error:
            raise ValueError(f"{url}: {first_line(error)}; the same command goes on where it was") from error


def _metadata(client: QdrantClient, name: str) -> dict[str, Any]:
    if not client.collection_exists(name):
        raise ValueError(f"no collection {name}; `index --backend qdrant` makes one")
    about = client.get_collection(name).config.metadata or {}
    if not {"fingerprint", "settings", "shards"} <= about.keys():
        raise ValueError(f"collection {name}: not made by this program; name another with --collection")
    return about


def _claim(client: QdrantClient, name: str, index: Index, **layout: Any) -> None:
    """Makes sure that the collection is there and that the index's shard of it is the index's own."""
    manifest, settings = index.manifest, index.manifest.settings
    if (settings.measure, settings.pooling) != ("dot", "MrSw"):
        raise ValueError(
            f"the index scores with {settings.measure} and {settings.pooling}; Qdrant has dot and MrSw only"
        )
    number, count = check_shard(manifest.shard)
    key = f"shard-{number}"
    claim = {"index": manifest.identity, "images": None}
    if not client.collection_exists(name):
        described = {
            "fingerprint": manifest.fingerprint,
            "settings": dataclasses.asdict(settings),
            "caption_ending": read_caption_ending(index.path / MODEL),
            "shards": count,
        }
        try:
            _create(client, name, manifest.width, {**described, key: claim}, **layout)
        except (ApiException, ValueError):
            if not client.collection_exists(name):  # else another machine was faster
                raise
    about = _metadata(client, name)
    if about["fingerprint"] != manifest.fingerprint:
        raise ValueError(
            f"collection {name}: of model {about['fingerprint']}, the index is of {manifest.fingerprint}; "
            "index with the same checkpoint and lengths, or name another with --collection"
        )
    if about["shards"] != count:
        raise ValueError(f"collection {name}: of {about['shards']} shards, the index is shard {number} of {count}")
    if about.get(key) is None:
        client.update_collection(name, metadata={key: claim})
        about = _metadata(client, name)
    if about[key]["index"] != manifest.identity:
        whose = "another index's" if count == 1 else f"shard {number} of {count} is another index's"
        raise ValueError(f"collection {name}: {whose} ({about[key]['index']}); name another with --collection")


def _create(
    client: QdrantClient, name: str, width: int, metadata: dict[str, Any], shards: int, replicas: int, quantization: str
) -> None:
    quantized = None
    if quantization == "int8":
        scalar = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        quantized = models.ScalarQuantization(scalar=scalar)
    vector = functools.partial(models.VectorParams, size=width, distance=models.Distance.DOT)
    max_sim = models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM)
    client.create_collection(
        name,
        vectors_config={
            VECTOR: vector(on_disk=quantized is not None, quantization_config=quantized),
            REGIONS: vector(on_disk=True, hnsw_config=models.HnswConfigDiff(m=0), multivector_config=max_sim),
        },
        shard_number=shards,
        replication_factor=replicas,
        metadata=metadata,
    )
    if client.init_options.get("url"):  # an embedded Qdrant has no payload indexes, and warns of it
        client.create_payload_index(name, "index", models.PayloadSchemaType.KEYWORD)


def _point(index: Index, row: int) -> tuple[models.PointStruct, str]:
    """An image's point, and the hash of its content."""
    regions, vector = index.images.parts(row), index.images.vector(row)
    boxes = index.boxes(row).reshape(-1).tolist()
    described = {"id": index.ids[row], "tags": index.tags(row), "boxes": boxes, "file": index.file(row)}
    hashed = repr(tuple(described.values())).encode() + vector.tobytes() + regions.tobytes()
    content = hashlib.sha256(hashed).hexdigest()
    floor = np.zeros((1, len(vector)), np.float32)
    point = models.PointStruct(
        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"aladin:{index.ids[row]}")),
        vector={VECTOR: vector.tolist(), REGIONS: np.concatenate([regions, floor]).tolist()},
        payload={**described, "index": index.manifest.identity, "content": content},
    )
    return point, content


def _found(point: Any, vector: Float[np.ndarray, " d"], alignment: float | None) -> Found:
    payload = point.payload
    parts = np.asarray(point.vector[REGIONS], np.float32)[:-1]  # without the floor
    boxes = np.asarray(payload["boxes"], np.float32).reshape(-1, 4)
    matching = float(np.dot(np.asarray(point.vector[VECTOR], np.float32), vector))
    hit = Hit(payload["id"], matching, alignment, None, payload["tags"], [], -1, payload["file"])
    return hit, describe_regions(len(parts), boxes, payload["tags"]), parts


def _remove_deleted(client: QdrantClient, name: str, index: Index) -> int:
    """Removes this index's points of images that it no longer has."""
    own = models.FieldCondition(key="index", match=models.MatchValue(value=index.manifest.identity))
    gone, offset = [], None
    while True:
        points, offset = client.scroll(
            name, models.Filter(must=[own]), limit=_SCROLLED, offset=offset, with_payload=["id"]
        )
        gone += [point.id for point in points if (point.payload or {}).get("id") not in index.row_of_id]
        if offset is None:
            break
    for start in range(0, len(gone), _SCROLLED):
        client.delete(name, models.PointIdsList(points=gone[start : start + _SCROLLED]), wait=True)
    return len(gone)
