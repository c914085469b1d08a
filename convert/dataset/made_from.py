"""What a data set was made from: kept in it as made_from.json, and held against what a second preparation names.

Files are told apart by name and size and, up to 64 MB, by what is in them; larger ones, and those of a folder with
many, by when they were written. Where they lie does not matter.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError
from aladin_jax.files import read_json, sha256

MADE_FROM = "made_from.json"

_MAX_HASHED = 64 << 20
_MAX_LISTED = 50  # files of a folder that are kept one by one
_COMPANIONS = ("imageid2idx.json", "predictions.tsv")  # of a features.tsv


def describe(sources: Mapping[str, Iterable[Path]], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a preparation is to be made from.

    Args:
        sources: files and folders by what they are, such as "captions"; those that are not there are passed over.
        options: all that decides what is made of them.

    Returns:
        {"options": {...}, "files": {"captions/NAME": {...}}}, as JSON holds it.
    """
    files: dict[str, Any] = {}
    for kind, paths in sources.items():
        for path in paths:
            if path.is_dir():
                files |= _folder(f"{kind}/{path.resolve().name}", path)
            elif path.is_file():
                files[f"{kind}/{path.name}"] = _file(path)
    return {"options": json.loads(json.dumps(dict(options))), "files": files}


def with_companions(path: Path) -> list[Path]:
    """A file of features, and what belongs to it beside it."""
    names = _COMPANIONS if path.name == "features.tsv" else ()
    return [path, *(path.with_name(name) for name in names)]


def check(folder: Path, now: Mapping[str, Any]) -> bool:
    """Holds a data set that is there against what it is to be made from.

    Args:
        folder: its version folder.
        now: from `describe`.

    Returns:
        Whether it says what it was made from; those of earlier versions do not.

    Raises:
        DataError: it was made from something else.
    """
    file = folder / MADE_FROM
    if not file.is_file():
        return False
    before = read_json(file)
    if told := _differences(before, now):
        more = f"; and {len(told) - 3} more" if len(told) > 3 else ""
        remedy = "pass --overwrite to make it anew, or choose another --output"
        raise DataError(f"there already, made from something else ({'; '.join(told[:3])}{more})", remedy, path=folder)
    return True


def _file(path: Path) -> dict[str, Any]:
    stat = path.stat()
    found: dict[str, Any] = {"path": str(path.absolute()), "bytes": stat.st_size, "written": stat.st_mtime_ns}
    return found | ({"sha256": sha256(path)} if stat.st_size <= _MAX_HASHED else {})


def _folder(name: str, folder: Path) -> dict[str, Any]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    if len(paths) <= _MAX_LISTED:
        return {f"{name}/{path.relative_to(folder)}": _file(path) for path in paths}
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
    listed = "".join(f"{path} {stat.st_size} {stat.st_mtime_ns}\n" for path, stat in stats)
    return {
        name: {
            "path": str(folder.absolute()),
            "files": len(paths),
            "bytes": sum(stat.st_size for _, stat in stats),
            "listing": hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest(),
        }
    }


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    told = []
    options, files = before.get("options", {}), before.get("files", {})
    for name in sorted(options.keys() | now["options"].keys()):
        was, is_now = options.get(name), now["options"].get(name)
        if was != is_now:
            told.append(f"{name} was {was!r}, is {is_now!r}")
    for name in sorted(files.keys() | now["files"].keys()):
        if name not in now["files"]:
            told.append(f"{name} is not among the sources any more")
        elif name not in files:
            told.append(f"{name} is new")
        elif reason := _difference(files[name], now["files"][name]):
            told.append(f"{name} {reason}")
    return told


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before.get("files") != now.get("files"):
        return f"had {before.get('files')} files, has {now.get('files')}"
    if before.get("bytes") != now.get("bytes"):
        return f"had {before.get('bytes'):,} bytes, has {now.get('bytes'):,}"
    if "sha256" in before and "sha256" in now:
        return "" if before["sha256"] == now["sha256"] else "has other content"
    if before.get("listing") != now.get("listing"):
        return "has files of other names, sizes or times"
    if before.get("written") != now.get("written"):
        return f"was written {_when(before)}, is written {_when(now)}"
    return ""


def _when(file: Mapping[str, Any]) -> str:
    return datetime.datetime.fromtimestamp(file["written"] / 1e9).isoformat(" ", "seconds")
