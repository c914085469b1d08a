"""The TFDS builder `coco_ir`: VinVL's files as records that can be read in any order, one an image."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from convert.dataset import made_from
from convert.dataset.record_builder import NAME, VERSION, Prepared, RecordBuilder, prepare_records
from convert.raw.split_captions import SPLITS, captions_file, read_split_captions
from convert.raw.vinvl_files import FEATURE_DIM, FoundFiles, VinvlFiles, check_image_keys


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
        with self.open(np.dtype(np.float32)) as files:
            for note in files.notes:
                logging.warning("%s", note)
            for split, images in captions.items():
                files.require(images, self.origin(split))
                for keys in sorted(self.coco_ir_dir.glob(f"{split}_img_keys*.tsv")):
                    check_image_keys(keys, images)

    @functools.cached_property
    def _found(self) -> FoundFiles:
        """Which rows there are; pickled with the source, so that processes that read do not look for them again."""
        with VinvlFiles(self.img_feat_file, feature_dim=self.feature_dim) as files:
            return files.found

    def open(self, dtype: np.dtype) -> VinvlFiles:
        """Opens the features."""
        return VinvlFiles(self.img_feat_file, feature_dim=self.feature_dim, dtype=dtype, found=self._found)


class CocoIr(RecordBuilder):
    """Builds `coco_ir` from a folder of captions and a folder of region features.

    Records stand in the order of the captions file. Images in which nothing was detected are left out and counted.
    """

    name = NAME
    VERSION = VERSION

    def __init__(
        self,
        *,
        coco_ir_dir: str | os.PathLike[str] | None = None,
        img_feat_file: str | os.PathLike[str] | None = None,
        feature_dim: int = FEATURE_DIM,
        **kwargs: Any,
    ):
        """Reads nothing yet.

        Args:
            coco_ir_dir: see `VinvlSource`; needed to build, as is the next.
            img_feat_file: see `VinvlSource`.
            feature_dim: width of a region.
            **kwargs: as `RecordBuilder` and every TFDS builder take; `data_dir` is where the data set is written.

        Raises:
            DataError: the data set is there already, with another width or type of regions.
        """
        source = None
        if coco_ir_dir is not None and img_feat_file is not None:
            source = VinvlSource(Path(coco_ir_dir), Path(img_feat_file), feature_dim)
        super().__init__(source=source, feature_dim=feature_dim, **kwargs)
        # What TFDS makes the builder from again after pickling.
        del self._original_state["source"]
        self._original_state |= {"coco_ir_dir": coco_ir_dir, "img_feat_file": img_feat_file}


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

    def make_builder(data_dir: str) -> CocoIr:
        return CocoIr(
            coco_ir_dir=coco_ir_dir,
            img_feat_file=img_feat_file,
            feature_dim=feature_dim,
            float16=float16,
            num_workers=num_workers,
            data_dir=data_dir,
        )

    captions = [captions_file(Path(coco_ir_dir), split) for split in SPLITS]
    sources = {"captions": captions, "features": made_from.with_companions(Path(img_feat_file))}
    made_of = made_from.describe(sources, {})  # its width and type are told by the data set itself
    return prepare_records(make_builder, output, made_of=made_of, overwrite=overwrite, beam_options=beam_options)
