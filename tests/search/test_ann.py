import json
import shutil
import sys

import numpy as np
import pytest

from aladin_jax.search import indexing, tradeoff, verification
from aladin_jax.search.__main__ import main
from aladin_jax.search.ann import AnnFinder
from aladin_jax.search.index import Index
from aladin_jax.search.indexing import Contents, add_to_index
from aladin_jax.search.inputs import KINDS
from aladin_jax.search.query import Searcher
from aladin_jax.search.ranking import ExactFinder
from benchmarks.generated_collection import write_collection

pytest.importorskip("faiss", reason="needs the extra `faiss`")
ALL = 10**6  # more effort than there are nodes or lists


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """Enough images for several inverted lists, in two segments."""
    path = tmp_path_factory.mktemp("generated") / "index"
    write_collection(path, images=700, captions=40, width=32, layers=1, segment_images=500)
    return path


def found(finder, index, count):
    return [finder.find(index.captions.vector(row), count) for row in range(min(len(index.captions), 40))]


@pytest.mark.parametrize("kind", KINDS)
def test_with_enough_effort_what_is_found_is_what_exact_search_finds(kind, generated):
    index = Index(generated)
    exact = found(ExactFinder(index.images, "dot"), index, 100)
    for mine, right in zip(found(AnnFinder(index, kind, ALL), index, 100), exact, strict=True):
        assert mine.rows.tolist() == right.rows.tolist()
        np.testing.assert_allclose(mine.scores, right.scores, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_with_little_effort_as_many_are_found_but_not_always_the_best(kind, generated):
    index = Index(generated)
    exact = found(ExactFinder(index.images, "dot"), index, 2)
    quick = found(AnnFinder(index, kind, 1), index, 2)
    assert all(len(set(mine.rows.tolist())) == 2 for mine in quick)
    assert [mine.rows.tolist() for mine in quick] != [right.rows.tolist() for right in exact]
    for mine, right in zip(quick, exact, strict=True):
        assert (mine.scores <= right.scores + 1e-6).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_deleted_is_not_found_and_what_was_added_is(kind, changing, golden_folder, golden_model):
    def compare(count):
        index = Index(changing)
        mine, right = (found(f, index, count) for f in (AnnFinder(index, kind, ALL), ExactFinder(index.images, "dot")))
        assert [some.rows.tolist() for some in mine] == [some.rows.tolist() for some in right]
        return {index.ids[row] for some in mine for row in some.rows}

    structure = changing / "segment-000001" / f"images.{kind}"
    gone = sorted(compare(10))[:20]
    built = structure.stat().st_mtime_ns
    indexing.delete_images(changing, gone)
    assert not compare(8) & set(gone)
    add_to_index(changing, golden_model, Contents(golden_folder / "data", "minival"))
    added = set(Index(changing).ids[56:])
    assert compare(8) & added
    assert structure.stat().st_mtime_ns == built  # the new segment's alone was built
    indexing.merge(changing)
    assert compare(8) & added
    assert [path.parent.name for path in changing.glob(f"*/images.{kind}")] == ["segment-000004"]
    assert verification.verify(changing) == []


def test_all_candidates_are_found_exactly(changing, golden_model):
    index = Index(changing)
    quick = Searcher(index, golden_model, images=AnnFinder(index, "hnsw", 1))
    right = Searcher(index, golden_model).find_images("a man on a bench", k=56, rerank="all")
    assert [hit.id for hit in quick.find_images("a man on a bench", k=56, rerank="all").hits] == [
        hit.id for hit in right.hits
    ]


def test_a_damaged_file_is_refused_before_it_is_read_and_verify_names_it(changing):
    AnnFinder(Index(changing), "hnsw")
    file = changing / "segment-000001" / "images.hnsw"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"images\.hnsw: missing or damaged"):
        AnnFinder(Index(changing), "hnsw")
    (fault,) = verification.verify(changing)
    assert str(file) in fault


def test_the_command_line_measures_what_is_found_approximately(generated, capsys, monkeypatch):
    monkeypatch.setattr(tradeoff, "_TIMED", 5)
    rows = []
    for flags in ([], ["--ann", "ivf", "--effort", str(ALL)], ["--ann", "ivf", "--effort", "1"]):
        assert main(["tradeoff", "--index", str(generated), "--queries", "20", "--json", *flags]) == 0
        rows.append(json.loads(capsys.readouterr().out)["rows"])
    recalls = [[[row[f"t2i/R@{k}"] for k in (1, 5, 10)] for row in some] for some in rows]
    assert recalls[1] == recalls[0]
    assert recalls[2][1] < recalls[0][1]  # 10 candidates out of one list a segment
    assert recalls[2][-1] == recalls[0][-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--effort", "5"], "--effort is for --ann"),
        (["--ann", "hnsw", "--effort", "0"], "effort is 0"),
        (["--ann", "hnsw", "--backend", "qdrant", "--url", "http://localhost:1"], "--ann is for --backend local"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(scenes_index, capsys, flags, message):
    assert main(["query", "--index", str(scenes_index), "a red star", *flags]) == 1
    assert message in capsys.readouterr().err


def test_an_index_of_another_measure_is_refused(changing):
    manifest = json.loads((changing / "manifest.json").read_text())
    manifest["settings"]["measure"] = "order"
    (changing / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="inner products only"):
        AnnFinder(Index(changing), "hnsw")


def test_without_faiss_one_line_says_how_to_get_it(scenes_index, tmp_path, monkeypatch, capsys):
    path = shutil.copytree(scenes_index, tmp_path / "index")
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["query", "--index", str(path), "a red star", "--ann", "hnsw"]) == 1
    assert capsys.readouterr().err == "error: --ann needs FAISS: pip install 'aladin-jax[faiss]'\n"
