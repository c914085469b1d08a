import contextlib
import functools
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qdrant_client import QdrantClient

from aladin_jax.config import Settings
from aladin_jax.pretrained import load
from aladin_jax.search import qdrant
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from aladin_jax.search.indexing import Contents, add_to_index, create_index, delete_images, merge
from aladin_jax.search.qdrant import QdrantEngine, collection_of, upload
from aladin_jax.search.query import Searcher
from aladin_jax.search.query_encoder import QueryEncoder
from demo import builder
from tests.processes import end_of, start
from tests.search.conftest import SCENES_SETTINGS

QUERIES = ("a man riding a wave", "two dogs on a red sofa with a frisbee", "a plate of food on a table", "train")
SCENES_QUERIES = ("a red square above a blue circle", "a star")


@functools.cache
def encoder_of(model):
    return QueryEncoder(model)  # compiles once


def compare(client, path, model, depths=(0, 5, 20, "all"), queries=QUERIES):
    """Both backends give the same images, scores and reasons; images of equal score in any order."""
    index = Index(path)
    local = Searcher(index, model)
    local.queries = encoder_of(model)
    remote = Searcher(index, model, engine=QdrantEngine(client, collection_of(index.manifest)))
    remote.queries = local.queries
    for text in queries:
        for depth in depths:
            here = local.find_images(text, k=10, rerank=depth).hits
            there = remote.find_images(text, k=10, rerank=depth).hits
            for field in ("matching", "alignment"):
                values = [
                    [np.nan if (v := getattr(hit, field)) is None else v for hit in hits] for hits in (here, there)
                ]
                np.testing.assert_allclose(values[1], values[0], atol=1e-3)
            for mine, theirs in zip(here, there, strict=True):
                if mine.id != theirs.id:
                    assert (mine.alignment or mine.matching) == pytest.approx(
                        theirs.alignment or theirs.matching, abs=1e-5
                    )
                else:
                    assert [(a.word, a.region) for a in theirs.why] == [(a.word, a.region) for a in mine.why]
                    assert (theirs.row, theirs.tags) == (mine.row, mine.tags)


def contents(client, collection):
    """What a collection holds: {id: (its index, hash)}."""
    points, _ = client.scroll(collection, limit=10_000)
    return {point.payload["id"]: (point.payload["index"], point.payload["content"]) for point in points}


@pytest.fixture
def embedded():
    client = QdrantClient(":memory:")
    yield client
    client.close()


def test_results_are_those_of_the_local_backend(embedded, golden_index, golden_model):
    assert upload(embedded, Index(golden_index), batch=10) == (56, 0)
    compare(embedded, golden_index, golden_model)


def test_an_upload_sends_what_is_missing_and_removes_what_was_deleted(embedded, changing, golden_model):
    name = collection_of(Index(changing).manifest)
    upload(embedded, Index(changing), batch=10)
    first = embedded.scroll(name, limit=7)[0]
    embedded.delete(name, [point.id for point in first])  # as if the upload had been cut off
    assert upload(embedded, Index(changing), batch=10) == (7, 0)
    assert upload(embedded, Index(changing), batch=10) == (0, 0)
    delete_images(changing, Index(changing).ids[:3])
    assert upload(embedded, Index(changing), batch=10) == (0, 3)
    assert embedded.count(name).count == 53
    compare(embedded, changing, golden_model, depths=(0, 20))


def test_two_indexes_of_one_model_with_the_same_ids_keep_apart(embedded, scenes, tmp_path):
    folder, model = scenes
    for name in ("first", "second"):
        create_index(tmp_path / name, model, Contents(folder / name, "test"))
        assert upload(embedded, Index(tmp_path / name)).written == 6
    for name in ("first", "second"):
        assert upload(embedded, Index(tmp_path / name)) == (0, 0)
        compare(embedded, tmp_path / name, model, queries=SCENES_QUERIES)


def test_a_collection_of_another_index_model_or_program_is_refused_and_left_as_it_is(embedded, scenes, tmp_path):
    folder, model = scenes
    other = load(folder.parent / "model", Settings(max_caption_len=24, max_labels_len=16, max_regions=9))
    create_index(tmp_path / "one", model, Contents(folder / "first", "test"), collection="mine")
    create_index(tmp_path / "two", model, Contents(folder / "second", "test"), collection="mine")
    create_index(tmp_path / "three", other, Contents(folder / "first", "test"), collection="mine")
    create_index(tmp_path / "four", model, Contents(folder / "first", "test"), collection="theirs")
    upload(embedded, Index(tmp_path / "one"))
    before = contents(embedded, "mine")
    with pytest.raises(ValueError, match=r"collection mine: another index's"):
        upload(embedded, Index(tmp_path / "two"))
    with pytest.raises(ValueError, match=f"of model {model.fingerprint}, the index is of {other.fingerprint}"):
        upload(embedded, Index(tmp_path / "three"))
    assert contents(embedded, "mine") == before
    embedded.create_collection("theirs", vectors_config={})
    with pytest.raises(ValueError, match="collection theirs: not made by this program"):
        upload(embedded, Index(tmp_path / "four"))
    with pytest.raises(ValueError, match="no collection nowhere"):
        QdrantEngine(embedded, "nowhere")


def test_an_index_made_before_indexes_had_identities_has_one_that_stays(changing):
    values = json.loads((changing / "manifest.json").read_text())
    for name in ("identity", "collection", "shard"):
        del values[name]
    (changing / "manifest.json").write_text(json.dumps(values))
    identity = Index(changing).manifest.identity
    delete_images(changing, Index(changing).ids[:1])
    merge(changing)
    assert Index(changing).manifest.identity == identity


@pytest.fixture(scope="module")
def scenes(scenes_folder):
    """Two data sets that give the same ids to other pictures, and a model."""
    folder = scenes_folder / "alike"
    for name, seed in (("first", 1), ("second", 2)):
        builder.prepare(folder / name, {"train": 1, "minival": 4, "test": 6}, seed=seed)
    return folder, load(scenes_folder / "model", SCENES_SETTINGS)


class CutError(Exception):
    """The upload ended here."""


class CutOff(QdrantClient):
    """A client whose connection ends after some writes."""

    left = 10**9

    def _write(self):
        if not self.left:
            raise CutError
        self.left -= 1

    def upsert(self, *arguments, **options):
        self._write()
        return super().upsert(*arguments, **options)

    def delete(self, *arguments, **options):
        self._write()
        return super().delete(*arguments, **options)

    def update_collection(self, *arguments, **options):
        self._write()
        return super().update_collection(*arguments, **options)


SOURCES = [(name, split, shard) for name in ("first", "second") for split in ("test", "minival") for shard in (1, 2)]
CHANGES = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(SOURCES)),
    st.tuples(st.just("delete"), st.integers(0, 9)),
    st.tuples(st.just("merge"), st.none()),
    st.tuples(st.just("upload"), st.none()),
    st.tuples(st.just("cut"), st.integers(0, 4)),
)


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(st.tuples(st.integers(0, 1), CHANGES), min_size=3, max_size=9))
def test_after_any_changes_of_two_indexes_both_backends_agree(scenes, tmp_path_factory, changes):
    folder, model = scenes
    client, place = CutOff(":memory:"), tmp_path_factory.mktemp("sequence")
    paths = [place / "a", place / "b"]
    for path in paths:
        create_index(path, model, Contents(folder / "first", "test"))
    for which, (change, how) in changes:
        path = paths[which]
        live = list(Index(path).row_of_id)
        if change == "add":
            name, split, half = how
            source = Contents(folder / name, split, shard=f"{half}/2")
            if not set(live) & {f"{split}-{row:05d}" for row in source.rows(6 if split == "test" else 4)}:
                add_to_index(path, model, source)
        elif change == "delete" and len(live) > 1:
            delete_images(path, [live[how % len(live)]])
        elif change == "merge":
            merge(path)
        elif change == "upload":
            upload(client, Index(path), batch=3)
        elif change == "cut":
            client.left = how
            with contextlib.suppress(CutError):
                upload(client, Index(path), batch=3)
            client.left = CutOff.left
    for path in paths:
        upload(client, Index(path), batch=3)
    for path in paths:
        index = Index(path)
        expected = {index.ids[row]: (index.manifest.identity, content_of(index, row)) for row in index.images.live_rows}
        assert contents(client, collection_of(index.manifest)) == expected
        compare(client, path, model, depths=(0, 3, "all"), queries=SCENES_QUERIES)
    client.close()


def content_of(index, row):
    return qdrant._point(index, int(row))[1]


def test_three_machines_fill_one_collection_that_is_asked_with_the_model_alone(scenes_folder, tmp_path, capsys):
    url, model = f"{tmp_path}/qdrant", str(scenes_folder / "model")
    lengths = ["--max_caption_len", "24", "--max_labels_len", "16", "--max_regions", "10"]
    where = ["--backend", "qdrant", "--url", url, "--collection", "scenes"]
    common = ["--checkpoint", model, "--data", str(scenes_folder / "data"), *lengths, *where]

    def command(number):
        return ["index", *common, "--shard", f"{number}/3", "--output", str(tmp_path / f"index-{number}")]

    assert main(command(2)) == 0
    ask = ["query", "--checkpoint", model, *where, "--json", "a red square above a blue circle", "--rerank", "20"]
    capsys.readouterr()
    assert main(ask) == 0
    answer = json.loads(capsys.readouterr().out)
    assert "shard 1, 3 of 3 is not all there yet" in answer["note"]
    assert {hit["id"] for hit in answer["results"]} <= {f"test-{row:05d}" for row in range(8, 16)}
    others = [start("aladin_jax.search", *command(number), log=tmp_path / f"{number}.log") for number in (1, 3)]
    assert [end_of(process) for process in others] == [0, 0]
    capsys.readouterr()
    assert main(command(2)) == 0  # started again, it has nothing to do
    assert "0 images sent to collection scenes, 0 removed" in capsys.readouterr().out
    assert main(ask) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["note"] == ""
    whole = Searcher(Index(_whole(scenes_folder, tmp_path)))
    hits = whole.find_images("a red square above a blue circle", k=10, rerank=20).hits
    assert [hit["id"] for hit in found["results"]] == [hit.id for hit in hits]
    assert [word["region"] for word in found["results"][0]["why"]] == [
        None if word.region is None else word.region.number for word in hits[0].why
    ]
    gone = ["delete", "--index", str(tmp_path / "index-1"), *where[:4], "test-00003"]
    assert main(gone) == 0
    assert "0 images sent to collection scenes, 1 removed" in capsys.readouterr().out
    assert main(["query", "--checkpoint", model, *where, "--image", "test-00001"]) == 1
    assert "--image and --plot need --index" in capsys.readouterr().err


def _whole(scenes_folder, tmp_path):
    path = tmp_path / "whole"
    create_index(path, load(scenes_folder / "model", SCENES_SETTINGS), Contents(scenes_folder / "data", "test"))
    return path


def test_a_shard_that_another_index_fills_and_an_id_of_another_shard_are_refused(embedded, scenes, tmp_path):
    folder, model = scenes

    def made(name, source):
        create_index(tmp_path / name, model, source, collection="shared")
        return Index(tmp_path / name)

    upload(embedded, made("one", Contents(folder / "first", "test", shard="1/2")))
    with pytest.raises(ValueError, match="shard 1 of 2 is another index's"):
        upload(embedded, made("again", Contents(folder / "first", "test", shard="1/2")))
    with pytest.raises(ValueError, match=r"of 2 shards, the index is shard 2 of 3"):
        upload(embedded, made("thirds", Contents(folder / "first", "minival", shard="2/3")))
    two = made("two", Contents(folder / "first", "test", shard="2/2"))
    add_to_index(tmp_path / "two", model, Contents(folder / "second", "test", shard="1/2"))
    before = contents(embedded, "shared")
    with pytest.raises(ValueError, match="'test-00000' is there from another index"):
        upload(embedded, Index(tmp_path / "two"), batch=1)
    assert before.items() <= contents(embedded, "shared").items()
    assert upload(embedded, two) == (0, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--shard", "0/3"], "expected i/n"),
        (["--shard", "4/3"], "expected i/n"),
        (["--collection", "../x", "--backend", "qdrant"], "expected 1 to 128 of"),
    ],
)
def test_flags_that_say_nothing_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit):
        main(["index", "--checkpoint", "w", "--data", "d", "--output", "o", *flags])
    assert message in capsys.readouterr().err


@pytest.mark.skipif("QDRANT_URL" not in os.environ, reason="QDRANT_URL names no server")
def test_a_real_server_gives_the_results_of_the_local_backend(golden_index, golden_model):
    with qdrant.connect(os.environ["QDRANT_URL"]) as client:
        index = Index(golden_index)
        assert upload(client, index, batch=10) == (56, 0)
        compare(client, golden_index, golden_model)
        client.delete_collection(collection_of(index.manifest))
