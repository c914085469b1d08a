"""A prepared data set, read record by record."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError
from convert.inspection.captions_folder import describe_captions, report_shared
from convert.inspection.tallies import Problems, RegionTally


def inspect_data_set(folder: Path, tokenizer: CaptionTokenizer | None, max_regions: int) -> dict[str, Any]:
    """Reads all records.

    Args:
        folder: of the data set, or a parent of it.
        tokenizer: if a vocabulary is known.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: there is no data set, or it cannot be opened.
    """
    dataset = open_dataset(folder)
    problems = Problems()
    tally = RegionTally(problems, max_regions, tokenizer)
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
        ids[name] = set(split.ids)
        for image, times in Counter(split.ids).items():
            if times > 1:
                problems.add("images that are in a split more than once", f"{image} in {name}")
        splits[name] = {
            "skipped when it was prepared (no detections)": dataset.metadata["splits"][name].get("skipped"),
            **describe_captions(captions, tokenizer, problems, name),
        }
    report_shared(ids, problems)
    return {
        "kind": "data set" if any(about["captions"] for about in splits.values()) else "data set without captions",
        "path": str(dataset.folder),
        "name": dataset.name,
        "bytes": sum(file.stat().st_size for file in dataset.folder.iterdir()),
        "stored as": str(dataset.dtype),
        **tally.described(),
        "splits": splits,
        "problems": problems.listed(),
    }
