"""What every reader of region features has in common, whatever the files' format."""

import abc
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from convert.raw.detections import Detections


class RegionReader(abc.ABC):
    """Random access to the images of a file or folder of features. It needs no closing, and it pickles.

    Attributes:
        path: what a message names.
        notes: what the user should know of the files, one line each.
        made: how the features were made, where the files say; see `FoundFiles.begin`.
    """

    def __init__(self, path: Path):
        self.path = path
        self.notes: list[str] = []
        self.made: Mapping[str, Any] | None = None
        self._names: Collection[str] = ()

    def names(self) -> Collection[str]:
        """What the images are called there."""
        return self._names

    @abc.abstractmethod
    def detections(self, name: str) -> Detections:
        """Reads one image; no regions and no tags where nothing was detected.

        Raises:
            DataError: the image is not there or is damaged: names the file, the row and the image.
        """

    def note(self, *lines: str) -> None:
        """Adds what the user should know, each line once."""
        self.notes += [line for line in lines if line not in self.notes]
