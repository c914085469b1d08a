"""One whole training step of BERT-base against PyTorch's: both streams, both heads, dropout, losses, clip and Adam.

    python -m benchmarks.train_step
    python -m benchmarks.train_step --batch_size 256 --dtype bfloat16 --baseline compiled_varlen --peak_tflops 989

On a CPU the baseline is the original's step, which pads both streams to their static lengths; ours packs the real
tokens. On a GPU it is what torch.compile makes of the model as its users would write it (`torch_compiled.py`). Each
way prints a line once it is compiled; then all take turns. `--kernels xla,pallas` compares ours in one process.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from aladin_jax import sharding
from aladin_jax.models.aladin import Params
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from benchmarks import our_step, workload
from benchmarks.interleaved import ratios, significant, spread, time_in_turns
from benchmarks.kernels import kernels_of
from benchmarks.report import peak_memory_bytes, print_report, reset_peak_memory

BASELINES = {"original": None, "compiled": "padded", "compiled_varlen": "packed"}
SECONDS_OF_A_RUN = 0.5  # steps follow each other unwaited for about so long, as they do in training


class Way(NamedTuple):
    """One way of computing the step.

    Attributes:
        name: of the variant.
        run: takes so many steps, waits for them and returns the last loss, the sum of both.
        about: what is known of it before it is timed.
    """

    name: str
    run: Callable[[int], float]
    about: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of the backbone")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of our dense layers")
    parser.add_argument("--baseline", type=_names, help=f"some of {', '.join(BASELINES)}; or none")
    parser.add_argument("--kernels", type=_names, default=[None], help="some of what models.aladin.bind knows")
    parser.add_argument("--torch_mode", help="of torch.compile, such as reduce-overhead or max-autotune-no-cudagraphs")
    parser.add_argument("--peak_tflops", type=float, help="of the device in that type, to report mfu")
    parser.add_argument("--runs", type=int, help="timed, in turns (default: 5 on a CPU, 20 on a GPU)")
    parser.add_argument("--from_cache", action="store_true", help="compile ours again, from the compilation cache")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=[], help="batch sizes to time ours at, and nothing else"
    )
    args = parser.parse_args(arguments)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory of the same card
    on_gpu = jax.default_backend() == "gpu"
    runs = args.runs or (20 if on_gpu else 5)
    baselines = args.baseline or (["compiled_varlen"] if on_gpu else ["original"])
    baselines = [] if baselines == ["none"] else baselines
    if unknown := set(baselines) - BASELINES.keys():
        parser.error(f"--baseline {','.join(sorted(unknown))}: choose from {', '.join(BASELINES)}, or none")
    backbone, head = BackboneConfig(num_hidden_layers=args.layers), MatchingHeadConfig()
    rng = np.random.default_rng(0)
    params = our_step.init_params(backbone, head)
    lengths = {"pairs": args.sizes or args.batch_size, "layers": args.layers, "dtype": args.dtype}
    if args.sizes:
        sizes = [growth(backbone, head, params, rng, size, args.dtype, runs) for size in args.sizes]
        print_report("train_step", lengths, {"growth": sizes})
        return

    batch = workload.training_batch(rng, args.batch_size, backbone.vocab_size, backbone.img_feature_dim)
    lengths |= {
        "real_tokens": int(our_step.real_tokens(batch).sum()),
        "padded_tokens": args.batch_size * our_step.SLOTS,
        **{name: significant(float(batch[name].mean())) for name in ("caption_len", "label_len", "region_len")},
    }
    with ThreadPoolExecutor(len(args.kernels)) as pool:
        ways = list(
            pool.map(
                lambda some: our_way(backbone, head, params, batch, args.dtype, some, args.from_cache), args.kernels
            )
        )

    def measured(seconds: list[float]) -> dict[str, float]:
        return our_step.rates(seconds, backbone, head, batch, args.peak_tflops)

    for way in ways:
        say(way.name, first_run(way))
    for name in baselines:
        try:
            way = torch_way(backbone, head, batch, name, args.torch_mode)
        except (
            Exception
        ) as error:  # a kernel that this card or this release lacks; the others are measured all the same
            say(name, {"failed": f"{type(error).__name__}: {error}"})
            continue
        say(way.name, first_run(way))
        ways.append(way)
    seconds = in_turns(ways, runs)
    for way in ways:
        way.about.update(measured(seconds[way.name]))
        say(way.name, way.about)
    for way in ways:
        way.about["on_the_device"] = kernels_of(lambda run=way.run: run(1))
        say(way.name, {"on_the_device": way.about["on_the_device"]})
    ours = ways[0].name
    print_report(
        "train_step",
        lengths,
        {
            "ways": {way.name: way.about for way in ways},
            f"ratio_to_{ours}": {name: ratios(some, seconds[ours]) for name, some in seconds.items() if name != ours},
        },
    )


def our_way(
    backbone: BackboneConfig,
    head: MatchingHeadConfig,
    params: Params,
    batch: our_step.Arrays,
    dtype: str,
    kernels: str | None = None,
    from_cache: bool = False,
) -> Way:
    """Our step on a batch that is on the device; its first line says how long it took to trace and compile."""
    step = our_step.build(backbone, head, params, dtype, kernels)
    variant = our_step.variant_of(batch)
    features = batch["region_features"].astype(dtype)  # as input sends them
    on_device = jax.device_put({**batch, "region_features": features}, sharding.batch_sharding(step.mesh))
    started = time.perf_counter()
    compiled = step.jitted.lower(step.state, on_device, variant).compile()
    about = {"compile_seconds": significant(time.perf_counter() - started)}
    if from_cache:
        about["compile_seconds_from_cache"] = seconds_from_cache(
            lambda: step.jitted.lower(step.state, on_device, variant)
        )
    memory = compiled.memory_analysis()
    if memory is not None:
        about["temporary_gb"] = significant(memory.temp_size_in_bytes / 1e9)
    state = step.state

    def run(steps: int) -> float:
        nonlocal state
        for _ in range(steps):
            state, metrics = compiled(state, on_device)
        return float(metrics["loss"])

    return Way(kernels or "ours", run, about)


def seconds_from_cache(lower: Callable[[], Any]) -> float:
    """How long tracing and compiling take when the compilation cache has the result."""
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        compilation_cache.reset_cache()  # else the folder of an earlier call stays
        lower().compile()
        jax.clear_caches()
        started = time.perf_counter()
        lower().compile()
        seconds = significant(time.perf_counter() - started)
        jax.config.update("jax_compilation_cache_dir", None)
        compilation_cache.reset_cache()
    return seconds


def torch_way(
    backbone: BackboneConfig, head: MatchingHeadConfig, batch: our_step.Arrays, name: str, mode: str | None
) -> Way:
    """A baseline of PyTorch, on a GPU if JAX runs on one."""
    import torch

    from benchmarks import torch_baseline, torch_compiled

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch.manual_seed(0)
    model = torch_baseline.BaselineModel(backbone, head).to(device).train()
    layout = BASELINES[name]
    if layout is None:
        losses_of = torch_baseline.original_losses(model)
        optimizer = torch.optim.Adam(model.parameters(), our_step.LEARNING_RATE)
        arranged = {key: torch.from_numpy(array).to(device) for key, array in batch.items()}
        arranged = {key: x if x.is_floating_point() else x.long() for key, x in arranged.items()}
    else:
        arrange, losses = torch_compiled.LAYOUTS[layout]
        losses_of = torch_compiled.compile_losses(losses(model), device, mode)
        optimizer = torch_compiled.make_optimizer(model, our_step.LEARNING_RATE)
        arranged = arrange(batch, device)
    step = torch_baseline.make_step(losses_of, optimizer)

    def run(steps: int) -> float:
        for _ in range(steps):
            losses, _ = step(arranged)
        return sum(loss.item() for loss in losses.values())  # waits for the device

    about: dict[str, Any] = {}
    started = time.perf_counter()
    about["first_loss"] = significant(run(1))
    about["first_call_seconds"] = significant(time.perf_counter() - started)  # compiling included
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run(1)
        about["temporary_gb"] = significant((torch.cuda.max_memory_allocated() - before) / 1e9)
    return Way(name, run, about)


def first_run(way: Way) -> dict[str, Any]:
    """Takes the first step, which finds memory that no one has touched; returns all that is known by then."""
    started = time.perf_counter()
    loss = way.run(1)
    way.about.setdefault("first_loss", significant(loss))
    way.about["first_run_seconds"] = significant(time.perf_counter() - started)
    return way.about


def in_turns(ways: Sequence[Way], runs: int) -> dict[str, list[float]]:
    """Seconds a step, of each run; a run is as many steps as fit `SECONDS_OF_A_RUN`."""
    steps = {}
    for way in ways:
        way.run(1)
        started = time.perf_counter()
        way.run(1)
        steps[way.name] = max(int(SECONDS_OF_A_RUN / (time.perf_counter() - started)), 1)
    seconds = time_in_turns({way.name: lambda way=way: way.run(steps[way.name]) for way in ways}, runs=runs)
    return {name: [s / steps[name] for s in some] for name, some in seconds.items()}


def growth(
    backbone: BackboneConfig,
    head: MatchingHeadConfig,
    params: Params,
    rng: np.random.Generator,
    size: int,
    dtype: str,
    runs: int,
) -> dict[str, Any]:
    """Seconds and peak memory of our step at one batch size."""
    batch = workload.training_batch(rng, size, backbone.vocab_size, backbone.img_feature_dim)
    way = our_way(backbone, head, params, batch, dtype)
    reset_peak_memory()
    seconds = time_in_turns({"ours": lambda: way.run(1)}, runs=runs)["ours"]
    return {"pairs": size, "seconds": spread(seconds), "peak_memory_bytes": peak_memory_bytes()}


def say(name: str, about: dict[str, Any]) -> None:
    """Prints a line of one way at once: a run that is cut short has said what it knew."""
    print(f"{name}: {', '.join(f'{key} {value}' for key, value in about.items())}", flush=True)


def _names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
