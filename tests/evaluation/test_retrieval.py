import json

import numpy as np
import pytest
from pyarrow import parquet

from aladin_jax.errors import DataError
from aladin_jax.evaluation.rankings import check_rankings_path, write_rankings
from aladin_jax.evaluation.recall import retrieval_ranks
from aladin_jax.evaluation.retrieval import Retrieval
from tests.evaluation.conftest import make_collection


def test_the_best_items_come_in_order_and_of_equal_ones_the_later_first(small):
    items, scores = small.best("i2t", 3)
    assert items.tolist() == [[3, 1, 0], [0, 1, 2], [4, 3, 2]]
    assert scores.tolist() == [[5, 5, 3], [9, 8, 7], [4, 3, 2]]


def test_there_are_no_more_items_than_the_collection_has(small):
    items, _ = small.best("t2i", 100)
    assert items.tolist() == [[1, 0, 2], [1, 0, 2], [1, 2, 0], [1, 0, 2], [1, 2, 0]]


def test_ranks_and_rankings_agree_with_each_other_where_many_scores_are_equal():
    scores = np.random.default_rng(0).integers(0, 4, (30, 90)).astype(np.float32)
    collection = make_collection([3] * 30)
    retrieval = Retrieval(scores, collection)
    i2t, t2i = retrieval_ranks(scores, collection.image_of_caption)
    items, _ = retrieval.best("t2i", 30)
    assert [row.tolist().index(image) for row, image in zip(items, collection.image_of_caption, strict=True)] == list(
        t2i
    )
    items, _ = retrieval.best("i2t", 90)
    own = collection.image_of_caption[items] == np.arange(30)[:, None]
    assert own.argmax(axis=1).tolist() == i2t.tolist()


@pytest.mark.parametrize("name", ["rankings.jsonl", "rankings.parquet"])
def test_rankings_are_written_by_head_and_direction_with_the_files_own_ids(small, name, tmp_path):
    path = tmp_path / name
    write_rankings({"matching": small, "alignment": small}, path, 2)
    rows = (
        parquet.read_table(path).to_pylist()
        if name.endswith("parquet")
        else [json.loads(line) for line in path.read_text().splitlines()]
    )
    assert [(row["head"], row["direction"]) for row in rows[::1]] == [
        (head, direction)
        for head in ("matching", "alignment")
        for direction, count in (("i2t", 3), ("t2i", 5))
        for _ in range(count)
    ]
    assert rows[0] == {
        "head": "matching", "direction": "i2t", "query": "10", "items": ["103", "101"], "scores": [5.0, 5.0]
    }  # fmt: skip
    assert rows[5] == {
        "head": "matching", "direction": "t2i", "query": "102", "items": ["11", "12"], "scores": [7.0, 2.0]
    }  # fmt: skip


def test_a_folder_that_is_missing_is_said_before_anything_is_encoded(tmp_path):
    with pytest.raises(DataError, match="no such folder, so no rankings can be written"):
        check_rankings_path(tmp_path / "missing" / "rankings.jsonl")
