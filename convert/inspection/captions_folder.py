"""A folder of captions as VinVL's users have it: captions by split, and lists of images to evaluate."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from pathlib import Path
from typing import Any

from aladin_jax.data.records import read_image_keys
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError
from convert.importing.caption_files import read_caption_files
from convert.importing.captions import Images
from convert.inspection.tallies import Problems
from convert.inspection.texts import TextTally, total
from convert.raw.split_captions import SPLITS, captions_file
from convert.raw.vinvl_files import read_captions

KINDS = {
    "coco_ir": "captions",
    "karpathy": "captions and splits in Karpathy's format",
    "coco": "captions in COCO's format",
    "list": "a list of captions",
    "flickr": "lines of captions",
}
"""What captions of each format are said to be."""


def inspect_captions(folder: Path, tokenizer: CaptionTokenizer | None) -> dict[str, Any]:
    """Reads `{train,minival,test}_captions.pt` and `*_img_keys*.tsv`.

    Args:
        folder: where they are.
        tokenizer: if a vocabulary is known.

    Returns:
        What was found, as plain data.
    """
    problems = Problems()
    captions: dict[str, dict[str, list[str]]] = {}
    found: dict[str, Any] = {}
    for split in SPLITS:
        path = captions_file(folder, split)
        if not path.is_file():
            found[split] = "no captions"
            continue
        try:
            captions[split] = read_captions(path)
        except DataError as error:
            problems.add("files that cannot be read", str(error))
            found[split] = "cannot be read"
            continue
        found[split] = describe_captions(captions[split], tokenizer, problems, split)
    report_shared({split: captions[split].keys() for split in captions}, problems)
    keys = {path.name: _inspect_keys(path, captions, problems) for path in sorted(folder.glob("*_img_keys*.tsv"))}
    return {"kind": KINDS["coco_ir"], "path": str(folder), **found, "image keys": keys, "problems": problems.listed()}


def inspect_caption_file(path: Path, caption_format: str, tokenizer: CaptionTokenizer | None) -> dict[str, Any]:
    """Reads a file of captions as `convert.features` would.

    Args:
        path: the file.
        caption_format: one of `CAPTION_FORMATS`.
        tokenizer: if a vocabulary is known.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: naming what is wrong with it.
    """
    problems = Problems()
    splits = read_caption_file(path, caption_format)
    found = {
        split: describe_captions({key: image.captions for key, image in images.items()}, tokenizer, problems, split)
        for split, images in splits.items()
    }
    return {"kind": KINDS[caption_format], "path": str(path), **found, "problems": problems.listed()}


def read_caption_file(path: Path, caption_format: str) -> dict[str, Images]:
    """Images of a file or folder by split; those of a file without splits as if they were all of one.

    Raises:
        DataError: it is damaged.
    """
    split = None if caption_format in ("karpathy", "coco_ir") else "test"
    splits = read_caption_files(caption_format, [(split, path)], {}).splits
    return splits if split is None else {"all": splits[split]}


def describe_captions(
    captions: dict[str, list[str]], tokenizer: CaptionTokenizer | None, problems: Problems, split: str
) -> dict[str, Any]:
    """What the captions of a split are like, as plain data."""
    text = TextTally(tokenizer)
    for image, texts in captions.items():
        for caption in texts:
            text.add(caption)
            if not caption.strip():
                problems.add("blank captions", f"{split}, image {image}")
        for caption, times in Counter(texts).items():
            if times > 1:
                problems.add("captions that an image has more than once", f"{split}, image {image}: {caption[:40]!a}")
    counts = Counter(len(texts) for texts in captions.values())
    return {
        "images": len(captions),
        "captions": total(counts),
        "captions an image": {str(number): times for number, times in sorted(counts.items())},
        **text.described(),
    }


def report_shared(ids: dict[str, Any], problems: Problems) -> None:
    """Puts images that several splits have among the problems."""
    for first, second in itertools.combinations(ids, 2):
        for image in sorted(ids[first] & ids[second]):
            problems.add("images in two splits", f"{image} in {first} and {second}")


def _inspect_keys(path: Path, captions: dict[str, dict[str, list[str]]], problems: Problems) -> str:
    try:
        keys = read_image_keys(path)
    except DataError as error:
        problems.add("files that cannot be read", str(error))
        return "cannot be read"
    split = next((split for split in SPLITS if path.name.startswith(f"{split}_")), None)
    if split not in captions:
        return f"{len(keys):,} images, of a split without captions"
    unknown = [key for key in keys if key not in captions[split]]
    for key in unknown:
        problems.add("image keys without captions", f"{key} in {path.name}")
    return f"{len(keys):,} of the {len(captions[split]):,} images of {split}" + (
        f"; {len(unknown)} have no captions there" if unknown else ""
    )


def has_captions(folder: Path) -> bool:
    """Whether a folder has captions of any split."""
    return any(os.path.exists(captions_file(folder, split)) for split in SPLITS)
