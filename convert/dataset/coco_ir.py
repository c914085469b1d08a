"""The data set `coco_ir` of VinVL's files: records that can be read in any order, one an image."""

import functools
import os
from pathlib import Path
from typing import Any

from absl import logging

from convert.dataset import made_from
from convert.dataset.record_builder import Prepared, prepare_records
from convert.dataset.record_writer import RecordSource
from convert.importing.caption_files import read_caption_files
from convert.raw.split_captions import SPLITS, captions_file
from convert.raw.vinvl_files import FEATURE_DIM, VinvlFiles, check_image_keys


def prepare(
    coco_ir_dir: str | os.PathLike[str],
    img_feat_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    feature_dim: int = FEATURE_DIM,
    **options: Any,
) -> Prepared:
    """Builds the data set from VinVL's files unless it is there.

    Args:
        coco_ir_dir: folder of the captions.
        img_feat_file: path of features.tsv.
        output: folder for the data set.
        feature_dim: width of a region.
        **options: of `record_builder.prepare_records`.

    Raises:
        DataError: a file is not what it should be, or what is there is something else or being written.
    """
    folder, features = Path(coco_ir_dir), Path(img_feat_file)
    captions = [captions_file(folder, split) for split in SPLITS]
    # The width and type of regions are told by the data set itself.
    made_of = made_from.describe({"captions": captions, "features": made_from.with_companions(features)}, {})
    open_source = functools.partial(_open_source, folder, features, feature_dim)
    return prepare_records(feature_dim, open_source, output, made_of=made_of, **options)


def _open_source(folder: Path, features: Path, feature_dim: int) -> RecordSource:
    """Reads captions, finds features, and checks that all images have theirs, and keys captions."""
    captions = read_caption_files("coco_ir", [(None, folder)], {})
    files = VinvlFiles(features, feature_dim=feature_dim)
    for note in files.notes:
        logging.warning("%s", note)
    for split, images in captions.splits.items():
        files.require(images, captions.origins[split])
        for keys in sorted(folder.glob(f"{split}_img_keys*.tsv")):
            check_image_keys(keys, images)
    return RecordSource(captions, files.detections, feature_dim)
