"""Writes a trained model for PyTorch.

    python -m convert.export --workdir W --output checkpoint.pth.tar
    python -m convert.export --workdir W --output DIR --format safetensors

The first is what the original's test.py and `train.py --load-teacher-model` load; the second a folder with
model.safetensors and a model card.
"""

import argparse
import glob
import sys
from collections.abc import Sequence
from pathlib import Path

from aladin_jax.errors import DataError
from convert.command import run

_WEIGHTS = "model.safetensors"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m convert.export", description="Writes a model for PyTorch.")
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of a run, or a converted checkpoint")
    parser.add_argument("--output", type=Path, required=True, help="file (pytorch) or folder (safetensors) to write")
    parser.add_argument("--format", choices=("pytorch", "safetensors"), default="pytorch")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export at --output")
    return run(parser, _export, arguments, interrupted="interrupted; nothing was written")


def _export(options: argparse.Namespace) -> None:
    path, as_folder = options.output, options.format == "safetensors"
    _check_output(path, as_folder, options.overwrite)

    # Not at the top: JAX and PyTorch take seconds to import.
    import jax
    import torch
    from safetensors.torch import save

    from aladin_jax.files import make_folder, whole_file, whole_folder
    from aladin_jax.model_folder import read_caption_ending, write_description
    from aladin_jax.weights import read_weights
    from convert.model_card import model_card
    from convert.original import learned_scales, original_checkpoint, original_tensors, read_run

    jax.config.update("jax_platforms", "cpu")  # an accelerator has nothing to do here
    params, model_config, vocabulary, source, *_ = read_weights(options.workdir)
    run_of_model = read_run(options.workdir, model_config)
    tensors = original_tensors(params, model_config) | learned_scales(run_of_model)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    done = f"epoch {run_of_model.epoch}, {run_of_model.iterations} iterations"
    print(f"{source}: {len(tensors)} tensors ({numbers:,} numbers), {done}")
    if as_folder:
        card = model_card(run_of_model, model_config, numbers, options.workdir / "report.json")
        with whole_folder(path) as folder:
            (folder / _WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
            (folder / "README.md").write_text(card, encoding="utf-8")
            write_description(folder, model_config, vocabulary, read_caption_ending(options.workdir))
    else:
        make_folder(path.absolute().parent)
        _remove_leftovers(path.absolute())
        with whole_file(path) as file:
            torch.save(original_checkpoint(tensors, run_of_model), file)
    print(f"wrote {path}")


def _remove_leftovers(path: Path) -> None:
    """Removes what a killed export left of the file: its temporary name, see `whole_file`, has the process's number."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.split(".")[-2]
        if number.isdigit() and not Path("/proc", number).exists():
            left.unlink()
            print(f"removed {left}, which an export that was killed had left")


def _check_output(path: Path, as_folder: bool, overwrite: bool) -> None:
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise DataError(f"{path}: already exists; choose another name, or pass --overwrite to replace it")
    replaceable = (path / _WEIGHTS).is_file() if as_folder else path.is_file()
    if path.is_symlink() or not replaceable:
        raise DataError(f"{path}: is no earlier export, so --overwrite does not replace it; choose another name")


if __name__ == "__main__":
    sys.exit(main())
