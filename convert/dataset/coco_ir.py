"""The data set `coco_ir` of VinVL's files: records that can be read in any order, one an image."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from numpy.typing import DTypeLike

from convert.dataset import made_from
from convert.dataset.record_builder import Prepared, prepare_records
from convert.raw.detections import Detections
from convert.raw.split_captions import SPLITS, captions_file, read_split_captions
from convert.raw.vinvl_files import FEATURE_DIM, VinvlFiles, check_image_keys


@dataclasses.dataclass(frozen=True)
class VinvlSource:
    """A folder of captions and a folder of region features, as VinVL's users have them.

    Attributes:
        coco_ir_dir: folder with `{train,minival,test}_captions.pt` and `*_img_keys*.tsv`; a split whose captions are
            not there is left out.
        img_feat_file: path of features.tsv; its index and predictions.tsv lie beside it, where they are.
        feature_dim: width of a region.
    """

    coco_ir_dir: Path
    img_feat_file: Path
    feature_dim: int

    def captions(self) -> dict[str, dict[str, list[str]]]:
        """Captions by split and image id.

        Raises:
            DataError: no split has captions, or a file of them is damaged.
        """
        return read_split_captions(self.coco_ir_dir)

    def caption_ids(self) -> dict[str, dict[str, list[str]]]:
        """None: the files have the captions' order only."""
        return {}

    def origin(self, split: str) -> Path:
        """The split's captions."""
        return captions_file(self.coco_ir_dir, split)

    def check(self, captions: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Checks that images have features and keys have captions.

        Raises:
            DataError: a file is missing or wrong, or files do not belong together.
        """
        for note in self._files.notes:
            logging.warning("%s", note)
        for split, images in captions.items():
            self._files.require(images, self.origin(split))
            for keys in sorted(self.coco_ir_dir.glob(f"{split}_img_keys*.tsv")):
                check_image_keys(keys, images)

    def detections(self, image: str, dtype: DTypeLike) -> Detections:
        """Reads one image; see `VinvlFiles`."""
        return self._files.detections(image, dtype)

    @functools.cached_property
    def _files(self) -> VinvlFiles:
        """The features; pickled with the source, so that processes that read do not look for the rows again."""
        return VinvlFiles(self.img_feat_file, feature_dim=self.feature_dim)


def prepare(
    coco_ir_dir: str | os.PathLike[str],
    img_feat_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    feature_dim: int = FEATURE_DIM,
    float16: bool = False,
    overwrite: bool = False,
    num_workers: int = 1,
    beam_options: Any = None,
) -> Prepared:
    """Builds the data set from VinVL's files unless it is there; see `record_builder.prepare_records`.

    Raises:
        DataError: a file is not what it should be, or what is there is something else or being written.
    """
    captions = [captions_file(Path(coco_ir_dir), split) for split in SPLITS]
    sources = {"captions": captions, "features": made_from.with_companions(Path(img_feat_file))}
    made_of = made_from.describe(sources, {})  # its width and type are told by the data set itself
    return prepare_records(
        VinvlSource(Path(coco_ir_dir), Path(img_feat_file), feature_dim),
        output,
        made_of=made_of,
        float16=float16,
        overwrite=overwrite,
        num_workers=num_workers,
        beam_options=beam_options,
    )
