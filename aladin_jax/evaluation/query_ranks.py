"""Every query's rank, kept beside the report, so that two runs can be compared query by query."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from jaxtyping import Int

from aladin_jax.errors import DataError, first_line
from aladin_jax.evaluation.retrieval import Direction, Retrieval
from aladin_jax.files import write_whole
from aladin_jax.untrusted import require_file

_MAX_BYTES = 1 << 30
_EVALUATE_AGAIN = "run --mode evaluate again"


class QueryRanks(NamedTuple):
    """Ranks of a run's queries.

    Attributes:
        heads: by head and direction, from 0; see `retrieval.Retrieval.ranks`.
        image_ids: [i] of the images that were evaluated.
        image_of_caption: [c] which of them each caption is of.
    """

    heads: dict[str, dict[str, Int[np.ndarray, " q"]]]
    image_ids: list[str]
    image_of_caption: Int[np.ndarray, " c"]


def ranks_file(report: Path) -> Path:
    """Where the ranks of a report are: `report.ranks.npz` beside `report.json`."""
    return report.with_suffix(".ranks.npz")


def write_query_ranks(retrievals: Mapping[str, Retrieval], report: Path) -> None:
    """Writes the ranks of all heads beside their report, whole or not at all."""
    collection = next(iter(retrievals.values())).collection
    arrays: dict[str, np.ndarray] = {
        f"{head}/{direction}": ranks.astype(np.int32)
        for head, retrieval in retrievals.items()
        for direction, ranks in retrieval.ranks.items()
    }
    arrays["image_ids"] = np.array(collection.image_ids, np.str_)
    arrays["image_of_caption"] = collection.image_of_caption.astype(np.int32)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # pyright: ignore[reportArgumentType]
    write_whole(ranks_file(report), content.getvalue())


def read_query_ranks(report: Path) -> QueryRanks:
    """Reads the ranks that belong to a report.

    Raises:
        DataError: there are none, or the file is damaged.
    """
    path = ranks_file(report)
    if report.is_file() and not path.is_file():
        raise DataError("no such file, which has the report's ranks by query", _EVALUATE_AGAIN, path=path)
    require_file(path, _MAX_BYTES)
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        ids, image_of_caption = arrays.pop("image_ids").tolist(), arrays.pop("image_of_caption")
        lengths = dict(zip(get_args(Direction), (len(ids), len(image_of_caption)), strict=True))
        heads: dict[str, dict[str, np.ndarray]] = {}
        for name, ranks in arrays.items():
            head, direction = name.split("/")
            if ranks.shape != (lengths[direction],) or ranks.dtype.kind != "i":
                raise ValueError(f"{name} is {ranks.dtype}{list(ranks.shape)}")
            heads.setdefault(head, {})[direction] = ranks
        if not heads or any(of_head.keys() != lengths.keys() for of_head in heads.values()):
            raise ValueError("a direction is missing")
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"damaged ({first_line(error)})", _EVALUATE_AGAIN, path=path) from error
    return QueryRanks(heads, [str(image) for image in ids], image_of_caption)
