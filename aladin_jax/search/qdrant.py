"""The same two stages in Qdrant, for collections beyond one machine: both in one request.

An image is one point: its matching vector, dense; its regions as a multivector scored by MaxSim over dot products, with
no index of its own; its id and tags as payload. MaxSim has no floor, while ALADIN's evaluation counts a word that no
region is similar to as 0: one zero vector among the regions is that floor.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import numpy as np
from jaxtyping import Float
from qdrant_client import QdrantClient, models
from tqdm import tqdm

from aladin_jax.search.index import Index
from aladin_jax.search.ranking import Ranked

VECTOR, REGIONS = "matching", "regions"
_BATCH = 32  # of BERT-base, some 8 MB a request; the server takes 32


class QdrantEngine:
    """A collection of an index's images; the index still has the model, the pictures and the captions."""

    def __init__(self, client: QdrantClient, index: Index, *, shards: int = 1, replicas: int = 1, batch: int = _BATCH):
        """Names the collection after the index's model, so that no other model's vectors get into it.

        Args:
            client: connected.
            index: whose images they are.
            shards: parts that a new collection is divided into, over the cluster's machines.
            replicas: copies of each part.
            batch: points of a request.

        Raises:
            ValueError: the index's scores are others than inner products and MrSw.
        """
        settings = index.manifest.settings
        if (settings.measure, settings.pooling) != ("dot", "MrSw"):
            raise ValueError(
                f"the index scores with {settings.measure} and {settings.pooling}; Qdrant has dot and MrSw only"
            )
        self.collection = f"aladin-{index.manifest.fingerprint[:16]}"
        self._client, self._index, self._batch = client, index, batch
        self._shards, self._replicas = shards, replicas

    def upload(self) -> int:
        """Makes the collection hold what the index holds; called again, sends only what is missing.

        Returns:
            How many images were sent.
        """
        if not self._client.collection_exists(self.collection):
            width = self._index.manifest.width
            self._client.create_collection(
                self.collection,
                vectors_config={
                    VECTOR: models.VectorParams(size=width, distance=models.Distance.DOT),
                    REGIONS: models.VectorParams(
                        size=width,
                        distance=models.Distance.DOT,
                        on_disk=True,
                        hnsw_config=models.HnswConfigDiff(m=0),
                        multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
                    ),
                },
                shard_number=self._shards,
                replication_factor=self._replicas,
            )
        rows = self._index.images.live_rows.tolist()
        sent = 0
        for start in tqdm(range(0, len(rows), self._batch), desc="uploading", unit="batch", disable=None):
            points = {self._point_id(row): row for row in rows[start : start + self._batch]}
            there = self._client.retrieve(self.collection, list(points), with_payload=False)
            missing = [self._point(point, row) for point, row in points.items() if point not in {p.id for p in there}]
            if missing:
                self._client.upsert(self.collection, missing, wait=True)
                sent += len(missing)
        self._remove_deleted()
        return sent

    def rank(self, vector: Float[np.ndarray, " d"], words: Float[np.ndarray, "w d"], depth: int, k: int) -> Ranked:
        """The first k images: `depth` candidates of the matching head in the alignment head's order, then the rest."""
        if depth and not len(words):  # MaxSim of no words: every score is 0, and the later row comes first
            rows = self._index.images.live_rows[::-1][:k]
            matching = [np.dot(self._index.images.vector(int(row)), vector) for row in rows]
            return Ranked(rows, np.asarray(matching, np.float32), np.zeros(len(rows), np.float32))
        found = []
        if depth:
            found = self._client.query_points(
                self.collection,
                prefetch=models.Prefetch(query=vector.tolist(), using=VECTOR, limit=depth),
                query=words.tolist(),
                using=REGIONS,
                limit=min(k, depth),
                with_payload=["id"],
                with_vectors=[VECTOR],
            ).points
        aligned = [self._row(point) for point in found]
        scores = [point.score for point in found]
        matching = [float(np.dot(self._dense(point), vector)) for point in found]
        if len(aligned) < k:
            rest = self._client.query_points(
                self.collection, query=vector.tolist(), using=VECTOR, limit=max(k, depth), with_payload=["id"]
            ).points
            for point in rest:
                row = self._row(point)
                if len(aligned) < k and row not in aligned:
                    aligned.append(row)
                    matching.append(point.score)
                    scores.append(np.nan)
        return Ranked(np.asarray(aligned, np.int64), np.asarray(matching, np.float32), np.asarray(scores, np.float32))

    def _point(self, point_id: str, row: int) -> models.PointStruct:
        images = self._index.images
        regions = images.parts(row)
        floor = np.zeros((1, self._index.manifest.width), np.float32)
        return models.PointStruct(
            id=point_id,
            vector={VECTOR: images.vector(row).tolist(), REGIONS: np.concatenate([regions, floor]).tolist()},
            payload={"id": self._index.ids[row], "tags": self._index.tags(row)},
        )

    def _point_id(self, row: int) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"aladin:{self._index.ids[row]}"))

    def _row(self, point: Any) -> int:
        payload = point.payload or {}
        row = self._index.row_of_id.get(payload.get("id", ""))
        if row is None:
            raise ValueError(
                f"collection {self.collection} holds {payload.get('id')!r}, the index does not; upload again"
            )
        return row

    def _dense(self, point: Any) -> np.ndarray:
        return np.asarray(point.vector[VECTOR], np.float32)

    def _remove_deleted(self) -> None:
        """Removes points of images that the index no longer has."""
        gone, offset = [], None
        while True:
            points, offset = self._client.scroll(self.collection, limit=1000, offset=offset, with_payload=["id"])
            gone += [p.id for p in points if (p.payload or {}).get("id") not in self._index.row_of_id]
            if offset is None:
                break
        for start in range(0, len(gone), 1000):
            self._client.delete(self.collection, models.PointIdsList(points=gone[start : start + 1000]), wait=True)


def connect(url: str) -> QdrantClient:
    """A client of a server; the key, if it wants one, is in the environment's QDRANT_API_KEY."""
    return QdrantClient(url=url, api_key=os.environ.get("QDRANT_API_KEY"), timeout=60)
