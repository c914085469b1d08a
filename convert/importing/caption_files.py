"""Which files captions are read from, and which split each is of."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from aladin_jax.errors import DataError, shown
from aladin_jax.image_names import image_ids
from aladin_jax.untrusted import parse_json, read_text
from convert.importing.caption_lines import is_caption_line
from convert.importing.captions import (
    CaptionedImage,
    Images,
    divide,
    is_caption_list,
    keep_sound_caption_ids,
    read_coco,
    read_coco_ir,
    read_flickr,
    read_karpathy,
    read_list,
)
from convert.raw.split_captions import SPLITS

CAPTION_FORMATS = ("karpathy", "coco", "list", "flickr", "coco_ir")

_WITH_SPLITS = {"karpathy": "its file", "coco_ir": "its folder"}
_READERS = {"coco": read_coco, "list": read_list, "flickr": read_flickr}


def recognise_captions(path: Path) -> str:
    """Which of `CAPTION_FORMATS` a file or folder is of.

    Raises:
        DataError: there is no such file, it is no text, or nothing that is known here.
    """
    if found := find_captions(path):
        return found
    remedy = f"pass --captions_format: {', '.join(CAPTION_FORMATS)}"
    raise DataError("no captions that are known here", remedy, path=path)


def find_captions(path: Path) -> str | None:
    """`recognise_captions`, but None where nothing is known; reads no more than it has to."""
    if path.is_dir():
        return "coco_ir"
    text = read_text(path)
    start = text.lstrip()[:1]
    if start not in ("{", "["):
        return "flickr" if is_caption_line(text.partition("\n")[0].rstrip("\r")) else None
    for mark, name in (('"sentences"', "karpathy"), ('"annotations"', "coco")):
        if start == "{" and mark in text:
            return name
    return "list" if is_caption_list(parse_json(text, path=path)) else None


@dataclasses.dataclass(frozen=True)
class CaptionFiles:
    """Captions as a user names them.

    Attributes:
        format: one of `CAPTION_FORMATS`; None for what the first file is recognised as.
        files: each with its split; the split is None where `lists` or the file itself says it.
        lists: a list of images for each split, for files without.
        restval: whether Karpathy's `restval` is part of `train`.
    """

    format: str | None
    files: Sequence[tuple[str | None, Path]]
    lists: Mapping[str, Path]
    restval: bool = True

    def read(self) -> dict[str, Images]:
        """Images by id, by split, in the order train, minival, test.

        Raises:
            DataError: a file is missing or damaged, an image has two splits, or it is not said what split a file is of.
        """
        found = self._read()
        for split, images in found.items():
            keep_sound_caption_ids(images, self.origin(split))
        return {split: found[split] for split in SPLITS if found.get(split)}

    def origin(self, split: str) -> Path:
        """The file that a split's captions are from."""
        return next((path for name, path in self.files if name == split), self.files[0][1])

    def _read(self) -> dict[str, Images]:
        first = self.files[0][1]
        kind = self.format or recognise_captions(first)
        if kind in _WITH_SPLITS:
            if len(self.files) > 1 or self.files[0][0] is not None or self.lists:
                problem = f"captions of the format {kind} are one path, and {_WITH_SPLITS[kind]} says"
                raise DataError(f"{problem} what the splits are", "name no split", path=first)
            return read_karpathy(first, restval=self.restval) if kind == "karpathy" else read_coco_ir(first)
        read = _READERS[kind]
        if self.lists:
            images: Images = {}
            for split, path in self.files:
                if split is not None:
                    raise DataError("has a split, but there is --split_list too", "choose one of them", path=path)
                _add(images, read(path), path)
            return divide(images, self.lists, first)
        splits: dict[str, Images] = {split: {} for split in SPLITS}
        for split, path in self.files:
            if split is None:
                remedy = f"write --captions SPLIT={path.name} (SPLIT: {', '.join(SPLITS)}), or use --split_list"
                raise DataError("it is not said which split it is", remedy, path=path)
            images = read(path)
            for other in SPLITS:
                if other != split and (both := images.keys() & splits[other].keys()):
                    raise _in_two(min(both), path, images, other, splits[other])
            _add(splits[split], images, path)
        return splits


@dataclasses.dataclass(frozen=True)
class Uncaptioned:
    """Images that nothing is said of, as one split: to be searched, not trained on.

    Attributes:
        split: which one.
        path: where the images are from.
        names: of the images.
    """

    split: str
    path: Path
    names: Collection[str]

    def read(self) -> dict[str, Images]:
        """The images, without captions.

        Raises:
            DataError: two names make one id.
        """
        ids = image_ids(self.names, self.path)
        return {self.split: {image: CaptionedImage(image, name, None, [], []) for image, name in ids.items()}}

    def origin(self, split: str) -> Path:
        """Where the images are from."""
        del split
        return self.path


def _add(images: Images, more: Images, path: Path) -> None:
    if both := images.keys() & more.keys():
        raise _in_two(min(both), path, more, "another of the files", images)
    images |= more


def _in_two(image: str, path: Path, images: Images, other: str, others: Images) -> DataError:
    """What is wrong if two files have an id: one image in both, or two images that are numbered alike."""
    name, other_name = images[image].name, others[image].name
    if name != other_name:
        problem = f"is {shown(name)} here and {shown(other_name)} in {other}"
        return DataError(problem, "number the images of all files through", path=path, image=image)
    return DataError(f"is in {other} too", "an image has one split", path=path, image=image)
