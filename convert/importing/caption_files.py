"""Which files captions are read from, and which split each is of."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from aladin_jax.errors import DataError
from convert.importing.captions import (
    CaptionedImage,
    Images,
    divide,
    read_coco,
    read_coco_ir,
    read_flickr,
    read_karpathy,
)
from convert.raw.split_captions import SPLITS

CAPTION_FORMATS = ("karpathy", "coco", "flickr", "coco_ir")

_WITH_SPLITS = {"karpathy": "its file", "coco_ir": "its folder"}


@dataclasses.dataclass(frozen=True)
class CaptionFiles:
    """Captions as a user names them.

    Attributes:
        format: one of `CAPTION_FORMATS`.
        files: each with its split; the split is None where `lists` or the file itself says it.
        lists: a list of images for each split, for files without.
        restval: whether Karpathy's `restval` is part of `train`.
    """

    format: str
    files: Sequence[tuple[str | None, Path]]
    lists: Mapping[str, Path]
    restval: bool = True

    def read(self) -> dict[str, Images]:
        """Images by id, by split, in the order train, minival, test.

        Raises:
            DataError: a file is missing or damaged, an image has two splits, or it is not said what split a file is of.
        """
        found = self._read()
        return {split: found[split] for split in SPLITS if found.get(split)}

    def origin(self, split: str) -> Path:
        """The file that a split's captions are from."""
        return next((path for name, path in self.files if name == split), self.files[0][1])

    def _read(self) -> dict[str, Images]:
        first = self.files[0][1]
        if self.format in _WITH_SPLITS:
            if len(self.files) > 1 or self.files[0][0] is not None or self.lists:
                problem = f"captions of the format {self.format} are one path, and {_WITH_SPLITS[self.format]} says"
                raise DataError(f"{problem} what the splits are", "name no split", path=first)
            return read_karpathy(first, restval=self.restval) if self.format == "karpathy" else read_coco_ir(first)
        read = {"coco": read_coco, "flickr": read_flickr}[self.format]
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
                    raise DataError(f"is in {other} too", "an image has one split", path=path, image=min(both))
            _add(splits[split], images, path)
        return splits


@dataclasses.dataclass(frozen=True)
class Uncaptioned:
    """Images that nothing is said of, as one split: to be searched, not trained on.

    Attributes:
        split: which one.
        path: where the images are from.
        ids: of the images.
    """

    split: str
    path: Path
    ids: Sequence[str]

    def read(self) -> dict[str, Images]:
        """The images, without captions."""
        kind = "the picture's name"
        return {self.split: {image: CaptionedImage(image, {kind: image}, []) for image in self.ids}}

    def origin(self, split: str) -> Path:
        """Where the images are from."""
        del split
        return self.path


def _add(images: Images, more: Images, path: Path) -> None:
    if both := images.keys() & more.keys():
        raise DataError("is in another of the files too", "keep one of them", path=path, image=min(both))
    images |= more
