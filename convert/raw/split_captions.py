"""Captions of all splits, as VinVL's users have them in one folder."""

from pathlib import Path

from absl import logging

from aladin_jax.errors import DataError
from convert.raw.vinvl_files import read_captions

SPLITS = ("train", "minival", "test")


def captions_file(coco_ir_dir: Path, split: str) -> Path:
    """Where a split's captions are."""
    return coco_ir_dir / f"{split}_captions.pt"


def read_split_captions(coco_ir_dir: Path) -> dict[str, dict[str, list[str]]]:
    """Reads `{train,minival,test}_captions.pt`: captions by split and image id.

    A split whose file is not there is left out, with a warning.

    Raises:
        DataError: there is no such folder, or none of the files in it, or one is damaged.
    """
    if not coco_ir_dir.is_dir():
        raise DataError("no such folder", "check the path of the captions", path=coco_ir_dir)
    found = [split for split in SPLITS if captions_file(coco_ir_dir, split).exists()]
    for split in SPLITS:
        if split not in found:
            logging.warning("%s: no such file, so there will be no split %s", captions_file(coco_ir_dir, split), split)
    if not found:
        names = ", ".join(captions_file(coco_ir_dir, split).name for split in SPLITS)
        raise DataError(f"none of {names}", "at least one is needed, check the path", path=coco_ir_dir)
    return {split: read_captions(captions_file(coco_ir_dir, split)) for split in found}
