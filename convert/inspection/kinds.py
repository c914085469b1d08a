"""What a path holds, told by the names of the files in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import NamedTuple

from aladin_jax.errors import DataError
from convert.inspection.captions_folder import has_captions

FEATURES, CAPTIONS, DATA_SET = "features", "captions", "data set"
TORCH_FOLDER, TORCH_FILE, MODEL_FOLDER = "torch folder", "torch file", "model folder"
EXPORT = "exported model"

_TORCH_ENDINGS = (".tar", ".pth", ".bin", ".pt", ".ckpt", ".safetensors")
_TORCH_FOLDER_FILES = ("config.json", "bert_config.json")
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of files that PyTorch wrote before 1.6
_DEPTH = 4  # a data set lies in output / name / configuration / version


class Thing(NamedTuple):
    """Something that can be inspected: one of the kinds above, and the file or folder that it is read from."""

    kind: str
    path: Path


def identify(path: Path) -> list[Thing]:
    """Finds what is at a path, or if there is nothing known at it, in the folders just below.

    Raises:
        DataError: there is nothing that is known here.
    """
    if not path.exists():
        raise DataError("no such file or folder", "check the path", path=path)
    found = _at(path)
    if not found and path.is_dir():
        children = sorted(child for child in path.iterdir() if not child.name.startswith((".", "incomplete.")))
        found = [thing for child in children for thing in _at(child)]
    if not found:
        raise DataError(
            "nothing known here",
            "expected features.tsv, *_captions.pt, a data set, or a checkpoint (config.json, model.json, *.pth.tar)",
            path=path,
        )
    return found


def _at(path: Path) -> list[Thing]:
    if path.is_file():
        if path.suffix == ".tsv" and path.with_name("predictions.tsv").is_file() and path.name != "predictions.tsv":
            return [Thing(FEATURES, path)]
        return [Thing(TORCH_FILE, path)] if path.suffix in _TORCH_ENDINGS or _is_torch(path) else []
    found = []
    if (path / "features.tsv").is_file():
        found.append(Thing(FEATURES, path / "features.tsv"))
    if has_captions(path):
        found.append(Thing(CAPTIONS, path))
    if (path / "model.json").is_file():
        found.append(Thing(EXPORT if (path / "model.safetensors").is_file() else MODEL_FOLDER, path))
    elif any((path / name).is_file() for name in _TORCH_FOLDER_FILES) or any(path.glob("*.ckpt*.index")):
        found.append(Thing(TORCH_FOLDER, path))
    if any(any(path.glob("*/" * depth + "dataset_info.json")) for depth in range(_DEPTH)):
        found.append(Thing(DATA_SET, path))
    return found


def _is_torch(path: Path) -> bool:
    """Whether a file's content is that of `torch.save`, whatever it is called."""
    with open(path, "rb") as file:
        if file.read(len(_LEGACY_START)) == _LEGACY_START:
            return True
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return False
