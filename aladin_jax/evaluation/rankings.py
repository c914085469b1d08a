"""Rankings as a file: what each query found, for metrics that are computed elsewhere.

One row a query: `head`, `direction`, `query` (an id), `items` (ids, best first) and `scores`. A name that ends in
`.parquet` makes a Parquet file, any other name JSON lines.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np

from aladin_jax.errors import DataError
from aladin_jax.evaluation.retrieval import Direction, Retrieval
from aladin_jax.files import whole_file

Rows = dict[str, Any]  # columns of one head and direction


def check_rankings_path(path: str | Path) -> None:
    """Checks, before hours of encoding, that rankings can be written there.

    Raises:
        DataError: there is no such folder, or it is to be Parquet and PyArrow is not installed.
    """
    if not Path(path).parent.is_dir():
        raise DataError("no such folder, so no rankings can be written", "make it first", path=Path(path).parent)
    if _is_parquet(path) and importlib.util.find_spec("pyarrow") is None:
        remedy = "pip install 'aladin-jax[search]', or name a .jsonl file"
        raise DataError("Parquet needs PyArrow, which is not installed", remedy, path=path)


def write_rankings(retrievals: Mapping[str, Retrieval], path: str | Path, count: int) -> None:
    """Writes the rankings of all heads, both directions, whole or not at all.

    Args:
        retrievals: by head.
        path: the file, of which `check_rankings_path` knows; an earlier one is replaced.
        count: items of a query, at most.
    """
    write = _write_parquet if _is_parquet(path) else _write_json_lines
    with whole_file(path) as file:
        write(_tables(retrievals, count), file)


def _tables(retrievals: Mapping[str, Retrieval], count: int) -> Iterator[Rows]:
    for head, retrieval in retrievals.items():
        for direction in get_args(Direction):
            queries, names = retrieval.ids(direction)
            items, scores = retrieval.best(direction, count)
            yield {
                "head": [head] * len(queries),
                "direction": [direction] * len(queries),
                "query": queries,
                "items": np.array(names, object)[items].tolist(),
                "scores": scores.astype(np.float32).tolist(),
            }


def _write_json_lines(tables: Iterator[Rows], file: BinaryIO) -> None:
    for table in tables:
        for row in zip(*table.values(), strict=True):
            file.write(json.dumps(dict(zip(table, row, strict=True)), allow_nan=False).encode() + b"\n")


def _write_parquet(tables: Iterator[Rows], file: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    text = pa.string()
    schema = pa.schema(
        {"head": text, "direction": text, "query": text, "items": pa.list_(text), "scores": pa.list_(pa.float32())}
    )
    with parquet.ParquetWriter(file, schema) as writer:
        for table in tables:
            writer.write_table(pa.table(table, schema))


def _is_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".parquet"
