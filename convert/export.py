"""Writes a trained model for PyTorch.

    python -m convert.export --workdir W --output checkpoint.pth.tar
    python -m convert.export --workdir W --output DIR --format safetensors

The first is what the original's test.py and `train.py --load-teacher-model` load; the second a folder with
model.safetensors and a model card.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jax
import torch
from safetensors.torch import save

from aladin_jax.files import check_local_options, put_in_place
from aladin_jax.model_folder import read_caption_ending, write_description
from aladin_jax.pretrained import read_weights
from convert.messages import one_line
from convert.model_card import model_card
from convert.original import Run, learned_scales, original_checkpoint, original_tensors, read_run

_WEIGHTS = "model.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m convert.export", description="Writes a model for PyTorch.")
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run, or a converted checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="file (pytorch) or folder (safetensors) to write")
    parser.add_argument("--format", choices=("pytorch", "safetensors"), default="pytorch")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at --output")
    options = parser.parse_args(arguments)
    jax.config.update("jax_platforms", "cpu")  # an accelerator has nothing to do here
    try:
        check_local_options(options)
        _export(options)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _export(options: argparse.Namespace) -> None:
    as_folder = options.format == "safetensors"
    _check_output(options.output, as_folder, options.overwrite)
    params, model_config, vocabulary, source = read_weights(options.workdir)
    run = read_run(options.workdir, model_config)
    tensors = original_tensors(params, model_config) | learned_scales(run)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    print(f"{source}: {len(tensors)} tensors ({numbers:,} numbers), epoch {run.epoch}, {run.iterations} iterations")
    with _unfinished(options.output) as unfinished:
        if as_folder:
            card = model_card(run, model_config, numbers, options.workdir / "report.json")
            _write_folder(unfinished, tensors, card)
            write_description(unfinished, model_config, vocabulary, read_caption_ending(options.workdir))
        else:
            _write_checkpoint(unfinished, tensors, run)
    print(f"wrote {options.output}")


def _write_checkpoint(path: Path, tensors: dict[str, torch.Tensor], run: Run) -> None:
    with open(path, "wb") as file:  # opened here: the archive would otherwise be named after the temporary file
        torch.save(original_checkpoint(tensors, run), file)


def _write_folder(path: Path, tensors: dict[str, torch.Tensor], card: str) -> None:
    path.mkdir()
    (path / _WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    (path / "README.md").write_text(card, encoding="utf-8")


def _check_output(path: Path, as_folder: bool, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise ValueError(f"{path}: already exists; choose another name, or pass --overwrite to replace it")
    replaceable = (path / _WEIGHTS).is_file() if as_folder else path.is_file()
    if path.is_symlink() or not replaceable:
        raise ValueError(f"{path}: is no earlier export, so --overwrite does not replace it; choose another name")


@contextmanager
def _unfinished(path: Path) -> Iterator[Path]:
    """A name beside `path` to write under; it becomes `path` at the end, or is removed if writing fails."""
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    _remove(unfinished)  # left by an export that was killed
    try:
        yield unfinished
        if unfinished.is_dir():
            put_in_place(unfinished, path)
        else:
            os.replace(unfinished, path)
    finally:
        _remove(unfinished)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
