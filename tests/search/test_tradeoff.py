import json

import numpy as np
import pytest
from PIL import Image

from aladin_jax.search import indexing, tradeoff
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from aladin_jax.search.query import Searcher, Subject
from tests.search.test_query import EXPECTED


def test_depth_0_and_all_give_the_recalls_of_evaluation(golden_index, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tradeoff, "_TIMED", 5)
    plot = tmp_path / "tradeoff.png"
    assert main(["tradeoff", "--index", str(golden_index), "--json", "--plot", str(plot)]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["rerank"] for row in rows] == [0, 10, 30, 100, 300, "all"]
    for row, head in ((rows[0], "matching"), (rows[-1], "alignment")):
        for name in ("t2i/R@1", "t2i/R@5", "t2i/R@10"):
            assert row[name] == pytest.approx(EXPECTED[head][name], abs=1e-9)
    assert all(0 < row["p50_ms"] <= row["p90_ms"] for row in rows)
    with Image.open(plot) as drawn:
        assert drawn.size[0] > 800


def test_ranks_at_every_depth_are_those_of_real_queries_with_deleted_images_left_out(changing, golden_model):
    indexing.delete_images(changing, Index(changing).ids[3:9])
    file = changing / "segment-000001" / "caption_offsets.npy"
    offsets = np.load(file)
    offsets[1] = 0  # the first caption now has no word
    np.save(file, offsets)
    index = Index(changing)
    searcher = Searcher(index, golden_model)
    captions = index.captions.live_rows[::11]
    ranks = tradeoff.ranks_by_depth(index, captions)
    for depth, of_depth in zip(tradeoff.DEPTHS, ranks, strict=True):
        for caption, rank in zip(captions.tolist(), of_depth.tolist(), strict=True):
            subject = Subject(index.captions.vector(caption), index.captions.parts(caption), [])
            found = searcher.rank_images(subject, k=50, rerank=depth)[0].rows
            assert int(np.flatnonzero(found == index.caption_image[caption])[0]) == rank
