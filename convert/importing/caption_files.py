"""Which files captions are read from, and which split each is of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from aladin_jax.errors import DataError, shown
from aladin_jax.image_names import NameIndex, image_ids
from aladin_jax.untrusted import check_name, parse_json, read_lines, read_text
from convert.importing.caption_lines import is_caption_line
from convert.importing.captions import (
    CaptionedImage,
    Images,
    is_caption_list,
    read_coco,
    read_coco_ir,
    read_flickr,
    read_karpathy,
    read_list,
)
from convert.raw.split_captions import SPLITS, captions_file

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


class Captions(NamedTuple):
    """What is said of images, or of images of which nothing is said.

    Attributes:
        splits: images by id, by split, in the order train, minival, test.
        origins: the file that each split is from, or for images without captions the folder or file that they are from.
    """

    splits: dict[str, Images]
    origins: dict[str, Path]


def read_caption_files(
    caption_format: str | None,
    files: Sequence[tuple[str | None, Path]],
    lists: Mapping[str, Path],
    *,
    restval: bool = True,
) -> Captions:
    """Reads captions as a user names them.

    Args:
        caption_format: one of `CAPTION_FORMATS`; None for what the first file is recognised as.
        files: each with its split; the split is None where `lists` or the file itself says it.
        lists: a list of images for each split, for files without.
        restval: whether Karpathy's `restval` is part of `train`.

    Raises:
        DataError: a file is missing or damaged, an image has two splits, or it is not said what split a file is of.
    """
    first = files[0][1]
    kind = caption_format or recognise_captions(first)
    if kind in _WITH_SPLITS:
        if len(files) > 1 or files[0][0] is not None or lists:
            problem = f"captions of the format {kind} are one path, and {_WITH_SPLITS[kind]} says"
            raise DataError(f"{problem} what the splits are", "name no split", path=first)
        found = read_karpathy(first, restval=restval) if kind == "karpathy" else read_coco_ir(first)
    elif lists:
        found = _divide(_read_together(files, _READERS[kind]), lists, first)
    else:
        found = _read_splits(files, _READERS[kind])
    origins = {split: next((path for name, path in files if name == split), first) for split in SPLITS}
    if kind == "coco_ir":
        origins = {split: captions_file(first, split) for split in SPLITS}
    for split, images in found.items():
        _keep_sound_caption_ids(images, origins[split])
    return Captions({split: found[split] for split in SPLITS if found.get(split)}, origins)


def uncaptioned(split: str, path: Path, names: Iterable[str]) -> Captions:
    """Images of which nothing is said, as one split: to be searched, not trained on.

    Args:
        split: which one.
        path: where the images are from.
        names: of the images.

    Raises:
        DataError: two names make one id.
    """
    images = {image: CaptionedImage(image, name, None, [], []) for image, name in image_ids(names, path).items()}
    return Captions({split: images}, dict.fromkeys(SPLITS, path))


def _read_together(files: Sequence[tuple[str | None, Path]], read: Callable[[Path], Images]) -> Images:
    """The images of all files, none of which has a split."""
    images: Images = {}
    for split, path in files:
        if split is not None:
            raise DataError("has a split, but there is --split_list too", "choose one of them", path=path)
        _add(images, read(path), path)
    return images


def _read_splits(files: Sequence[tuple[str | None, Path]], read: Callable[[Path], Images]) -> dict[str, Images]:
    """The images of files that each have a split."""
    splits: dict[str, Images] = {split: {} for split in SPLITS}
    for split, path in files:
        if split is None:
            remedy = f"write --captions SPLIT={path.name} (SPLIT: {', '.join(SPLITS)}), or use --split_list"
            raise DataError("it is not said which split it is", remedy, path=path)
        images = read(path)
        for other in SPLITS:
            if other != split and (both := images.keys() & splits[other].keys()):
                raise _in_two(min(both), path, images, other, splits[other])
        _add(splits[split], images, path)
    return splits


def _divide(images: Images, lists: Mapping[str, Path], path: Path) -> dict[str, Images]:
    """Divides images from `path` by lists: one a line, as in Flickr30k's train.txt, ids or names of pictures."""
    names = NameIndex(image.name for image in images.values())
    by_name = {image.name: image for image in images.values()}
    split_of: dict[str, str] = {}
    splits: dict[str, Images] = {}
    for split, file in lists.items():
        for row, line in enumerate(read_lines(file)):
            where: dict[str, Any] = {"path": file, "row": row}
            name = check_name(line, "the line", **where)
            image = images.get(name)
            if image is None and (found := names.find(name, **where)):
                image = by_name[found.name]
            if image is None:
                raise DataError(f"has no captions in {path}", "remove the line", **where, image=name)
            if (other := split_of.setdefault(image.id, split)) != split:
                raise DataError(f"is in {other} too", "an image has one split", **where, image=image.id)
            if image.id in splits.setdefault(split, {}):
                raise DataError("comes twice", "keep one line", **where, image=image.id)
            splits[split][image.id] = image
    left = len(images) - len(split_of)
    if left:
        logging.warning("%s: %d images with captions are in no split", path, left)
    return splits


def _keep_sound_caption_ids(images: Images, path: Path) -> None:
    """Forgets the captions' own ids, with a warning, unless every caption has one and no two have the same."""
    ids = [own for image in images.values() for own in image.caption_ids]
    known = [own for own in ids if own is not None]
    if len(known) == len(set(known)) == sum(len(image.captions) for image in images.values()):
        return
    for image in images.values():
        image.caption_ids.clear()
    if known:
        problem = "several captions have one id" if len(set(known)) < len(known) else "some captions have no id"
        logging.warning("%s: %s; the data set will have no caption ids", path, problem)


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
