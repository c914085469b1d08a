"""Real input into the real step: whether records on disk keep a device busy.

    python -m benchmarks.train_loop --batch_size 256 --dtype bfloat16 --peak_tflops 989 --workers 8

Records are read by Grain, tokenised, padded, sent ahead and trained on, as `aladin_jax.main` does it, but without what
imports TensorFlow. Prints the rate of the input alone, of the step alone, and of both together. Makes its own records
if no folder of them is named.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from aladin_jax import sharding
from aladin_jax.data import pipeline
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.training.step import StepVariant
from benchmarks import made_up_records, our_step, workload
from benchmarks.interleaved import significant
from benchmarks.report import print_report

WARM_UP = 3  # batches or steps that are not counted: processes start, memory is touched


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    args = parse(arguments)
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's processes read absl's flags
    with contextlib.ExitStack() as stack:
        data = args.data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = made_up_records.write_made_up(
            data, images=args.images, dtype=args.storage, writer_options=args.writer_options
        )
        dataset = open_dataset(made.folder)
        split = Split(dataset, made_up_records.SPLIT)
        tokenizer = CaptionTokenizer(
            made.vocabulary, max_caption_len=workload.MAX_CAPTION_LEN, max_labels_len=workload.MAX_LABELS_LEN
        )

        def batches() -> pipeline.TrainBatches:
            return stack.enter_context(contextlib.closing(train_batches(split, tokenizer, args)))

        first, examples_per_second, variants = input_alone(batches(), args.steps)
        say("input alone", {"examples_per_second": examples_per_second, "shapes": len(variants)})
        results: dict[str, Any] = {"input_examples_per_second": examples_per_second}
        if not args.input_only:
            results |= with_steps(args, first, variants, batches)
    print_report(
        "train_loop",
        {
            "pairs": args.batch_size,
            "steps": args.steps,
            "layers": args.layers,
            "dtype": args.dtype,
            "images": split.num_images,
            "stored_as": str(dataset.dtype),
            "workers": args.workers,
            "threads": args.threads,
        },
        results,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of made-up records, written if they are not there")
    parser.add_argument("--images", type=int, default=2000, help="made up, each with 5 captions")
    parser.add_argument("--storage", choices=["float32", "float16"], default="float32", help="of made-up regions")
    parser.add_argument(
        "--writer_options", default="group_size:1,uncompressed", help="of ArrayRecord, for made-up records"
    )
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=12, help="of the backbone")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of dense layers")
    parser.add_argument("--kernels", help="one of what models.aladin.bind knows")
    parser.add_argument("--workers", type=int, default=0, help="reader processes; 0 reads in threads of this one")
    parser.add_argument("--threads", type=int, default=2, help="of each reader")
    parser.add_argument("--prefetch", type=int, default=4, help="batches read ahead, of each reader")
    parser.add_argument("--peak_tflops", type=float, help="of the device in that type, to report mfu")
    parser.add_argument("--input_only", action="store_true", help="no step: what reads and pads, whatever the device")
    return parser.parse_args(arguments)


def train_batches(split: Split, tokenizer: CaptionTokenizer, args: argparse.Namespace) -> pipeline.TrainBatches:
    """Batches as training reads them."""
    return pipeline.TrainBatches(
        split,
        tokenizer,
        batch_size=args.batch_size,
        max_regions=workload.MAX_REGIONS,
        region_dtype=np.dtype(args.dtype),
        seed=0,
        num_threads=args.threads,
        prefetch=args.prefetch,
        num_workers=args.workers,
    )


def input_alone(batches: Iterator[pipeline.Batch], steps: int) -> tuple[pipeline.Batch, float, set[StepVariant]]:
    """A first batch, examples a second of the input alone, and the variants that training will meet."""
    taken = list(itertools.islice(batches, WARM_UP))
    variants = {our_step.variant_of(batch.lengths) for batch in taken}
    examples, started = 0, time.perf_counter()
    for batch in itertools.islice(batches, steps):
        variants.add(our_step.variant_of(batch.lengths))
        examples += batch.num_pairs
    return taken[0], significant(examples / (time.perf_counter() - started)), variants


def with_steps(
    args: argparse.Namespace, first: pipeline.Batch, variants: Iterable[StepVariant], batches: Any
) -> dict[str, Any]:
    """Rates of the step alone, and of the loop."""
    backbone, head = BackboneConfig(num_hidden_layers=args.layers), MatchingHeadConfig()
    step = our_step.build(backbone, head, our_step.init_params(backbone, head), args.dtype, args.kernels)
    on_device = sharding.batch_sharding(step.mesh)
    arrays, state = jax.device_put(first.arrays, on_device), step.state
    started = time.perf_counter()
    compiled = {variant: step.jitted.lower(state, arrays, variant).compile() for variant in variants}
    results: dict[str, Any] = {"compile_seconds": significant(time.perf_counter() - started), "shapes": len(compiled)}
    say("compiled", results)

    variant = our_step.variant_of(first.lengths)
    for number in range(WARM_UP + args.steps):
        if number == WARM_UP:
            jax.block_until_ready(state)
            started = time.perf_counter()
        state, metrics = compiled[variant](state, arrays)
    jax.block_until_ready(state)
    seconds = (time.perf_counter() - started) / args.steps
    flops_batch = {name: np.asarray(array) for name, array in first.arrays.items()}
    alone = our_step.rates([seconds], backbone, head, flops_batch, args.peak_tflops)
    results["step_alone"] = alone | {"examples_per_second": significant(args.batch_size / seconds)}
    say("step alone", results["step_alone"])

    waited, examples = 0.0, 0
    ahead = pipeline.prefetch_to_device(batches(), on_device)
    for number in range(WARM_UP + args.steps):
        if number == WARM_UP:
            jax.block_until_ready(state)
            started, waited, examples = time.perf_counter(), 0.0, 0
        asked = time.perf_counter()
        batch = next(ahead)
        waited += time.perf_counter() - asked
        variant = our_step.variant_of(batch.lengths)
        state, metrics = compiled[variant](state, batch.arrays)
        examples += batch.num_pairs
    loss = float(metrics["loss"])
    seconds = time.perf_counter() - started
    results["loop"] = {
        "ms": significant(1e3 * seconds / args.steps),
        "examples_per_second": significant(examples / seconds),
        "waiting_for_input": significant(waited / seconds),
        "loss": significant(loss),
    }
    say("loop", results["loop"])
    return results


def say(what: str, about: dict[str, Any]) -> None:
    """Prints a line at once."""
    print(f"{what}: {', '.join(f'{key} {value}' for key, value in about.items())}", flush=True)


if __name__ == "__main__":
    main()
