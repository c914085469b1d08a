"""Whether input keeps ahead of the step: examples a second of Grain and ArrayRecord, and of the TSV reader.

    python -m benchmarks.pipeline

Beside what both reach here, in turns: what one core of ours does, by the processor's time, whatever else the machine
is busy with; and ours with reader processes.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from torch.utils.data import DataLoader

from aladin_jax.data import pipeline
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from benchmarks import workload
from benchmarks.interleaved import ratios, spread, time_in_turns
from benchmarks.report import print_report
from benchmarks.tsv_baseline import TsvPairs
from benchmarks.vinvl_folder import SPLIT, write_vinvl_folder
from convert.dataset import coco_ir

BATCH_SIZE = 32
STORED, DTYPES = ("float32", "float16"), ("float32", "bfloat16")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200, help="in the features folder; each has 5 captions")
    parser.add_argument(
        "--batches", type=int, default=40, help="in each run; a few of them are read ahead, between runs"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes of either loader, at most")
    parser.add_argument("--runs", type=int, default=5, help="timed, in turns")
    args = parser.parse_args(arguments)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's processes read absl's flags
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = write_vinvl_folder(folder, np.random.default_rng(0), args.images)
        tokenizer = CaptionTokenizer(
            raw.vocabulary, max_caption_len=workload.MAX_CAPTION_LEN, max_labels_len=workload.MAX_LABELS_LEN
        )
        splits = {}
        for stored in STORED:
            coco_ir.prepare(raw.captions, raw.features, folder / stored, float16=stored == "float16")
            splits[stored] = Split(open_dataset(folder / stored), SPLIT)

        def ours(stored: str = "float32", dtype: str = "float32", **options: Any) -> pipeline.TrainBatches:
            return pipeline.TrainBatches(
                splits[stored],
                tokenizer,
                batch_size=BATCH_SIZE,
                max_regions=workload.MAX_REGIONS,
                region_dtype=np.dtype(dtype),
                seed=0,
                **options,
            )

        # Two, so that workers do not inherit open files and their positions.
        plain, for_workers = TsvPairs(raw, tokenizer), TsvPairs(raw, tokenizer)
        in_turns = ours()
        seconds = time_in_turns(
            {
                "original": taker(_forever(DataLoader(plain, BATCH_SIZE, shuffle=True)), args.batches),
                "original_with_workers": taker(
                    _forever(DataLoader(for_workers, BATCH_SIZE, shuffle=True, num_workers=args.workers)), args.batches
                ),
                "ours": taker(in_turns, args.batches),
            },
            runs=args.runs,
        )
        in_turns.close()
        a_core = {
            f"{stored} as {dtype}": rate(ours(stored, dtype, num_threads=0), args, time.process_time)
            for stored in STORED
            for dtype in DTYPES
        }
        with_workers = {
            f"{stored}, {workers}": rate(ours(stored, num_threads=1, num_workers=workers), args, time.perf_counter)
            for stored in STORED
            for workers in range(1, args.workers + 1)
        }
    examples = args.batches * BATCH_SIZE
    print_report(
        "pipeline",
        {"images": args.images, "batch_size": BATCH_SIZE, "examples": examples, "workers": args.workers},
        {
            "examples_per_second": {name: spread([examples / s for s in some]) for name, some in seconds.items()},
            "ratio": ratios(seconds["original"], seconds["ours"]),
            "ratio_with_workers": ratios(seconds["original_with_workers"], seconds["ours"]),
            "examples_per_core_second": a_core,
            "examples_per_second_with_workers": with_workers,
        },
    )


def rate(batches: pipeline.TrainBatches, args: argparse.Namespace, clock: Callable[[], float]) -> dict[str, float]:
    """Examples a second of a clock, each run as many batches as asked for, once the tokens are known."""
    with contextlib.closing(batches):
        take = taker(batches, args.batches)
        seconds = []
        for _ in range(1 + args.runs):
            started = clock()
            take()
            seconds.append(clock() - started)
    return spread([args.batches * BATCH_SIZE / some for some in seconds[1:]])


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
