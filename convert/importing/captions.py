"""Captions in the formats that their publishers chose: Karpathy's splits, COCO's annotations, Flickr's token files."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from aladin_jax.errors import DataError, shown
from aladin_jax.untrusted import check_image_id, check_text, parse_json, read_text
from convert.raw.split_captions import read_split_captions

COCO_DIGITS = 12  # of the names of COCO's pictures
KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "minival", "test": "test"}
"""Karpathy's name of a split, and ours; the original trains on `restval` too."""

_PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


class CaptionedImage(NamedTuple):
    """An image and what is said of it.

    Attributes:
        id: what its record will be called.
        names: what its features may be called, by kind of name.
        captions: at least one.
    """

    id: str
    names: dict[str, str]
    captions: list[str]


Images = dict[str, CaptionedImage]


def read_karpathy(path: Path, *, restval: bool) -> dict[str, Images]:
    """Reads `dataset_coco.json`, `dataset_flickr8k.json` or `dataset_flickr30k.json`.

    Args:
        path: the file.
        restval: whether `restval`, the rest of COCO's validation pictures, is part of `train`; else it is left out.

    Returns:
        Images by id, by split. An id is COCO's number, or where there is none the picture's name.

    Raises:
        DataError: naming the image and what is wrong with it.
    """
    splits: dict[str, Images] = {}
    seen: dict[str, int] = {}
    for position, image in enumerate(_list(_object(_read_json(path), path=path), "images", path=path)):
        where: dict[str, Any] = {"path": path, "image": f"number {position}"}
        _object(image, **where)
        number = image.get("cocoid")
        if number is not None and not _is_count(number):
            raise DataError(f"cocoid is {shown(number)}, expected a whole number", **where)
        described = _describe(check_text(image.get("filename"), "filename", **where), number, where)
        where["image"] = described.id
        if described.id in seen:
            raise DataError(f"image number {seen[described.id]} has this id too", "keep one of them", **where)
        seen[described.id] = position
        name = check_text(image.get("split"), "split", **where)
        if name not in KARPATHY_SPLITS:
            raise DataError(f"split {shown(name)}, expected one of {', '.join(KARPATHY_SPLITS)}", **where)
        if name == "restval" and not restval:
            continue
        sentences = _list(image, "sentences", **where)
        described.captions.extend(
            check_text(_object(sentence, **where).get("raw"), f"the raw text of sentence {k}", **where)
            for k, sentence in enumerate(sentences)
        )
        if not described.captions:
            raise DataError("no sentence", "add one or remove the image", **where)
        splits.setdefault(KARPATHY_SPLITS[name], {})[described.id] = described
    if not splits:
        raise DataError("no image", "check that it is the right file", path=path)
    return splits


def read_coco(path: Path) -> Images:
    """Reads `captions_*.json` of COCO: images by id, which is COCO's number, in the file's order.

    Images without captions are left out with a warning.

    Raises:
        DataError: naming the image or annotation and what is wrong with it.
    """
    content = _object(_read_json(path), path=path)
    images: Images = {}
    for position, image in enumerate(_list(content, "images", path=path)):
        where: dict[str, Any] = {"path": path, "image": f"number {position}"}
        number = _object(image, **where).get("id")
        if not _is_count(number):
            raise DataError(f"id is {shown(number)}, expected a whole number", **where)
        described = _describe(check_text(image.get("file_name"), "file_name", **where), number, where)
        if described.id in images:
            raise DataError("the id comes twice", "keep one of them", path=path, image=described.id)
        images[described.id] = described
    for position, annotation in enumerate(_list(content, "annotations", path=path)):
        what = f"annotation {position}"
        number = _object(annotation, path=path).get("image_id")
        if not _is_count(number) or str(number) not in images:
            raise DataError(f"{what} is of image {shown(number)}, which is not in the file", path=path)
        caption = check_text(annotation.get("caption"), f"caption of {what}", path=path, image=str(number))
        images[str(number)].captions.append(caption)
    captioned = {name: image for name, image in images.items() if image.captions}
    if not captioned:
        raise DataError("no image with a caption", "captions are in captions_*.json, not instances_*.json", path=path)
    if len(captioned) < len(images):
        logging.warning("%s: left out %d images without captions", path, len(images) - len(captioned))
    return captioned


def read_flickr(path: Path) -> Images:
    """Reads a token file of Flickr30k or Flickr8k: lines of `name.jpg#number`, a tab, and a caption.

    Returns:
        Images by id, which is the picture's name without its ending, in the file's order.

    Raises:
        DataError: naming the line and what is wrong with it.
    """
    images: Images = {}
    numbers: set[tuple[str, str]] = set()
    for row, line in enumerate(read_text(path).removesuffix("\n").split("\n")):
        where: dict[str, Any] = {"path": path, "row": row}
        head, tab, caption = line.removesuffix("\r").partition("\t")
        name, mark, number = head.rpartition("#")
        if not (tab and mark and number.isascii() and number.isdigit()):
            raise DataError(f"{shown(line)} is not name#number, a tab, and a caption", **where)
        described = _describe(name, None, where)
        if (described.id, number) in numbers:
            raise DataError(f"caption {number} comes twice", "keep one of them", **where, image=described.id)
        numbers.add((described.id, number))
        images.setdefault(described.id, described).captions.append(check_text(caption, "caption", **where))
    return images


def read_coco_ir(folder: Path) -> dict[str, Images]:
    """Reads VinVL's `{train,minival,test}_captions.pt`; see `coco_ir.read_split_captions`."""
    return {
        split: {image: CaptionedImage(image, _names(image, None), texts) for image, texts in images.items()}
        for split, images in read_split_captions(folder).items()
    }


def read_split_list(path: Path) -> list[str]:
    """Reads a list of images, one name or number a line, such as Flickr30k's train.txt or Flickr_8k.trainImages.txt.

    Raises:
        DataError: a line is not a name, or one comes twice.
    """
    names = []
    for row, line in enumerate(read_text(path).removesuffix("\n").split("\n")):
        names.append(check_image_id(_without_ending(line.removesuffix("\r").strip()), path=path, row=row))
    repeated = next((name for name, times in Counter(names).items() if times > 1), None)
    if repeated is not None:
        raise DataError("comes twice", "keep one line", path=path, image=repeated)
    return names


def divide(images: Images, lists: Mapping[str, Path], path: Path) -> dict[str, Images]:
    """Divides images into splits.

    Args:
        images: by id.
        lists: a file for `read_split_list`, by split. A line is an image's id or any of its names.
        path: where the images are from.

    Raises:
        DataError: a listed image has no captions, or is in two splits.
    """
    by_name = {name: image for image in images.values() for name in image.names.values()} | images
    split_of: dict[str, str] = {}
    splits: dict[str, Images] = {}
    for split, file in lists.items():
        for row, name in enumerate(read_split_list(file)):
            if name not in by_name:
                raise DataError(f"has no captions in {path}", "remove the line", path=file, row=row, image=name)
            image = by_name[name]
            if (other := split_of.setdefault(image.id, split)) != split:
                raise DataError(f"is in {other} too", "an image has one split", path=file, row=row, image=name)
            splits.setdefault(split, {})[image.id] = image
    left = len(images) - len(split_of)
    if left:
        logging.warning("%s: %d images with captions are in no split", path, left)
    return splits


def _describe(file_name: str, number: int | None, where: Mapping[str, Any]) -> CaptionedImage:
    stem = check_image_id(_without_ending(file_name), **where)
    return CaptionedImage(stem if number is None else str(number), _names(stem, number), [])


def _names(stem: str, number: int | None) -> dict[str, str]:
    """What features may be called: by COCO's number, as it is or with zeros before it, or by the picture's name."""
    if number is None and stem.isascii() and stem.isdigit():
        number = int(stem)
    if number is None:
        return {"the picture's name": stem}
    return {
        "the number": str(number),
        "the picture's name": stem,
        f"the number with {COCO_DIGITS} digits": f"{number:0{COCO_DIGITS}}",
    }


def _without_ending(file_name: str) -> str:
    stem, dot, ending = file_name.rpartition(".")
    return stem if f"{dot}{ending}".lower() in _PICTURES else file_name


def _read_json(path: Path) -> Any:
    return parse_json(read_text(path), path=path)


def _object(value: object, **where: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"found {shown(value)}, expected a JSON object", "check that it is the right file", **where)
    return value


def _list(value: Mapping[str, Any], name: str, **where: Any) -> list[Any]:
    if not isinstance(value.get(name), list):
        raise DataError(
            f"{name} is {shown(value.get(name))}, expected a list", "check that it is the right file", **where
        )
    return value[name]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 10**COCO_DIGITS
