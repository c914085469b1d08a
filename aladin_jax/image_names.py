"""What images are called: one id for each name, and one way to find an image whose name is written otherwise elsewhere.

Names come from pictures' paths, from rows and files of features, and from captions. An id is made of a name alone, so
it stays the same whatever else is there. It is safe as a file's name, in a URL and as a key.
"""

import hashlib
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from aladin_jax.errors import DataError, shown

PICTURE_ENDINGS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .tif .tiff .gif .heic .heif .avif .jp2 .ppm .pgm .tga".split()  # noqa: SIM905
)
"""What a picture's name may end in, in small letters."""

FOLDER = "~"  # in ids, for the / of a name; no other id has it
MAX_ID_LENGTH = 128

_ID = re.compile(r"[A-Za-z0-9_.-]+(?:~[A-Za-z0-9_.-]+)+")  # one with folders, which is not mistaken for a name
_SPELLED = re.compile(r"(?!\.)[A-Za-z0-9_.-]+")
_PARTS = re.compile(f"[/{FOLDER}]")  # folders and the rest, of a name as of an id
_BARE = re.compile(r"(?:coco_)?(?:(?:train|val|test)20\d\d_)?0*([0-9]+)")
_AFTER_WORDS = re.compile(r"(?:[^\W\d_][^\W_]*[_-])+0*([0-9]+)")
_DIGEST_DIGITS = 12  # two of a million names share one with a probability of 1 in 500


def image_id(name: str) -> str:
    """Makes an image's id of its name.

    The name's ending goes, if it is a picture's; a folder is kept, `a/b.jpg` becomes `a~b`. In a folder's or file's
    name, characters other than A-Z a-z 0-9 _ . - become `_`, and a checksum of it follows: `a_b-0123456789ab`.

    Args:
        name: of a picture, with folders or without.

    Returns:
        1 to 128 of A-Z a-z 0-9 _ . - ~.

    Raises:
        DataError: nothing is left of it.
    """
    pieces = _plain(name).split("/")
    if pieces == [""]:
        raise DataError(f"{shown(name)} is no name of an image", "give it a name")
    spelled = FOLDER.join(piece if _SPELLED.fullmatch(piece) else _spell(piece) for piece in pieces)
    if len(spelled) <= MAX_ID_LENGTH:
        return spelled
    return f"{spelled[: MAX_ID_LENGTH - _DIGEST_DIGITS - 1]}-{_digest('/'.join(pieces))}"


def coco_number(name: str) -> str | None:
    """The number in one of COCO's own names, such as COCO_val2014_000000391895.jpg; None if it is another name."""
    found = re.fullmatch(r"coco_(?:train|val|test)20\d\d_0*([0-9]+)", _PARTS.split(_plain(name))[-1].casefold())
    return found[1] if found else None


def image_ids(names: Iterable[str], path: Path) -> dict[str, str]:
    """The ids of names, none of which may be another's.

    Args:
        names: different from each other; one that is an id with folders already, as files of features have, stays.
        path: where they are from.

    Returns:
        Names by id, in their order.

    Raises:
        DataError: two names make one id.
    """
    name_of: dict[str, str] = {}
    for name in names:
        image = name if _ID.fullmatch(name) and _without_ending(name) == name else image_id(name)
        if (other := name_of.setdefault(image, name)) != name:
            raise DataError(f"{shown(other)} and {shown(name)} make one id", "rename one", path=path, image=image)
    return name_of


def find_files(folder: Path) -> Iterator[str]:
    """Paths of the files in a folder and the folders in it; hidden ones are passed by."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if not file.startswith("."):
                yield (Path(place) / file).relative_to(folder).as_posix()


def is_picture(name: str) -> bool:
    """Whether a file is called like a picture, by its ending."""
    return os.path.splitext(name)[1].lower() in PICTURE_ENDINGS


class Found(NamedTuple):
    """An image that was sought: what it is called there, and how much of the name had to be left out to find it."""

    name: str
    how: str


class NameIndex:
    """Finds images by names that may be written otherwise.

    A name is first taken as it is, then without its ending, as an id, without its folders, whatever the case, and last
    as a number, without zeros and words before it. The first way that finds an image counts, and has to find one only.
    Two names with folders are the same only if the one's folders end as the other's do.
    """

    HOW = (
        "as they are called",
        "by the name without its ending",
        "by the id that is made of the name",
        "by the name without its folder",
        "by the name in capital or small letters",
        "by the number in the name",
    )

    def __init__(self, names: Iterable[str]):
        """Takes the names in."""
        self._by_key: tuple[defaultdict[str, list[str]], ...] = tuple(defaultdict(list) for _ in self.HOW)
        self._after_words: defaultdict[str, list[str]] = defaultdict(list)
        for name in names:
            keys = _keys(name)
            for names_of, key in zip(self._by_key, keys, strict=True):
                if key:
                    names_of[key].append(name)
            if number := _number(keys[4], words=True):
                self._after_words[number].append(name)

    def find(self, name: str, number: str | None = None, **where: Any) -> Found | None:
        """Finds the image of a name.

        Args:
            name: of the picture.
            number: of the picture beside its name, such as COCO's.
            **where: what `DataError` takes to say where the name is from.

        Raises:
            DataError: several images could be meant.
        """
        keys = _keys(name)
        last = len(self.HOW) - 1
        level, found = next(((k, some) for k in range(last) if (some := self._at(k, keys[k], name))), (1, []))
        if number and (level > 0 or not found):  # at level 0 nothing is meant but the very name
            found = [*found, *self._at(1, _plain(number))]
        if not found:
            level = last
            found = [*self._at(last, keys[last], name), *(self._at(last, _number(number)) if number else [])]
        if not found:  # words before a number count only beside a bare number
            bare, after_words = keys[last], _number(keys[4], words=True)
            found = self._after_words[bare] if bare else self._at(last, after_words)
            found = [other for other in found if _same_folder(name, other)]
        several = list(dict.fromkeys(found))
        if len(several) > 1:
            sought = f"{shown(name)} (number {number})" if number else shown(name)
            may_be = " or ".join(shown(other) for other in several[:3])
            raise DataError(f"{sought} may be {may_be}", "rename what is not meant", **where)
        return Found(several[0], self.HOW[level]) if several else None

    def _at(self, level: int, key: str, name: str = "") -> list[str]:
        names = self._by_key[level].get(key, []) if key else []
        return names if level < 3 else [other for other in names if _same_folder(name, other)]


def _keys(name: str) -> tuple[str, ...]:
    """What a name is compared by, one key for each of `NameIndex.HOW`; an empty one is none."""
    plain = _plain(name)
    image = "" if not plain else name if _ID.fullmatch(name) else image_id(name)
    stem = _PARTS.split(plain)[-1].casefold()
    return name, plain, image, image.rpartition(FOLDER)[2], stem, _number(stem)


def _number(stem: str, *, words: bool = False) -> str:
    """The number that a name in small letters is: bare or COCO's, or else with any words before it. Empty for none."""
    found = (_AFTER_WORDS if words else _BARE).fullmatch(stem)
    return found[1] if found else ""


def _same_folder(one: str, other: str) -> bool:
    """Whether one's folders end as the other's do, or one of them names none, or both have COCO's own names."""
    (*first, stem), (*second, _) = (_PARTS.split(_plain(name)) for name in (one, other))
    common = min(len(first), len(second))
    return first[len(first) - common :] == second[len(second) - common :] or stem.casefold().startswith("coco_")


def _plain(name: str) -> str:
    return _without_ending(_tidy(name))


def _tidy(name: str) -> str:
    """A name relative to whatever root, with / between folders and letters composed."""
    name = unicodedata.normalize("NFC", name).replace("\\", "/")
    name = re.sub(r"^[A-Za-z]:/", "", name).strip()
    return re.sub(r"^(?:\.{0,2}/)+|^\.{1,2}$", "", posixpath.normpath(name)) if name else ""


def _without_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem if stem.rpartition("/")[2] and f"{dot}{ending}".lower() in PICTURE_ENDINGS else name


def _spell(piece: str) -> str:
    letters = re.sub(r"^\.|[^A-Za-z0-9_.-]+", "_", piece)
    return f"{letters}-{_digest(piece)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_DIGITS]
