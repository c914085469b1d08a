"""Converts PyTorch weights to a model folder.

python -m convert.checkpoint --vinvl DIR [--checkpoint FILE.pth.tar] --output DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from aladin_jax.model_folder import check_output, save_model_folder
from convert.conversion import convert
from convert.report import format_report, report_data
from convert.sources import read_vinvl
from convert.torch_files import sha256

_MAX_MESSAGE = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m convert.checkpoint", description="Converts PyTorch weights to a model folder."
    )
    parser.add_argument("--vinvl", type=Path, required=True, metavar="DIR", help="VinVL folder: config.json, ...")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="ALADIN checkpoint.pth.tar, whose weights win")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier model folder at --output")
    parser.add_argument("--seed", type=int, default=0, help="draws parameters that the source does not hold")
    parser.add_argument("--verbose", action="store_true", help="report every tensor, not one line for all layers")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # an accelerator has nothing to do here
    try:
        _convert(options)
    except (ValueError, OSError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _convert(options: argparse.Namespace) -> None:
    check_output(options.output, options.overwrite)
    source = read_vinvl(options.vinvl, options.checkpoint)
    params, report = convert(source, options.seed)
    print(format_report(report, source, verbose=options.verbose))
    provenance = {
        "files": [{"path": str(f), "bytes": f.stat().st_size, "sha256": sha256(f)} for f in source.files],
        "seed": options.seed,
        "tensors": report_data(report, source),
        **source.details,
    }
    save_model_folder(
        options.output,
        params,
        source.model_config,
        source.vocabulary,
        provenance,
        overwrite=options.overwrite,
    )
    print(f"\nwrote {options.output}")


def _one_line(error: Exception) -> str:
    """The message without line ends and escape sequences, which names in a file may hold."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error)[:_MAX_MESSAGE])
    return text + ("..." if len(str(error)) > _MAX_MESSAGE else "")


if __name__ == "__main__":
    sys.exit(main())
