import copy
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.evaluation.recall import retrieval_ranks
from aladin_jax.search import ranking
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from aladin_jax.search.indexing import Contents, create_index
from aladin_jax.search.inputs import check_depth, check_query
from aladin_jax.search.pictures import read_record
from aladin_jax.search.query import Searcher, Subject
from aladin_jax.search.ranking import Candidates, best

EXPECTED = json.loads((Path(__file__).parents[1] / "golden" / "e2e" / "expected.json").read_text())["evaluate"]["test"]


@pytest.fixture(scope="module")
def searcher(golden_index, golden_model):
    return Searcher(Index(golden_index), golden_model)


@pytest.fixture(scope="module")
def without_ending(golden_index, golden_model):
    """Asks a model that does not say how its training captions end."""
    model = copy.copy(golden_model)
    model.caption_ending = None
    return Searcher(Index(golden_index), model)


def recalls(ranks):
    return [100 * np.mean(np.asarray(ranks) < cutoff) for cutoff in (1, 5, 10)]


@pytest.mark.parametrize(("rerank", "head"), [(0, "matching"), ("all", "alignment")])
def test_each_stage_alone_gives_that_heads_recalls_of_evaluation(searcher, rerank, head):
    index = searcher.index
    ranks = []
    for caption, image in enumerate(index.caption_image.tolist()):
        subject = Subject(index.captions.vector(caption), index.captions.parts(caption), [])
        ranked, _ = searcher.rank_images(subject, k=56, rerank=rerank)
        ranks.append(ranked.rows.tolist().index(image))
    assert recalls(ranks) == pytest.approx([EXPECTED[head][f"t2i/R@{k}"] for k in (1, 5, 10)], abs=1e-9)
    ranks = []
    for image in range(len(index.images)):
        hits = searcher.find_captions(searcher.subject_of_image(image), k=280, rerank=rerank, explain=False).hits
        ranks.append([hit.id for hit in hits].index(index.ids[image]))
    assert recalls(ranks) == pytest.approx([EXPECTED[head][f"i2t/R@{k}"] for k in (1, 5, 10)], abs=1e-9)


def test_a_depth_reranks_that_many_candidates_and_leaves_the_rest_as_they_were(searcher):
    text = "two dogs on a red sofa"
    matched = searcher.find_images(text, k=56, rerank=0).hits
    mixed = searcher.find_images(text, k=56, rerank=20).hits
    assert {hit.id for hit in mixed[:20]} == {hit.id for hit in matched[:20]}
    assert [hit.id for hit in mixed[20:]] == [hit.id for hit in matched[20:]]
    scores = [hit.alignment for hit in mixed[:20]]
    assert scores == sorted(scores, reverse=True)
    assert [hit.id for hit in mixed[:20]] != [hit.id for hit in matched[:20]]
    assert all(hit.alignment is None for hit in (*mixed[20:], *matched))


def test_a_text_without_a_word_that_takes_part_keeps_the_matching_heads_order_at_any_depth_but_all(without_ending):
    assert without_ending.queries.words("train") == []
    matched, asked = (without_ending.find_images("train", k=56, rerank=rerank) for rerank in (0, 20))
    assert [hit.id for hit in asked.hits] == [hit.id for hit in matched.hits]
    assert (asked.rerank, matched.note) == (0, "")
    assert "no word of the text takes part in alignment: the matching head's order is kept" in asked.note


def test_all_of_a_text_without_a_word_that_takes_part_is_evaluations_ranking_of_equal_scores(without_ending):
    found = without_ending.find_images("train", k=56, rerank="all")
    _, ranks = retrieval_ranks(np.zeros((56, 56), np.float32), np.arange(56))
    assert [hit.row for hit in found.hits] == np.argsort(ranks).tolist()
    assert {hit.alignment for hit in found.hits} == {0.0}
    assert "all scores are 0" in found.note


def test_a_picture_without_a_region_that_takes_part_keeps_the_matching_heads_order_of_captions(searcher):
    subject = searcher.subject_of_image(3)._replace(parts=np.zeros((0, 64), np.float32), names=[])
    matched, asked = (searcher.find_captions(subject, k=50, rerank=rerank) for rerank in (0, 20))
    assert [hit.row for hit in asked.hits] == [hit.row for hit in matched.hits]
    assert "no region of the picture takes part" in asked.note


def test_the_words_of_an_explanation_add_up_to_the_alignment_score(searcher):
    for hit in searcher.find_images("a man, a dog and unbelievably small birds", k=20, rerank=20).hits:
        assert sum(answer.score for answer in hit.why) == pytest.approx(hit.alignment, abs=1e-5)
    hits = searcher.find_captions(searcher.subject_of_image(3), k=20, rerank="all").hits
    for hit in hits:
        assert sum(answer.score for answer in hit.why) == pytest.approx(hit.alignment, abs=1e-5)
        assert [answer.word for answer in hit.why] == searcher.queries.words(hit.caption)


def test_an_explanation_names_the_region_most_like_the_word_with_its_box_and_tag(scenes_folder, scenes_index):
    searcher = Searcher(Index(scenes_index))
    split = Split(open_dataset(scenes_folder / "data"), "test")
    hit = searcher.find_images("a red square above a blue circle", k=1, rerank="all").hits[0]
    record = split.read(split.index_of_id[hit.id])
    subject = searcher.encode_text("a red square above a blue circle")
    similarity = subject.parts @ searcher.index.images.parts(hit.row).T
    named = [answer.region for answer in hit.why]
    for row, region in zip(similarity, named, strict=True):
        if region is None:
            assert row.max() <= 0
        else:
            assert region.number == row.argmax() + 1  # region 0 takes no part
            assert region.tag == record.tags[region.number]
            np.testing.assert_allclose(region.box, record.regions[region.number, -6:-2], atol=5e-3)


def test_a_text_asked_with_has_the_embeddings_that_the_index_has_of_it(without_ending):
    captions = without_ending.index.captions
    texts = {row: without_ending.index.caption(row) for row in range(0, len(captions), 20)}
    whole = {row: text for row, text in texts.items() if without_ending.queries.reader.read(text).text == text}
    assert len(whole) > len(texts) / 2
    for row, text in whole.items():
        subject = without_ending.encode_text(text)
        np.testing.assert_allclose(subject.vector, captions.vector(row), atol=1e-5)
        np.testing.assert_allclose(subject.parts, captions.parts(row), atol=1e-5)


def test_a_picture_from_a_file_gets_the_captions_that_it_gets_from_the_index(golden_folder, searcher, tmp_path):
    record = Split(open_dataset(golden_folder / "data"), "test").read(5)
    np.savez(tmp_path / "record.npz", regions=record.regions, tags=np.array(record.tags))
    read = read_record(tmp_path / "record.npz", searcher.queries.feature_dim)
    from_file = searcher.find_captions(searcher.encode_record(read), k=50, rerank="all").hits
    from_index = searcher.find_captions(searcher.subject_of_image(5), k=50, rerank="all").hits
    assert [hit.row for hit in from_file] == [hit.row for hit in from_index]
    np.testing.assert_allclose([hit.alignment for hit in from_file], [hit.alignment for hit in from_index], atol=1e-4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"regions": np.zeros((3, 5), np.float32)}, "expected float32"),
        ({"regions": np.zeros((0, 2054), np.float32)}, "at least one"),
        ({"regions": np.full((1, 2054), np.nan, np.float32)}, "finite"),
        ({"tags": np.array(["a"])}, "missing"),
        ({"regions": np.array([[{}]])}, "allow_pickle"),
        ({"regions": np.zeros((1, 2054), np.float32), "tags": np.array([1])}, "tags is int64"),
        ({"regions": np.zeros((9000, 2054), np.float32)}, "unpacked"),
    ],
)
def test_a_record_file_that_is_not_one_is_refused(tmp_path, arrays, message):
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        read_record(tmp_path / "x.npz", 2054)


def test_a_float16_index_is_smaller_and_its_scores_nearly_the_same(golden_folder, golden_model, searcher, tmp_path):
    source = Contents(golden_folder / "data", "test")
    manifest = create_index(tmp_path / "half", golden_model, source, parts_dtype="float16")
    half = manifest.segments[0].files["image_parts.npy"]["bytes"]
    whole = searcher.index.manifest.segments[0].files["image_parts.npy"]["bytes"]
    assert half < 0.51 * whole
    found = Searcher(Index(tmp_path / "half"), golden_model).find_images("a man on a bench", k=56, rerank="all").hits
    scores = {hit.id: hit.alignment for hit in searcher.find_images("a man on a bench", k=56, rerank="all").hits}
    np.testing.assert_allclose([hit.alignment for hit in found], [scores[hit.id] for hit in found], atol=2e-3)


def test_equal_scores_come_later_row_first_in_both_stages():
    scores = np.array([1, 3, 3, 2, 3, 1], np.float32)
    assert best(scores, 2).tolist() == [4, 2]
    assert best(scores, 5).tolist() == [4, 2, 1, 3, 5]
    ranked = ranking.rank(Candidates(np.array([4, 1, 2, 0]), np.zeros(4)), 3, lambda rows: np.ones(len(rows)))
    assert ranked.rows.tolist() == [4, 2, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty"), (" \n", "empty"), ("x" * 1001, "1001 characters"), ("a\0b", "control"), ("a\ud800", "surrogate")],
)
def test_a_query_that_is_no_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        check_query(text)


@pytest.mark.parametrize(("k", "rerank"), [(0, 0), (1001, 0), (-1, 5), (5, -1)])
def test_sizes_outside_their_bounds_are_refused(searcher, k, rerank):
    with pytest.raises(ValueError, match="expected"):
        searcher.find_images("a dog", k=k, rerank=rerank)


@pytest.mark.parametrize("rerank", ["most", "-1", "", "1e3", "9" * 20, "\u0663"])
def test_a_depth_that_is_no_count_is_refused(rerank):
    with pytest.raises(ValueError, match="expected a count"):
        check_depth(rerank)


def test_the_command_line_indexes_queries_explains_and_draws(scenes_folder, tmp_path, capsys):
    path, plot = str(tmp_path / "index"), tmp_path / "plot.png"
    model = ["--checkpoint", str(scenes_folder / "model"), "--max_caption_len", "24", "--max_labels_len", "16"]
    assert main(["index", *model, "--data", str(scenes_folder / "data"), "--output", path]) == 0
    assert "24 images, 120 captions" in capsys.readouterr().out
    assert main(["query", "--index", path, "a red star", "--k", "3", "--json", "--plot", str(plot)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in found["results"]] == [1, 2, 3]
    assert [answer["word"] for answer in found["results"][0]["why"]] == ["a", "red", "star"]
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 1000
    image = found["results"][0]["id"]
    assert main(["query", "--index", path, "--image", image, "--k", "2", "--plot", str(plot)]) == 0
    assert "candidates re-ranked" in capsys.readouterr().out
    assert main(["delete", "--index", path, image]) == 0
    assert main(["merge", "--index", path]) == 0
    assert main(["verify", "--index", path]) == 0
    assert main(["info", "--index", path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.partition("sound")[2].partition("\n")[2])["images"] == 23
    assert main(["query", "--index", path, "--image", image]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
