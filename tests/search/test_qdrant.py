import os

import numpy as np
import pytest
from qdrant_client import QdrantClient

from aladin_jax.search import maintain
from aladin_jax.search.index import Index
from aladin_jax.search.qdrant import QdrantEngine, connect
from aladin_jax.search.query import Searcher

QUERIES = ("a man riding a wave", "two dogs on a red sofa with a frisbee", "a plate of food on a table", "train")


def compare(client, path, model, depths=(0, 5, 20, "all")):
    index = Index(path)
    local = Searcher(index, model)
    remote = Searcher(index, model, engine=QdrantEngine(client, index, batch=10))
    for text in QUERIES:
        for depth in depths:
            here = local.find_images(text, k=10, rerank=depth).hits
            there = remote.find_images(text, k=10, rerank=depth).hits
            assert [hit.id for hit in there] == [hit.id for hit in here]
            for field in ("matching", "alignment"):
                values = [
                    [np.nan if (v := getattr(hit, field)) is None else v for hit in hits] for hits in (here, there)
                ]
                np.testing.assert_allclose(values[1], values[0], atol=1e-3)


@pytest.fixture
def embedded():
    client = QdrantClient(":memory:")
    yield client
    client.close()


def test_results_are_those_of_the_local_backend(embedded, golden_index, golden_model):
    engine = QdrantEngine(embedded, Index(golden_index), batch=10)
    assert engine.upload() == 56
    compare(embedded, golden_index, golden_model)


def test_an_upload_sends_what_is_missing_and_removes_what_was_deleted(embedded, changing, golden_model):
    engine = QdrantEngine(embedded, Index(changing), batch=10)
    engine.upload()
    first = embedded.scroll(engine.collection, limit=7)[0]
    embedded.delete(engine.collection, [point.id for point in first])  # as if the upload had been cut off
    assert engine.upload() == 7
    assert engine.upload() == 0
    maintain.delete_images(changing, Index(changing).ids[:3])
    assert QdrantEngine(embedded, Index(changing), batch=10).upload() == 0
    assert embedded.count(engine.collection).count == 53
    compare(embedded, changing, golden_model, depths=(0, 20))


@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no server")
def test_a_real_server_gives_the_results_of_the_local_backend(golden_index, golden_model):
    client = connect(os.environ["QDRANT_URL"])
    engine = QdrantEngine(client, Index(golden_index), batch=10)
    client.delete_collection(engine.collection)
    assert engine.upload() == 56
    compare(client, golden_index, golden_model)
    client.delete_collection(engine.collection)
    client.close()
