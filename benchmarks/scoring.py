"""Alignment scores against the original's: all pairs for evaluation, and the training loss.

    python -m benchmarks.scoring
    python -m benchmarks.scoring --only_ours --images 5000
    python -m benchmarks.scoring --parts re_ranking --candidates 100 1000 10000

The original's cost per pair does not depend on how many there are, so it scores fewer; on a GPU it runs there, too.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the commands of search set it

import jax
import jax.numpy as jnp
import numpy as np
from etils import epy

from aladin_jax.models.aladin import CaptionEmbeddings, ImageEmbeddings
from aladin_jax.scores import all_pairs, ragged
from aladin_jax.training.objective import Objective
from benchmarks import workload
from benchmarks.interleaved import ratios, significant, spread, time_in_turns
from benchmarks.report import peak_memory_bytes, print_report, reset_peak_memory

with epy.lazy_imports():  # of the comparison alone
    import torch

    from benchmarks import torch_baseline


PARTS = ("all_pairs", "alignment_loss", "re_ranking", "growth")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="images that are scored, 5 captions each")
    parser.add_argument("--baseline_images", type=int, default=10, help="images that the original scores")
    parser.add_argument("--only_ours", action="store_true", help="without the original, which needs PyTorch")
    parser.add_argument("--batch_size", type=int, default=32, help="pairs of the alignment loss")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured")
    parser.add_argument(
        "--candidates", type=int, nargs="*", default=[100, 1000], help="numbers of images that one query is scored with"
    )
    parser.add_argument("--sizes", type=int, nargs="*", default=[], help="numbers of images to score once each, alone")
    args = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    lengths: dict[str, Any] = {}
    baseline = 0 if args.only_ours else args.baseline_images
    measured: dict[str, Callable[[], Any]] = {
        "all_pairs": lambda: measure_all_pairs(rng, args.images, baseline, args.runs, lengths),
        "alignment_loss": lambda: alignment_loss(rng, args.batch_size, args.runs, lengths, only_ours=args.only_ours),
        "re_ranking": lambda: re_ranking(rng, args.candidates, args.runs, only_ours=args.only_ours),
        "growth": lambda: [growth(rng, images) for images in args.sizes],
    }
    print_report("scoring", lengths, {part: measured[part]() for part in args.parts})


def measure_all_pairs(
    rng: np.random.Generator, images: int, baseline_images: int, runs: int, lengths: dict
) -> dict[str, Any]:
    """Pairs a second of both, and how close ours comes to the bare matrix product of its tiles."""
    region_len = workload.region_lengths(rng, images)
    caption_len = workload.caption_lengths(rng, images * workload.CAPTIONS_PER_IMAGE)
    regions, words = workload.ragged(rng, region_len - 1), workload.ragged(rng, caption_len - 3)
    size = all_pairs.tile_size("MrSw")
    left = jnp.asarray(workload.unit_vectors(rng, size.words, workload.HIDDEN_SIZE))
    right = jnp.asarray(workload.unit_vectors(rng, workload.HIDDEN_SIZE, size.regions))
    product = jax.jit(lambda x, y: jnp.matmul(x, y, precision="highest"))
    real_flops = 2 * workload.HIDDEN_SIZE * len(regions.vectors) * len(words.vectors)
    products = max(round(real_flops / (2 * left.size * size.regions)), 1)

    def bare_products() -> None:
        for _ in range(products):
            product(left, right).block_until_ready()  # one after the other, so that their memory is used again

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: all_pairs.all_alignment_scores(regions, words),
        "ours_bfloat16": lambda: all_pairs.all_alignment_scores(regions, words, dtype=jnp.bfloat16),
        "product": bare_products,
    }
    if baseline_images:
        ways = {"original": original_scores(rng, region_len[:baseline_images], caption_len), **ways}
    seconds = time_in_turns(ways, runs=runs)
    per_pair = {name: [s / (images * len(caption_len)) for s in seconds[name]] for name in ("ours", "ours_bfloat16")}
    result: dict[str, Any] = {}
    if baseline_images:
        pairs = baseline_images**2 * workload.CAPTIONS_PER_IMAGE
        per_pair["original"] = [s / pairs for s in seconds["original"]]
        result = {
            "ratio": ratios(per_pair["original"], per_pair["ours"]),
            "ratio_bfloat16": ratios(per_pair["original"], per_pair["ours_bfloat16"]),
        }
    rate = [real_flops / s for s in seconds["ours"]]
    product_rate = [2 * left.size * size.regions * products / s for s in seconds["product"]]
    lengths["all_pairs"] = {
        "images": images,
        "captions": len(caption_len),
        "original_images": baseline_images,
        "mean_words": significant(float(np.mean(caption_len - 3))),
        "mean_regions": significant(float(np.mean(region_len - 1))),
        "features": workload.HIDDEN_SIZE,
    }
    return {
        "pairs_per_second": {name: spread([1 / s for s in values]) for name, values in per_pair.items()},
        **result,
        "gflops": spread([value / 1e9 for value in rate]),
        "product_gflops": spread([value / 1e9 for value in product_rate]),
        "gemm_fraction": ratios(rate, product_rate),
    }


def original_scores(rng: np.random.Generator, region_len: np.ndarray, caption_len: np.ndarray) -> Callable[[], Any]:
    """The original's scores of some images with five captions for each, in both directions."""
    lengths = region_len, caption_len[: len(region_len) * workload.CAPTIONS_PER_IMAGE]
    padded = [
        torch_baseline.pad_for_evaluation(on_torch(workload.embeddings(rng, some, slots)))
        for some, slots in zip(lengths, (workload.MAX_REGIONS, workload.MAX_CAPTION_LEN), strict=True)
    ]
    counts = [on_torch(some) for some in lengths]

    def scores() -> float:
        with torch.no_grad():
            both = torch_baseline.evaluation_scores(padded[0], counts[0], padded[1], counts[1])
        return both[0][0, 0].item() + both[1][0, 0].item()  # waits for the device

    return scores


def on_torch(array: np.ndarray) -> torch.Tensor:
    """The array on PyTorch's device: a GPU if JAX runs on one."""
    return torch.from_numpy(array).to("cuda" if jax.default_backend() == "gpu" else "cpu")


def alignment_loss(
    rng: np.random.Generator, batch_size: int, runs: int, lengths: dict, *, only_ours: bool
) -> dict[str, Any]:
    """Forward and backward pass of the hinge on hardest negatives; static lengths as in training."""
    region_len, caption_len = workload.region_lengths(rng, batch_size), workload.caption_lengths(rng, batch_size)
    regions = workload.embeddings(rng, region_len, workload.MAX_REGIONS)
    tokens = workload.embeddings(rng, caption_len, workload.MAX_CAPTION_LEN)
    objective = Objective(alignment=1.0)

    @jax.jit
    @jax.value_and_grad
    def loss(embeddings: tuple[jax.Array, jax.Array]) -> jax.Array:
        vector = jnp.zeros((batch_size, 1))
        images = ImageEmbeddings(vector, embeddings[0], jnp.asarray(region_len))
        captions = CaptionEmbeddings(vector, embeddings[1], jnp.asarray(caption_len))
        return objective(images, captions, {}, ["alignment"])[0]

    exact = jnp.asarray(regions), jnp.asarray(tokens)
    rough = jax.tree.map(lambda x: x.astype(jnp.bfloat16), exact)
    ways: dict[str, Callable[[], Any]] = {"ours": lambda: loss(exact), "ours_bfloat16": lambda: loss(rough)}
    if not only_ours:
        embeddings = [
            on_torch(regions[:, : region_len.max()]).requires_grad_(),
            on_torch(tokens[:, : caption_len.max()]).requires_grad_(),
        ]
        counts = on_torch(region_len), on_torch(caption_len)

        def original() -> float:
            unit_regions, unit_tokens = (torch.nn.functional.normalize(x, dim=2) for x in embeddings)
            scores = torch_baseline.alignment_scores(unit_regions, counts[0], unit_tokens, counts[1])
            value = torch_baseline.hinge_triplet(scores)
            gradients = torch.autograd.grad(value, embeddings)
            return value.item() + 0 * gradients[0][0, 0, 0].item()  # waits for the device

        np.testing.assert_allclose(loss(exact)[0], original(), rtol=1e-4)
        ways = {"original": original, **ways}
    seconds = time_in_turns(ways, runs=runs, calls=10)
    lengths["alignment_loss"] = {
        "pairs": batch_size,
        "caption_slots": workload.MAX_CAPTION_LEN,
        "longest_caption": int(caption_len.max()),
        "region_slots": workload.MAX_REGIONS,
    }
    result: dict[str, Any] = {
        "milliseconds": {name: spread([s * 1e3 for s in values]) for name, values in seconds.items()}
    }
    if not only_ours:
        result["ratio"] = ratios(seconds["original"], seconds["ours"])
    return result


def re_ranking(rng: np.random.Generator, candidates: Sequence[int], runs: int, *, only_ours: bool) -> list[dict]:
    """Milliseconds for one query against candidates out of a file mapped into memory, beside PyTorch and fast-maxsim.

    All images have 33 regions and the query 10 words, as the others' dense arrays want it. They are timed with taking
    the candidates out of the file, and the widening to float32 that they need.
    """
    images, regions, words = max(candidates, default=0), workload.MAX_REGIONS - 1, 10
    query = workload.unit_vectors(rng, words, workload.HIDDEN_SIZE)
    offsets = np.arange(images + 1, dtype=np.int64) * regions
    results = []
    with tempfile.TemporaryDirectory() as name:
        for number_format in (np.float32, np.float16):
            file = Path(name) / f"{np.dtype(number_format).name}.npy"
            mapped = np.lib.format.open_memmap(file, "w+", number_format, (images * regions, workload.HIDDEN_SIZE))
            for start in range(0, len(mapped), 2**16):
                part = mapped[start : start + 2**16]
                part[:] = workload.unit_vectors(rng, *part.shape)
            side = ragged.Ragged(np.load(file, mmap_mode="r"), offsets)
            for count in candidates:
                chosen = np.sort(rng.choice(images, count, replace=False))
                ways = {"ours": functools.partial(ragged.scores_of_caption, query, side, chosen)}
                if not only_ours:
                    ways |= {name: functools.partial(peer, query, side, chosen) for name, peer in peers().items()}
                for way in ways.values():
                    np.testing.assert_allclose(way(), ways["ours"](), atol=1e-4)
                seconds = time_in_turns(ways, runs=runs)
                results.append(
                    {
                        "candidates": count,
                        "dtype": np.dtype(number_format).name,
                        "milliseconds": {n: spread([s * 1e3 for s in values]) for n, values in seconds.items()},
                        "ratio": {n: ratios(seconds[n], seconds["ours"]) for n in seconds if n != "ours"},
                    }
                )
    return results


def peers() -> dict[str, Callable[[np.ndarray, ragged.Ragged, np.ndarray], np.ndarray]]:
    """Others that score one query: PyTorch's einsum, and fast-maxsim where it is installed (`pip install`)."""

    def dense(side: ragged.Ragged, chosen: np.ndarray) -> np.ndarray:
        return side.vectors.reshape(len(side.lengths), -1, workload.HIDDEN_SIZE)[chosen]

    def einsum(query: np.ndarray, side: ragged.Ragged, chosen: np.ndarray) -> np.ndarray:
        regions = torch.from_numpy(dense(side, chosen)).float()
        similarity = torch.einsum("wd,ird->iwr", torch.from_numpy(query), regions)
        return similarity.amax(dim=2).clamp(min=0).sum(dim=1).numpy()

    found = {"torch_einsum": einsum}
    try:
        fast_maxsim = importlib.import_module("fast_maxsim")
    except ImportError:
        return found
    return found | {
        "fast_maxsim": lambda query, side, chosen: fast_maxsim.maxsim_scores(
            query, dense(side, chosen).astype(np.float32, copy=False)
        )
    }


def growth(rng: np.random.Generator, images: int) -> dict[str, Any]:
    """Seconds and peak memory of scoring all pairs once, inputs included."""
    regions = workload.ragged(rng, workload.region_lengths(rng, images) - 1)
    words = workload.ragged(rng, workload.caption_lengths(rng, images * workload.CAPTIONS_PER_IMAGE) - 3)
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
