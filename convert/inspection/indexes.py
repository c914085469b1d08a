"""An index of search: what it holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aladin_jax.lineage import lineage_of_model_folder
from aladin_jax.search import verification
from aladin_jax.search.index_files import MODEL
from convert.inspection.checkpoints import describe_lineage
from convert.inspection.tallies import Problems


def inspect_index(folder: Path) -> dict[str, Any]:
    """Reads an index as `aladin_jax.search verify` does.

    Args:
        folder: of the index.

    Returns:
        What was found, as plain data.

    Raises:
        ValueError: its manifest is damaged.
    """
    problems = Problems()
    about = verification.describe(folder)
    for fault in verification.verify(folder):
        problems.add("faults", fault)
    return {
        "kind": "index",
        "path": str(folder),
        **{name: value for name, value in about.items() if name not in ("kind", "path", "index")},
        "lineage of the model": describe_lineage(lineage_of_model_folder(folder / MODEL)),
        "problems": problems.listed(),
    }
