"""Approximate search of the matching head's vectors by FAISS, for collections too large to compare with every row.

A graph (HNSW) or inverted lists (IVF) belong to one segment, whose vectors never change, and lie beside them:
INDEX/segment-N/images.hnsw and images.hnsw.sha256. They are built when they are first asked for, so that after `add`
only the new segment's are, and after `merge` the merged one's. Rows that are deleted are passed over in searching.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from tqdm import tqdm

from aladin_jax.files import sha256, whole_file, write_whole
from aladin_jax.scores.similarity import Measure
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import writer_lock
from aladin_jax.search.inputs import Kind
from aladin_jax.search.ranking import Candidates, ExactFinder

# Nodes that a search of the graph keeps in sight; lists that it reads.
EFFORT: dict[Kind, int] = {"hnsw": 128, "ivf": 32}
_LINKS, _BUILD_EFFORT = 32, 128
_POINTS_OF_A_LIST = 39  # with fewer, FAISS says, its centre is not known well
_ADDED_ROWS = 8192


class AnnFinder:
    """Finds candidates among images without comparing with every one; may be called from several threads.

    Where a quarter of the index or more is asked for, it does compare with every one: `--rerank all` stays exact.
    """

    def __init__(self, index: Index, kind: Kind, effort: int | None = None):
        """Reads, or else builds and saves, what each segment needs.

        Args:
            index: whose images are searched.
            kind: "hnsw", a graph: fastest, and slow to build; "ivf", inverted lists: built quickly.
            effort: nodes in sight, or lists read: more find more, and take longer; None takes `EFFORT`.

        Raises:
            ValueError: FAISS is not installed, the index's measure is no inner product, `effort` is below 1, or a
                file is damaged.
        """
        measure = index.manifest.settings.measure
        if measure == "order":
            raise ValueError(f"{index.path}: its measure is {measure}; FAISS searches inner products only")
        if effort is not None and effort < 1:
            raise ValueError(f"effort is {effort}; expected at least 1")
        self._side = index.images
        self._measure: Measure = measure
        _build_missing(index, kind)
        pieces = zip(_paths(index, kind), index.by_segment(), strict=True)
        self._segments = [
            _Searched(path, kind, effort or EFFORT[kind], segment.images.vectors, alive)
            for path, (_, segment, alive) in pieces
        ]
        self._starts = np.cumsum([0, *(len(rows) for rows in index.images.vectors)])

    def find(self, vector: Float[np.ndarray, " d"], count: int) -> Candidates:
        """Nearly the best `count` rows that are not deleted."""
        live = len(self._side.live_rows)
        if 4 * count >= live:
            return self._exact.find(vector, count)
        found = [piece.find(vector, count) for piece in self._segments]
        rows = np.concatenate([some + first for (some, _), first in zip(found, self._starts[:-1], strict=True)])
        scores = np.concatenate([some for _, some in found])
        order = np.lexsort((rows, scores))[::-1][:count]  # the later row first among equals
        return Candidates(rows[order], scores[order])

    @functools.cached_property
    def _exact(self) -> ExactFinder:
        return ExactFinder(self._side, self._measure)


class _Searched:
    """One segment's structure."""

    def __init__(self, path: Path, kind: Kind, effort: int, vectors: np.ndarray, alive: Bool[np.ndarray, " n"]):
        self._faiss = import_faiss()
        self._kind, self._effort, self._live = kind, effort, int(alive.sum())
        self._structure = _read(self._faiss, path, vectors)
        # FAISS keeps a pointer to the bits, not the bits.
        self._bits = np.packbits(alive, bitorder="little")
        self._selector = None
        if not alive.all():
            self._selector = self._faiss.IDSelectorBitmap(len(self._bits), self._faiss.swig_ptr(self._bits))

    def find(self, vector: Float[np.ndarray, " d"], count: int) -> tuple[Int[np.ndarray, " k"], np.ndarray]:
        """Rows and scores; looks further where deleted rows or short lists leave too few."""
        count, effort = min(count, self._live), self._effort
        while True:
            scores, rows = self._structure.search(vector[None], count, params=self._parameters(effort, count))
            found = rows[0] >= 0
            if found.all() or effort >= self._structure.ntotal:
                return rows[0][found], scores[0][found]
            effort *= 4

    def _parameters(self, effort: int, count: int) -> Any:
        if self._kind == "hnsw":
            return self._faiss.SearchParametersHNSW(sel=self._selector, efSearch=max(effort, count))
        return self._faiss.SearchParametersIVF(sel=self._selector, nprobe=min(effort, self._structure.nlist))


def import_faiss() -> Any:
    """FAISS, which is imported only where it is used.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ValueError("--ann needs FAISS: pip install 'aladin-jax[faiss]'") from error
    return faiss


def faults(folder: Path) -> list[str]:
    """What is wrong with a segment's structures, for `verify`; one line each."""
    found = []
    for sums in sorted(folder.glob("images.*.sha256")):
        path = sums.with_suffix("")
        if not path.is_file() or sha256(path) != sums.read_text(encoding="utf-8", errors="replace"):
            found.append(f"{path}: missing or damaged; remove it and {sums.name}, --ann builds it anew")
    return found


def _sum_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _paths(index: Index, kind: Kind) -> list[Path]:
    return [index.path / entry.name / f"images.{kind}" for entry in index.manifest.segments]


def _build_missing(index: Index, kind: Kind) -> None:
    paths = zip(_paths(index, kind), index.images.vectors, strict=True)
    missing = [(path, vectors) for path, vectors in paths if not _sum_of(path).is_file()]
    if missing:
        with writer_lock(index.path):
            for path, vectors in missing:
                _build(path, kind, vectors)


def _build(path: Path, kind: Kind, vectors: Float[np.ndarray, "n d"]) -> None:
    faiss = import_faiss()
    count, width = vectors.shape
    if kind == "hnsw":
        made = faiss.IndexHNSWFlat(width, _LINKS, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = _BUILD_EFFORT
    else:
        lists = max(min(int(4 * count**0.5), count // _POINTS_OF_A_LIST), 1)
        made = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        made.train(np.asarray(vectors))
    starts = tqdm(range(0, count, _ADDED_ROWS), desc=f"building {path.parent.name}/{path.name}", disable=None)
    for start in starts:
        made.add(np.ascontiguousarray(vectors[start : start + _ADDED_ROWS]))
    with whole_file(path) as file:
        faiss.write_index(made, faiss.PyCallbackIOWriter(file.write))
    write_whole(_sum_of(path), sha256(path).encode())  # last: what has a sum is whole


def _read(faiss: Any, path: Path, vectors: np.ndarray) -> Any:
    if broken := [fault for fault in faults(path.parent) if fault.startswith(f"{path}:")]:
        raise ValueError(broken[0])  # before FAISS reads it: it trusts what it reads
    structure = faiss.read_index(str(path))
    if (structure.ntotal, structure.d) != vectors.shape:
        raise ValueError(f"{path}: of {structure.ntotal} vectors, the segment has {len(vectors)}; remove it")
    return structure
