"""What a path holds, told by the names of files and by their first lines, and which command takes it."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import NamedTuple

from aladin_jax.errors import DataError
from convert.importing.caption_files import find_captions
from convert.importing.recognise import find_features
from convert.inspection.captions_folder import has_captions

FEATURES, CAPTIONS, DATA_SET = "features", "captions", "data set"
TORCH_FOLDER, TORCH_FILE, MODEL_FOLDER = "torch folder", "torch file", "model folder"
EXPORT = "exported model"
INDEX = "index"

_TORCH_ENDINGS = (".tar", ".pth", ".bin", ".pt", ".ckpt", ".safetensors")
_CAPTION_ENDINGS = (".json", ".txt", ".token", ".csv")
_TORCH_FOLDER_FILES = ("config.json", "bert_config.json")
_LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # of files that PyTorch wrote before 1.6
_DEPTH = 4  # a data set lies in output / name / configuration / version

_COMMANDS = {
    "data set": "python -m aladin_jax.main --config CONFIG --workdir RUN --config.data.dir={path}",
    "data set without captions": "python -m aladin_jax.search index --checkpoint MODEL --data {path} --output INDEX",
}


class Thing(NamedTuple):
    """Something that can be inspected.

    Attributes:
        kind: one of those above.
        path: the file or folder that it is read from.
        format: of features or captions, one of `FEATURE_FORMATS` or `CAPTION_FORMATS`.
    """

    kind: str
    path: Path
    format: str = ""


def command(thing: Thing, kind: str) -> str:
    """Which command takes a thing; `kind` is what its inspection found it to be."""
    path = shlex.quote(str(thing.path))
    if thing.kind == FEATURES and thing.format == "vinvl":
        return f"python -m convert.coco_ir --img_feat_file {path} --data_dir CAPTIONS --output DATA"
    if thing.kind == FEATURES:
        more = {"oscar_pt": " --labels LABELS", "oscar_tsv": " --labels LABELS"}.get(thing.format, "")
        return f"python -m convert.features --format {thing.format} --features {path}{more} --output DATA"
    if thing.kind == CAPTIONS and thing.format == "coco_ir":
        return f"python -m convert.coco_ir --data_dir {path} --img_feat_file FEATURES --output DATA"
    if thing.kind == CAPTIONS:
        split = "" if thing.format == "karpathy" else "SPLIT="
        return f"python -m convert.features --features FEATURES --captions {split}{path} --output DATA"
    if thing.kind == INDEX:
        return f"python -m aladin_jax.search query --index {path} WORDS; or serve, add, verify"
    return _COMMANDS.get(kind, "none").format(path=path)


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
            "expected features or captions (docs/features.md), a data set, or a checkpoint (config.json, model.json, "
            "*.pth.tar)",
            path=path,
        )
    return found


def _at(path: Path) -> list[Thing]:
    found = [Thing(FEATURES, features[1], features[0])] if (features := find_features(path)) else []
    if path.is_file():
        if found:
            return found
        if path.suffix in _CAPTION_ENDINGS and (captions := find_captions(path)):
            return [Thing(CAPTIONS, path, captions)]
        return [Thing(TORCH_FILE, path)] if path.suffix in _TORCH_ENDINGS or _is_torch(path) else []
    if (path / "manifest.json").is_file() and (path / "model").is_dir():
        return [Thing(INDEX, path)]
    if has_captions(path):
        found.append(Thing(CAPTIONS, path, "coco_ir"))
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
