"""COCO's own caption ids for data sets that have only the captions' order, found by the captions' texts."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError, shown
from aladin_jax.evaluation.retrieval import Collection
from aladin_jax.untrusted import parse_json, read_text

_RIGHT_FILE = "give COCO's captions_val2014.json, or the file that the captions are from"


def match_caption_ids(collection: Collection, path: Path) -> Collection:
    """Gives every caption the id of the annotation of its image that has its text.

    Texts are compared without regard to case and white space. Where an image has a text several times, these captions
    are the same to any model, and get their ids in the file's order.

    Args:
        collection: whose image ids are those of the file.
        path: `captions_*.json` of COCO: `{"annotations": [{"image_id", "id", "caption"}, ...]}`.

    Raises:
        DataError: the file is another, or a caption's text is not among its image's, or is there more often than among
            the captions, so that its id would be a guess.
    """
    annotations = _annotations(path)
    own: dict[tuple[str, str], list[int]] = defaultdict(list)
    for caption, image in enumerate(collection.image_of_caption.tolist()):
        own[collection.image_ids[image], _plain(collection.captions[caption])].append(caption)
    caption_ids = list(collection.caption_ids)
    for (image, text), captions in own.items():
        found = annotations.get((image, text), [])
        if len(found) != len(captions):
            problem = f"caption {shown(collection.captions[captions[0]])} is there {len(found)} times"
            raise DataError(f"{problem}, in the data set {len(captions)} times", _RIGHT_FILE, path=path, image=image)
        for caption, name in zip(captions, found, strict=True):
            caption_ids[caption] = name
    return collection._replace(caption_ids=caption_ids)


def _annotations(path: Path) -> dict[tuple[str, str], list[str]]:
    """Ids by image and text."""
    content = parse_json(read_text(path), path=path)
    listed = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise DataError("no list of annotations in it", _RIGHT_FILE, path=path)
    ids: dict[tuple[str, str], list[str]] = defaultdict(list)
    seen: set[str] = set()
    for position, annotation in enumerate(listed):
        image, name, text = _fields(annotation, f"annotation {position}", path)
        if name in seen:
            raise DataError(f"annotation {position} has id {name}, as another has", _RIGHT_FILE, path=path)
        seen.add(name)
        ids[image, _plain(text)].append(name)
    return ids


def _fields(annotation: Any, what: str, path: Path) -> tuple[str, str, str]:
    fields = annotation if isinstance(annotation, dict) else {}
    image, name, text = (fields.get(field) for field in ("image_id", "id", "caption"))
    if type(image) not in (int, str) or type(name) not in (int, str) or not isinstance(text, str):
        raise DataError(f"{what} has not image_id, id and caption", _RIGHT_FILE, path=path)
    return str(image), str(name), text


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
