"""One whole training step of BERT-base against the original's: both streams, both heads, Adam.

    python -m benchmarks.train_step

The original pads both streams to their static lengths; ours packs the real tokens. Both have dropout, alignment hinge
and distillation (the regime `alignment_and_matching_distill`). On a GPU: --dtype bfloat16 --baseline compiled.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch
from jax.experimental.compilation_cache import compilation_cache

from aladin_jax import sharding
from aladin_jax.models import aladin
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.models.packing import tokens_per_group
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import StepShape, init_state, jit_train_step, make_train_step
from benchmarks import torch_baseline, workload
from benchmarks.interleaved import ratios, significant, spread, time_in_turns
from benchmarks.report import peak_memory_bytes, print_report, reset_peak_memory

LEARNING_RATE, GRAD_CLIP = 1e-5, 2.0
SLOTS = workload.MAX_CAPTION_LEN + workload.MAX_LABELS_LEN + workload.MAX_REGIONS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of the backbone")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of our dense layers")
    parser.add_argument(
        "--baseline", choices=["original", "compiled"], default="original", help="compiled: torch.compile"
    )
    parser.add_argument("--peak_tflops", type=float, help="of the device in that type, to report mfu")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[], help="batch sizes to time ours at, and nothing else"
    )
    args = parser.parse_args(arguments)
    backbone, head = BackboneConfig(num_hidden_layers=args.layers), MatchingHeadConfig()
    rng = np.random.default_rng(0)
    lengths = {"pairs": args.sizes or args.batch_size, "layers": args.layers, "dtype": args.dtype}
    if args.sizes:
        sizes = [growth(backbone, head, rng, size, args.dtype, args.runs) for size in args.sizes]
        print_report("train_step", lengths, {"growth": sizes})
        return

    batch = workload.training_batch(rng, args.batch_size, backbone.vocab_size, backbone.img_feature_dim)
    ours, compile_seconds = our_step(backbone, head, batch, args.dtype)
    started = time.perf_counter()
    jax.block_until_ready(ours())  # slower than later ones, on memory that no one has touched
    first_run_seconds = significant(time.perf_counter() - started)
    baseline = torch_step(backbone, head, batch, compiled=args.baseline == "compiled")
    seconds = time_in_turns({args.baseline: baseline, "ours": ours}, runs=args.runs)
    flops = model_flops(backbone, head, batch)
    results: dict[str, Any] = {
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratio": ratios(seconds[args.baseline], seconds["ours"]),
        "compile_seconds": compile_seconds,
        "first_run_seconds": first_run_seconds,
        "gflops": spread([flops / s / 1e9 for s in seconds["ours"]]),
    }
    if args.peak_tflops:
        results["mfu"] = spread([flops / s / (args.peak_tflops * 1e12) for s in seconds["ours"]])
    lengths |= {
        "real_tokens": int(real_tokens(batch).sum()),
        "padded_tokens": args.batch_size * SLOTS,
        **{name: significant(float(batch[name].mean())) for name in ("caption_len", "label_len", "region_len")},
    }
    print_report("train_step", lengths, results)


def our_step(
    backbone: BackboneConfig, head: MatchingHeadConfig, batch: dict[str, np.ndarray], dtype: str
) -> tuple[Callable[[], Any], dict[str, float]]:
    """Our step on a batch that is on the device, and how long it took to trace and compile, and then from the cache."""
    objective, optimizer = Objective(alignment=1.0, distillation=1.0), optim.adam()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    state = init_state(aladin.init_params(backbone, head, seed=0), objective, optimizer, (), seed=0)
    step = make_train_step(
        aladin.bind(backbone, head, dtype=np.dtype(dtype)),  # "bfloat16" is a NumPy type once JAX is imported
        objective,
        optimizer,
        optim.step_decay(LEARNING_RATE, steps_per_epoch=10_000, lr_step_epochs=15),
        frozen=(),
        grad_clip=GRAD_CLIP,
        groups=1,
    )
    pairs = len(batch["caption_len"])
    shape = StepShape(objective.losses, pairs, tokens_per_group(real_tokens(batch), slots=SLOTS, groups=1))
    on_device = jax.device_put(batch, sharding.batch_sharding(mesh))
    compile_seconds = {}
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        compilation_cache.reset_cache()  # else the folder of an earlier call stays
        for name in ("cold", "warm"):
            jax.clear_caches()
            started = time.perf_counter()
            compiled = jit_train_step(step, state, mesh).lower(state, on_device, shape).compile()
            compile_seconds[name] = significant(time.perf_counter() - started)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    state = jax.device_put(state, sharding.state_sharding(state, mesh))

    def run():
        nonlocal state
        state, metrics = compiled(state, on_device)
        return metrics["loss"]

    return run, compile_seconds


def torch_step(
    backbone: BackboneConfig, head: MatchingHeadConfig, batch: dict[str, np.ndarray], *, compiled: bool
) -> Callable[[], Any]:
    """The original's step, or what torch.compile makes of it, on a GPU if JAX runs on one."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch.manual_seed(0)
    model = torch_baseline.BaselineModel(backbone, head).to(device).train()
    forward = torch_baseline.compile_model(model) if compiled else None
    step = torch_baseline.make_step(model, LEARNING_RATE, forward)
    tensors = {
        name: torch.from_numpy(array).to(device, torch.float32 if array.dtype == np.float32 else torch.int64)
        for name, array in batch.items()
    }

    def run() -> float:
        losses, _ = step(tensors)
        return losses["alignment"].item()  # waits for the device

    return run


def real_tokens(batch: dict[str, np.ndarray]) -> np.ndarray:
    """Tokens, tags and regions of each example."""
    return np.asarray(batch["caption_len"] + batch["label_len"] + batch["region_len"])


def model_flops(backbone: BackboneConfig, head: MatchingHeadConfig, batch: dict[str, np.ndarray]) -> float:
    """Operations of the matrix products that a step needs, forward and backward, on real tokens only."""
    d, f = backbone.hidden_size, backbone.intermediate_size
    captions, images = batch["caption_len"].astype(float), (batch["label_len"] + batch["region_len"]).astype(float)
    regions, words = batch["region_len"].astype(float), batch["caption_len"].astype(float)
    dense = 2 * (4 * d * d + 2 * d * f) * (captions.sum() + images.sum())
    attention = 4 * d * (np.square(captions).sum() + np.square(images).sum())
    projection = 2 * backbone.img_feature_dim * d * regions.sum()
    head_dense = 2 * 6 * d * d * (regions.sum() + words.sum())
    head_attention = 4 * d * (np.square(regions).sum() + np.square(words).sum())
    alignment = 2 * d * (regions - 1).sum() * (words - 3).sum()
    layers, head_layers = backbone.num_hidden_layers, head.num_layers
    forward = layers * (dense + attention) + projection + head_layers * (head_dense + head_attention) + alignment
    return 3 * forward


def growth(
    backbone: BackboneConfig, head: MatchingHeadConfig, rng: np.random.Generator, size: int, dtype: str, runs: int
) -> dict[str, Any]:
    """Seconds and peak memory of our step at one batch size."""
    batch = workload.training_batch(rng, size, backbone.vocab_size, backbone.img_feature_dim)
    run, _ = our_step(backbone, head, batch, dtype)
    reset_peak_memory()
    seconds = time_in_turns({"ours": run}, runs=runs)["ours"]
    return {"pairs": size, "seconds": spread(seconds), "peak_memory_bytes": peak_memory_bytes()}


if __name__ == "__main__":
    main()
