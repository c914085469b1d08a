"""Memory that the losses of one large batch take on each of eight devices, as compiled; nothing is run.

    python -m benchmarks.memory

Embeddings of BERT-base's width are divided over the devices by example; gradients with respect to them are too. The
model, its parameters and the optimizer come on top.
"""

# ruff: noqa: E402
from __future__ import annotations

import os

DEVICES = 8
# Before JAX meets its devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from aladin_jax import sharding
from aladin_jax.models.aladin import CaptionEmbeddings, ImageEmbeddings
from aladin_jax.scores import similarity
from aladin_jax.training.objective import Objective
from benchmarks import workload
from benchmarks.report import print_report

KINDS = ("argument", "output", "temp")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compiles, and prints a table and a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=4096, help="pairs over all devices")
    parser.add_argument("--hidden_size", type=int, default=workload.HIDDEN_SIZE)
    parser.add_argument("--limit_gb", type=float, default=16.0, help="memory of a device")
    args = parser.parse_args(arguments)
    if args.batch_size < 1 or args.batch_size % DEVICES:
        parser.error(f"--batch_size {args.batch_size}: must be a multiple of {DEVICES}, the number of devices")
    cases: dict[str, Callable[..., Any]] = {
        "scores": alignment_scores,
        "alignment": loss_and_gradients(Objective(alignment=1.0)),
        "alignment_and_distillation": loss_and_gradients(Objective(alignment=1.0, distillation=1.0)),
    }
    results = {}
    print(f"{'GB on each device':28}" + "".join(f"{kind:>10}" for kind in (*KINDS, "total")))
    for name, case in cases.items():
        sizes = memory(case, args.batch_size, args.hidden_size)
        fits = sizes["total"] <= args.limit_gb * 1e9
        print(
            f"{name:28}" + "".join(f"{size / 1e9:10.3f}" for size in sizes.values()),
            f" {'fits' if fits else 'DOES NOT FIT'} {args.limit_gb:g} GB",
        )
        results[name] = {"bytes_per_device": sizes, "fits": fits}
    lengths = {
        "pairs": args.batch_size,
        "devices": DEVICES,
        "regions": workload.MAX_REGIONS,
        "tokens": workload.MAX_CAPTION_LEN,
        "hidden_size": args.hidden_size,
    }
    print_report("memory", lengths, {"limit_bytes": args.limit_gb * 1e9, "cases": results})


def alignment_scores(images: ImageEmbeddings, captions: CaptionEmbeddings) -> jax.Array:
    """The matrix of all pairs alone, without gradients."""
    return similarity.alignment_scores(images.regions, images.region_len, captions.tokens, captions.caption_len)


def loss_and_gradients(objective: Objective) -> Callable[..., Any]:
    """The total loss, and its gradients with respect to the embeddings."""

    def total(images: ImageEmbeddings, captions: CaptionEmbeddings) -> jax.Array:
        return objective(images, captions, objective.init_params(), objective.losses)[0]

    return jax.value_and_grad(total, argnums=(0, 1), allow_int=True)


def memory(function: Callable[..., Any], pairs: int, hidden_size: int) -> dict[str, int]:
    """Bytes on each device, by kind and in total, of a function of a batch's embeddings."""
    divided = sharding.batch_sharding(sharding.make_mesh())

    def array(*shape: int, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct((pairs, *shape), dtype, sharding=divided)

    lengths = array(dtype=jnp.int32)
    images = ImageEmbeddings(array(hidden_size), array(workload.MAX_REGIONS, hidden_size), lengths)
    captions = CaptionEmbeddings(array(hidden_size), array(workload.MAX_CAPTION_LEN, hidden_size), lengths)
    analysis = jax.jit(function).lower(images, captions).compile().memory_analysis()
    sizes = {kind: int(getattr(analysis, f"{kind}_size_in_bytes")) for kind in KINDS}
    return sizes | {"total": sum(sizes.values())}


if __name__ == "__main__":
    main()
