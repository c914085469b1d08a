"""Whether input keeps ahead of the step: examples a second of Grain and ArrayRecord, and of the TSV reader.

python -m benchmarks.pipeline
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader

from aladin_jax.data import pipeline
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from benchmarks import workload
from benchmarks.interleaved import ratios, spread, time_in_turns
from benchmarks.report import print_report
from benchmarks.tsv_baseline import TsvPairs
from benchmarks.vinvl_folder import SPLIT, write_vinvl_folder
from convert.dataset import coco_ir

BATCH_SIZE = 32


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="in the features folder; each has 5 captions")
    parser.add_argument(
        "--batches", type=int, default=40, help="in each run; a few of them are read ahead, between runs"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of the original's loader")
    parser.add_argument("--runs", type=int, default=5, help="timed, in turns")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = write_vinvl_folder(folder, np.random.default_rng(0), args.images)
        coco_ir.prepare(raw.captions, raw.features, folder / "prepared")
        tokenizer = CaptionTokenizer(
            raw.vocabulary, max_caption_len=workload.MAX_CAPTION_LEN, max_labels_len=workload.MAX_LABELS_LEN
        )
        split = Split(pipeline.open_dataset(folder / "prepared"), SPLIT)
        # Two, so that workers do not inherit open files and their positions.
        plain, for_workers = TsvPairs(raw, tokenizer), TsvPairs(raw, tokenizer)
        ours = pipeline.TrainBatches(split, tokenizer, batch_size=BATCH_SIZE, max_regions=workload.MAX_REGIONS, seed=0)
        seconds = time_in_turns(
            {
                "original": taker(_forever(DataLoader(plain, BATCH_SIZE, shuffle=True)), args.batches),
                "original_with_workers": taker(
                    _forever(DataLoader(for_workers, BATCH_SIZE, shuffle=True, num_workers=args.workers)), args.batches
                ),
                "ours": taker(ours, args.batches),
            },
            runs=args.runs,
        )
        ours.close()
    examples = args.batches * BATCH_SIZE
    print_report(
        "pipeline",
        {"images": args.images, "batch_size": BATCH_SIZE, "examples": examples, "workers": args.workers},
        {
            "examples_per_second": {name: spread([examples / s for s in some]) for name, some in seconds.items()},
            "ratio": ratios(seconds["original"], seconds["ours"]),
            "ratio_with_workers": ratios(seconds["original_with_workers"], seconds["ours"]),
        },
    )


def taker(batches: Iterator[Any], count: int) -> Callable[[], None]:
    """A function that takes the next `count` batches."""

    def take() -> None:
        for _ in range(count):
            next(batches)

    return take


def _forever(loader: DataLoader) -> Iterator[Any]:
    while True:
        yield from loader


if __name__ == "__main__":
    main()
