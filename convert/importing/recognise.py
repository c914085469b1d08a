"""Which of the formats features are in, told by their files' names and first row."""

import os
import zipfile
from pathlib import Path

from aladin_jax.errors import DataError
from convert.importing.bottom_up import LAYOUTS

FEATURE_FORMATS = ("npz", "npy", "bottom_up_tsv", "oscar_pt", "oscar_tsv", "vinvl", "predictions")

_VINVL_FILES = {"vinvl": "features.tsv", "predictions": "predictions.tsv"}
_ROWS = 100  # the first may be of images in which nothing was detected
_HEAD_BYTES = 16 << 20


def recognise_features(path: Path, given: str | None = None) -> tuple[str, Path]:
    """Which of `FEATURE_FORMATS` a file or folder is of, and the path that its reader takes.

    Args:
        path: of the features; for VinVL's and the detector's files also the folder that they are in.
        given: the format that the user says; only the path is then made out, and which of VinVL's files it is.

    Raises:
        DataError: there is nothing, nothing that is known here, or another format than was given.
    """
    if given in _VINVL_FILES:
        for file in (path / name for name in _VINVL_FILES.values()) if path.is_dir() else (path,):
            if (found := find_features(file)) and found[0] in _VINVL_FILES:
                return found
    if given and not path.is_dir():
        return given, path
    found = find_features(path)
    if given is None:
        if found:
            return found
        if not path.exists():
            raise DataError("no such file or folder", "check the path of the features", path=path)
        raise DataError("no features that are known here", f"pass --format: {', '.join(FEATURE_FORMATS)}", path=path)
    if found and found[0] != given and not (given == "npz" and _first_file(path, ".npz")):
        use = f"python -m convert.features --format {found[0]} takes them"
        raise DataError(f"features in the format {found[0]}, not {given}", use, path=path)
    return given, path


def find_features(path: Path) -> tuple[str, Path] | None:
    """`recognise_features`, but None where there is nothing that is known."""
    if path.is_file():
        kind = _kind_of_tsv(path) if ".tsv" in path.suffixes else "oscar_pt" if path.name.endswith("feats.pt") else None
        return (kind, path) if kind else None
    if not path.is_dir():
        return None
    for name in _VINVL_FILES.values():
        if (path / name).is_file() and (found := find_features(path / name)):
            return found
    if _first_file(path / "features", ".npy"):
        return "npy", path
    if (first := _first_file(path, ".npz")) and _arrays(first) & {"features", "x"}:
        return "npz", path
    return None


def _first_file(folder: Path, ending: str) -> Path | None:
    if not folder.is_dir():
        return None
    with os.scandir(folder) as entries:
        return next((Path(entry.path) for entry in entries if entry.name.endswith(ending)), None)


def _arrays(path: Path) -> set[str]:
    """Names of the arrays in an .npz; none if it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError):
        return set()


def _kind_of_tsv(path: Path) -> str | None:
    """By the number of fields, and for a row of JSON by what it holds."""
    with open(path, "rb") as file:
        for _ in range(_ROWS):
            fields = file.readline(_HEAD_BYTES).split(b"\t")
            if len(fields) == 3:
                return "vinvl"
            if len(fields) in LAYOUTS:
                return "bottom_up_tsv"
            if len(fields) == 2 and b'"num_boxes"' in fields[1][:400] + fields[1][-400:]:
                return "oscar_tsv"
            if len(fields) == 2 and b'"feature"' in fields[1]:
                return "predictions"
    return None
