"""A prepared data set, read record by record."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.errors import DataError
from convert.inspection.captions_folder import describe_captions, report_shared
from convert.inspection.tallies import Problems, RegionTally
from convert.inspection.texts import TextTally, Tokens


def inspect_data_set(folder: Path, tokens: Tokens | None, max_regions: int) -> dict[str, Any]:
    """Reads all records.

    Args:
        folder: of the data set, or a parent of it.
        tokens: a vocabulary, if there is one.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: there is no data set, or it cannot be opened.
    """
    dataset = open_dataset(folder)
    problems = Problems()
    tally = RegionTally(problems, max_regions)
    tags = TextTally(tokens.tag_tally() if tokens else None)
    metadata = dataset.metadata
    splits: dict[str, Any] = {}
    ids: dict[str, set[str]] = {}
    for name in dataset.splits:
        split = Split(dataset, name)
        captions: dict[str, list[str]] = {}
        for index in tqdm(range(split.num_images), desc=name, unit="image", delay=2, mininterval=1, leave=False):
            try:
                record = split.read(index)
            except DataError as error:
                problems.add("records that cannot be read", str(error))
                continue
            captions[record.id] = record.captions
            tally.add(record.regions, index, record.id)
            tally.add_tags(record.tags)
            tags.add(" ".join(record.tags))
        ids[name] = set(split.ids)
        for image, times in Counter(split.ids).items():
            if times > 1:
                problems.add("images that are in a split more than once", f"{image} in {name}")
        splits[name] = {
            "skipped when it was prepared (no detections)": metadata["splits"][name].get("skipped"),
            **describe_captions(captions, tokens, problems, name),
        }
    report_shared(ids, problems)
    found = tally.described()
    found["tags"] |= tags.described()
    return {
        "kind": "data set" if any(about["captions"] for about in splits.values()) else "data set without captions",
        "path": str(dataset.folder),
        "name": dataset.name,
        "bytes": sum(file.stat().st_size for file in dataset.folder.iterdir()),
        "stored as": str(dataset.dtype),
        **found,
        "splits": splits,
        "problems": problems.listed(),
    }
