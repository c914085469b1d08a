"""Alignment scores against the original's: all pairs for evaluation, and the training loss.

    python -m benchmarks.scoring

The original's cost per pair does not depend on how many there are, so it scores fewer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from aladin_jax.models.aladin import CaptionEmbeddings, ImageEmbeddings
from aladin_jax.scores import all_pairs, tiles
from aladin_jax.training.objective import Objective
from benchmarks import torch_baseline, workload
from benchmarks.interleaved import ratios, significant, spread, time_in_turns
from benchmarks.report import peak_memory_bytes, print_report, reset_peak_memory

BATCH_SIZE = 32
CANDIDATES = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images that are scored, 5 captions each")
    parser.add_argument("--baseline_images", type=int, default=10, help="images that the original scores")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="numbers of images to score once each, alone")
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    lengths: dict[str, Any] = {}
    results = {
        "all_pairs": measure_all_pairs(rng, args.images, args.baseline_images, args.runs, lengths),
        "alignment_loss": alignment_loss(rng, args.runs, lengths),
        "re_ranking": re_ranking(rng, args.runs),
        "growth": [growth(rng, images) for images in args.sizes],
    }
    print_report("scoring", lengths, results)


def measure_all_pairs(
    rng: np.random.Generator, images: int, baseline_images: int, runs: int, lengths: dict
) -> dict[str, Any]:
    """Pairs a second of both, and how close ours comes to the bare matrix product of its tiles."""
    region_len = workload.region_lengths(rng, images)
    caption_len = workload.caption_lengths(rng, images * workload.CAPTIONS_PER_IMAGE)
    regions, words = workload.packed(rng, region_len - 1), workload.packed(rng, caption_len - 3)
    baseline_captions = baseline_images * workload.CAPTIONS_PER_IMAGE
    padded = [
        torch_baseline.pad_for_evaluation(torch.from_numpy(workload.embeddings(rng, some, slots)))
        for some, slots in (
            (region_len[:baseline_images], workload.MAX_REGIONS),
            (caption_len[:baseline_captions], workload.MAX_CAPTION_LEN),
        )
    ]
    some_lengths = torch.from_numpy(region_len[:baseline_images]), torch.from_numpy(caption_len[:baseline_captions])

    tile_words, tile_columns = tiles.MRSW_TILE
    left = jnp.asarray(workload.unit_vectors(rng, tile_words, workload.HIDDEN_SIZE))
    right = jnp.asarray(workload.unit_vectors(rng, workload.HIDDEN_SIZE, tile_columns))
    product = jax.jit(lambda x, y: jnp.matmul(x, y, precision="highest"))
    real_flops = 2 * workload.HIDDEN_SIZE * len(regions.vectors) * len(words.vectors)
    products = max(round(real_flops / (2 * left.size * tile_columns)), 1)

    def bare_products() -> None:
        for _ in range(products):
            product(left, right).block_until_ready()  # one after the other, so that their memory is used again

    with torch.no_grad():
        seconds = time_in_turns(
            {
                "original": lambda: torch_baseline.evaluation_scores(
                    padded[0], some_lengths[0], padded[1], some_lengths[1]
                ),
                "ours": lambda: all_pairs.all_alignment_scores(regions, words),
                "ours_bfloat16": lambda: all_pairs.all_alignment_scores(regions, words, dtype=jnp.bfloat16),
                "product": bare_products,
            },
            runs=runs,
        )
    per_pair = {
        "original": [s / (baseline_images * baseline_captions) for s in seconds["original"]],
        **{name: [s / (images * len(caption_len)) for s in seconds[name]] for name in ("ours", "ours_bfloat16")},
    }
    rate = [real_flops / s for s in seconds["ours"]]
    product_rate = [2 * left.size * tile_columns * products / s for s in seconds["product"]]
    lengths["all_pairs"] = {
        "images": images,
        "captions": len(caption_len),
        "original_images": baseline_images,
        "original_captions": baseline_captions,
        "mean_words": significant(float(np.mean(caption_len - 3))),
        "mean_regions": significant(float(np.mean(region_len - 1))),
        "features": workload.HIDDEN_SIZE,
    }
    return {
        "pairs_per_second": {name: spread([1 / s for s in values]) for name, values in per_pair.items()},
        "ratio": ratios(per_pair["original"], per_pair["ours"]),
        "ratio_bfloat16": ratios(per_pair["original"], per_pair["ours_bfloat16"]),
        "gflops": spread([value / 1e9 for value in rate]),
        "product_gflops": spread([value / 1e9 for value in product_rate]),
        "gemm_fraction": ratios(rate, product_rate),
    }


def alignment_loss(rng: np.random.Generator, runs: int, lengths: dict) -> dict[str, Any]:
    """Forward and backward pass of the hinge on hardest negatives; static lengths as in training."""
    region_len, caption_len = workload.region_lengths(rng, BATCH_SIZE), workload.caption_lengths(rng, BATCH_SIZE)
    regions = workload.embeddings(rng, region_len, workload.MAX_REGIONS)
    tokens = workload.embeddings(rng, caption_len, workload.MAX_CAPTION_LEN)
    objective = Objective(alignment=1.0)

    @jax.jit
    @jax.value_and_grad
    def ours(embeddings: tuple[jax.Array, jax.Array]) -> jax.Array:
        vector = jnp.zeros((BATCH_SIZE, 1))
        images = ImageEmbeddings(vector, embeddings[0], jnp.asarray(region_len))
        captions = CaptionEmbeddings(vector, embeddings[1], jnp.asarray(caption_len))
        return objective(images, captions, {}, ["alignment"])[0]

    device_arrays = jnp.asarray(regions), jnp.asarray(tokens)
    torch_arrays = [
        torch.from_numpy(regions[:, : region_len.max()]).requires_grad_(),
        torch.from_numpy(tokens[:, : caption_len.max()]).requires_grad_(),
    ]
    torch_lengths = torch.from_numpy(region_len), torch.from_numpy(caption_len)

    def original() -> torch.Tensor:
        unit_regions, unit_tokens = (torch.nn.functional.normalize(x, dim=2) for x in torch_arrays)
        scores = torch_baseline.alignment_scores(unit_regions, torch_lengths[0], unit_tokens, torch_lengths[1])
        loss = torch_baseline.hinge_triplet(scores)
        torch.autograd.grad(loss, torch_arrays)
        return loss.detach()

    np.testing.assert_allclose(ours(device_arrays)[0], original(), rtol=1e-4)
    seconds = time_in_turns({"original": original, "ours": lambda: ours(device_arrays)}, runs=runs, calls=10)
    lengths["alignment_loss"] = {
        "pairs": BATCH_SIZE,
        "caption_slots": workload.MAX_CAPTION_LEN,
        "longest_caption": int(caption_len.max()),
        "region_slots": workload.MAX_REGIONS,
    }
    return {
        "milliseconds": {name: spread([s * 1e3 for s in values]) for name, values in seconds.items()},
        "ratio": ratios(seconds["original"], seconds["ours"]),
    }


def re_ranking(rng: np.random.Generator, runs: int) -> dict[str, Any]:
    """Milliseconds for one query against `CANDIDATES` of 1,000."""
    images = workload.packed(rng, workload.region_lengths(rng, 1000) - 1)
    captions = workload.packed(rng, workload.caption_lengths(rng, 1000) - 3)
    words = captions.take(np.array([0])).vectors
    regions = images.take(np.array([0])).vectors
    chosen = rng.choice(1000, CANDIDATES, replace=False)
    seconds = time_in_turns(
        {
            "caption": lambda: ragged.scores_of_caption(words, images, chosen),
            "image": lambda: ragged.scores_of_image(regions, captions, chosen),
        },
        runs=runs,
    )
    return {"milliseconds": {name: spread([s * 1e3 for s in values]) for name, values in seconds.items()}}


def growth(rng: np.random.Generator, images: int) -> dict[str, Any]:
    """Seconds and peak memory of scoring all pairs once, inputs included."""
    regions = workload.packed(rng, workload.region_lengths(rng, images) - 1)
    words = workload.packed(rng, workload.caption_lengths(rng, images * workload.CAPTIONS_PER_IMAGE) - 3)
    reset_peak_memory()
    started = time.perf_counter()
    all_pairs.all_alignment_scores(regions, words)
    return {
        "images": images,
        "captions": images * workload.CAPTIONS_PER_IMAGE,
        "seconds": significant(time.perf_counter() - started),
        "peak_memory_bytes": peak_memory_bytes(),
    }


if __name__ == "__main__":
    main()
