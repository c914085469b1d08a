"""Features in others' formats, read image by image as the converter reads them."""

from typing import Any

from tqdm import tqdm

from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError
from aladin_jax.image_names import image_ids
from convert.inspection.tallies import Problems, RegionTally
from convert.raw.region_reader import RegionReader

_KINDS = {
    "npz": "region features, an .npz an image",
    "npy": "region features, an .npy an array of each image",
    "bottom_up_tsv": "region features of bottom-up attention or LXMERT",
    "oscar_pt": "region features of Oscar, torch-saved",
    "oscar_tsv": "region features of Oscar, rows",
    "predictions": "region features in the detector's own predictions.tsv",
}


def inspect_feature_files(
    reader: RegionReader, feature_format: str, tokenizer: CaptionTokenizer | None, max_regions: int
) -> dict[str, Any]:
    """Reads all images as `convert.features` would, without captions.

    Args:
        reader: of the features.
        feature_format: one of `_KINDS`.
        tokenizer: for the tags, if a vocabulary is known.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.
    """
    problems = Problems()
    tally = RegionTally(problems, max_regions, tokenizer)
    try:
        image_ids(reader.names(), reader.path)
    except DataError as error:
        problems.add("names that make one id", str(error))
    names = list(reader.names())
    for row, name in enumerate(tqdm(names, desc="images", unit="image", delay=2, mininterval=1, leave=False)):
        try:
            found = reader.detections(name)
        except DataError as error:
            problems.add("images that cannot be read", str(error))
            continue
        tally.add(found.regions, row, name)
        tally.add_tags(found.tags)
    described = tally.described()
    if not described["regions"]:
        problems.add("nothing was detected in any of the images", str(reader.path))
    return {
        "kind": _KINDS[feature_format],
        "path": str(reader.path),
        "notes": reader.notes,
        **described,
        "problems": problems.listed(),
    }
