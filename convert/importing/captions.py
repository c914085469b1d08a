"""Captions in the formats that their publishers chose: Karpathy's splits, COCO's annotations, lists, lines of text.

`caption_files.py` puts the files of a data set together.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from aladin_jax.errors import DataError, shown
from aladin_jax.image_names import coco_number, image_id
from aladin_jax.untrusted import check_name, check_text, parse_json, read_text
from convert.importing.caption_lines import read_caption_lines
from convert.raw.split_captions import read_split_captions

KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "minival", "test": "test"}
"""Karpathy's name of a split, and ours; the original trains on `restval` too."""

_IMAGE_FIELDS = ("image", "file_name", "filename", "image_path", "image_id")  # of a list's entry; the first that it has
_CAPTION_FIELDS = ("caption", "captions", "sentences", "text")


class CaptionedImage(NamedTuple):
    """An image and what is said of it.

    Attributes:
        id: what its record will be called.
        name: of the picture; where a file has only a number for it, that.
        number: COCO's, or whatever a file calls it beside its name.
        captions: at least one, or none where nothing is said of any.
        caption_ids: what the file calls each caption; None where it does not.
    """

    id: str
    name: str
    number: str | None
    captions: list[str]
    caption_ids: list[str | None]

    @classmethod
    def of(cls, name: str, number: str | None = None) -> "CaptionedImage":
        """An image without captions yet: called by its number where there is one, else by its name."""
        number = number or coco_number(name)
        return cls(image_id(number or name), name, number, [], [])


Images = dict[str, CaptionedImage]


def read_karpathy(path: Path, *, restval: bool) -> dict[str, Images]:
    """Reads `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json` and others of that layout.

    Args:
        path: the file.
        restval: whether `restval`, the rest of COCO's validation pictures, is part of `train`; else it is left out.

    Returns:
        Images by id, by split. An id is COCO's number, or where there is none made of the picture's name.

    Raises:
        DataError: naming the image and what is wrong with it.
    """
    splits: dict[str, Images] = {}
    seen: dict[str, int] = {}
    for position, image in enumerate(_list(_object(_read_json(path), path=path), "images", path=path)):
        where: dict[str, Any] = {"path": path, "image": f"number {position}"}
        number = _number(_object(image, **where).get("cocoid"), "cocoid", **where)
        described = CaptionedImage.of(check_name(image.get("filename"), "filename", **where), number)
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
        described.captions.extend(_texts(sentences, "sentence", **where))
        described.caption_ids.extend(_number(sentence.get("sentid"), "sentid", **where) for sentence in sentences)
        if not described.captions:
            raise DataError("no sentence", "add one or remove the image", **where)
        splits.setdefault(KARPATHY_SPLITS[name], {})[described.id] = described
    if not splits:
        raise DataError("no image", "check that it is the right file", path=path)
    return splits


def read_coco(path: Path) -> Images:
    """Reads `captions_*.json` of COCO: images by id, made of the file's own ids, in the file's order.

    Images without captions are left out with a warning.

    Raises:
        DataError: naming the image or annotation and what is wrong with it.
    """
    content = _object(_read_json(path), path=path)
    images: Images = {}
    of_number: Images = {}
    for position, image in enumerate(_list(content, "images", path=path)):
        where: dict[str, Any] = {"path": path, "image": f"number {position}"}
        number = _number(_object(image, **where).get("id"), "id", **where)
        if number is None:
            raise DataError("it has no id", "annotations name images by their id", **where)
        name = check_name(image["file_name"], "file_name", **where) if "file_name" in image else number
        described = CaptionedImage.of(name, number)
        if described.id in images:
            raise DataError("the id comes twice", "keep one of them", path=path, image=described.id)
        images[described.id] = of_number[number] = described
    for position, annotation in enumerate(_list(content, "annotations", path=path)):
        what = f"annotation {position}"
        found = _object(annotation, path=path).get("image_id")
        number = _number(found, f"image_id of {what}", path=path)
        if number not in of_number:
            raise DataError(f"{what} is of image {shown(found)}, which is not in the file", path=path)
        image = of_number[number]
        image.captions.append(check_text(annotation.get("caption"), f"caption of {what}", path=path, image=image.id))
        image.caption_ids.append(_number(annotation.get("id"), f"id of {what}", path=path))
    captioned = {name: image for name, image in images.items() if image.captions}
    if not captioned:
        raise DataError("no image with a caption", "captions are in captions_*.json, not instances_*.json", path=path)
    if len(captioned) < len(images):
        logging.warning("%s: left out %d images without captions", path, len(images) - len(captioned))
    return captioned


def read_list(path: Path) -> Images:
    """Reads a JSON list of captions, as ALBEF, BLIP and Oscar have it, or an object from images to captions.

    An entry has the picture's name, or else the image's number, and one caption or a list of them; an image may have
    several entries. An id is COCO's number where the name has it, else made of the name. The `id` of an entry with one
    caption is that caption's.

    Raises:
        DataError: naming the entry and what is wrong with it.
    """
    content = _read_json(path)
    if isinstance(content, dict):
        content = [{"image": image, "caption": texts} for image, texts in content.items()]
    if not isinstance(content, list) or not content:
        found = "an empty list" if content == [] else shown(content)
        raise DataError(f"found {found}, expected a list of captions", "check that it is the right file", path=path)
    images: Images = {}
    for position, entry in enumerate(content):
        where: dict[str, Any] = {"path": path, "image": f"of entry {position}"}
        fields = _object(entry, **where).keys()
        image = next((name for name in _IMAGE_FIELDS if name in fields), None)
        texts = next((name for name in _CAPTION_FIELDS if name in fields), None)
        if image is None or texts is None:
            lacks, fields = ("picture", _IMAGE_FIELDS) if image is None else ("caption", _CAPTION_FIELDS)
            raise DataError(f"no {lacks}", f"it has to be one of {', '.join(fields)}", **where)
        name = _number(entry[image], image, **where)
        if name is None:
            raise DataError(f"{image} is null, expected a picture's name", "remove the entry", **where)
        captions = entry[texts] if isinstance(entry[texts], list) else [entry[texts]]
        caption_id = _number(entry.get("id"), "id", **where) if len(captions) == 1 else None
        add_captions(images, name, _texts(captions, texts, **where), [caption_id] * len(captions), **where)
    return images


def is_caption_list(content: object) -> bool:
    """Whether a file of this content may be read by `read_list`."""
    if isinstance(content, dict):
        texts = next(iter(content.values()), None)
        return isinstance(texts, list) and bool(texts) and isinstance(texts[0], str)
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and bool(first.keys() & {*_IMAGE_FIELDS}) and bool(first.keys() & {*_CAPTION_FIELDS})


def read_flickr(path: Path) -> Images:
    """Reads lines of text with an image and a caption each; see `caption_lines`.

    Returns:
        Images by id, which is made of the picture's name, in the file's order.

    Raises:
        DataError: naming the line and what is wrong with it.
    """
    images: Images = {}
    numbers: set[tuple[str, str]] = set()
    for line in read_caption_lines(path):
        where: dict[str, Any] = {"path": path, "row": line.row}
        caption_id = None if line.number is None else f"{line.name}#{line.number}"
        image = add_captions(images, line.name, [line.caption], [caption_id], **where)
        if line.number is not None and (image.id, line.number) in numbers:
            raise DataError(f"caption {line.number} comes twice", "keep one of them", **where, image=image.id)
        numbers.add((image.id, line.number or ""))
    return images


def read_coco_ir(folder: Path) -> dict[str, Images]:
    """Reads VinVL's `{train,minival,test}_captions.pt`; see `split_captions.read_split_captions`."""
    return {
        split: {image: CaptionedImage(image, image, None, texts, []) for image, texts in images.items()}
        for split, images in read_split_captions(folder).items()
    }


def add_captions(
    images: Images, name: str, captions: Iterable[str], caption_ids: Iterable[str | None], **where: Any
) -> CaptionedImage:
    """Adds captions, with an id or None for each, to the image of a name.

    Raises:
        DataError: another name has the image's id.
    """
    described = CaptionedImage.of(name)
    image = images.setdefault(described.id, described)
    if image.name != name:
        problem = f"{shown(image.name)} and {shown(name)} make one id"
        where = where | {"image": image.id}
        raise DataError(problem, "rename one, or write it in one way", **where)
    image.captions.extend(captions)
    image.caption_ids.extend(caption_ids)
    return image


def _texts(values: list[Any], what: str, **where: Any) -> list[str]:
    """Captions, bare or as the `raw` of an object."""
    if not values:
        raise DataError(f"no {what}", "add one or remove the image", **where)
    texts = []
    for position, value in enumerate(values):
        name = f"{what} {position}" if len(values) > 1 else what
        if what == "sentence" or isinstance(value, dict):
            name, value = f"the raw text of {what} {position}", _object(value, **where).get("raw")
        texts.append(check_text(value, name, **where))
    return texts


def _number(value: object, what: str, **where: Any) -> str | None:
    """What a file calls an image by: a whole number or a name; None if it does not."""
    if value is None:
        return None
    if type(value) is int and 0 <= value < 10**127:
        return str(value)
    if isinstance(value, str):
        return check_name(value, what, **where)
    raise DataError(f"{what} is {shown(value)}, expected a whole number or a name", **where)


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
