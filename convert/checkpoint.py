"""Converts PyTorch weights to a model folder.

    python -m convert.checkpoint --vinvl DIR [--checkpoint FILE.pth.tar] --output DIR
    python -m convert.checkpoint --bert DIR --output DIR
    python -m convert.checkpoint --checkpoint EXPORT --output DIR

EXPORT is a folder that `convert.export --format safetensors` wrote.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convert.command import UsageError, run

if TYPE_CHECKING:
    from convert.sources import Checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m convert.checkpoint", description="Converts PyTorch weights to a model folder."
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--vinvl", type=Path, metavar="DIR", help="VinVL folder: config.json, pytorch_model.bin, ...")
    source.add_argument("--bert", type=Path, metavar="DIR", help="Hugging Face BERT folder, of any size")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="ALADIN checkpoint.pth.tar, whose weights win over --vinvl's, or a folder of convert.export",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--verify", action="store_true", help="compare the text stream with transformers' own BERT")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier model folder at --output")
    parser.add_argument("--seed", type=int, default=0, help="draws parameters that the source does not hold")
    parser.add_argument("--verbose", action="store_true", help="report every tensor, not one line for all layers")
    return run(parser, _convert, arguments, interrupted="interrupted; nothing was written")


def _convert(options: argparse.Namespace) -> None:
    given = [folder for folder in (options.vinvl, options.bert, options.checkpoint) if folder]
    exported = next((folder for folder in given if _is_export(folder)), None)
    if not given:
        raise UsageError("one of the arguments --vinvl --bert --checkpoint is required")
    if options.checkpoint and not options.vinvl and not exported:
        raise UsageError("--checkpoint goes with --vinvl, whose config.json and vocab.txt belong to it")
    if exported and len(given) > 1:
        raise UsageError(f"{exported} is an export of a whole model: give it alone")

    # Now that the options are known to be sound: JAX and PyTorch take seconds to import.
    import jax

    from aladin_jax.model_folder import check_output
    from convert.hugging_face import read_bert
    from convert.sources import read_export, read_vinvl

    jax.config.update("jax_platforms", "cpu")  # an accelerator has nothing to do here
    check_output(options.output, options.overwrite)
    with tempfile.TemporaryDirectory() as scratch:
        if exported:
            source = read_export(exported)
        elif options.bert:
            source = read_bert(options.bert, Path(scratch))
        else:
            source = read_vinvl(options.vinvl, options.checkpoint)
        _write(source, options)


def _write(source: Checkpoint, options: argparse.Namespace) -> None:
    from aladin_jax.files import sha256
    from aladin_jax.model_folder import save_model_folder
    from convert.conversion import convert
    from convert.optimizer import convert_progress
    from convert.report import format_report, report_data

    params, report = convert(source, options.seed)
    run_state = source.progress and convert_progress(source.progress, source.model_config, report.notes)
    if run_state:
        done = run_state.progress["epoch"]
        report.notes.append(f"Adam's state is kept: --config.resume_from={options.output} goes on after epoch {done}")
    print(format_report(report, source, verbose=options.verbose))
    provenance = {
        "files": [{"path": str(f), "bytes": f.stat().st_size, "sha256": sha256(f)} for f in source.files],
        "seed": options.seed,
        "tensors": report_data(report, source),
        **source.details,
    }
    if options.verify:
        from convert.verification import verify_text_stream

        verification = verify_text_stream(source, params)
        print(f"verified: {verification}")
        provenance["verified"] = verification._asdict()
    save_model_folder(
        options.output,
        params,
        source.model_config,
        source.vocabulary,
        provenance,
        run_state=run_state,
        caption_ending=source.caption_ending,
        overwrite=options.overwrite,
    )
    print(f"\nwrote {options.output}")


def _is_export(folder: Path) -> bool:
    """Whether a folder is one that `convert.export --format safetensors` wrote."""
    return (folder / "model.json").is_file() and (folder / "model.safetensors").is_file()


if __name__ == "__main__":
    sys.exit(main())
