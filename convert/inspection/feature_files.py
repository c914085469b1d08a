"""Features in others' formats, read image by image as the converter reads them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from aladin_jax.errors import DataError
from convert.importing.caption_files import Uncaptioned
from convert.importing.source import FeatureFiles
from convert.inspection.tallies import Problems, RegionTally
from convert.inspection.texts import TextTally, Tokens

_KINDS = {
    "npz": "region features, an .npz an image",
    "npy": "region features, an .npy an array of each image",
    "bottom_up_tsv": "region features of bottom-up attention or LXMERT",
    "oscar_pt": "region features of Oscar, torch-saved",
    "oscar_tsv": "region features of Oscar, rows",
    "predictions": "region features in the detector's own predictions.tsv",
}


def inspect_feature_files(features: FeatureFiles, tokens: Tokens | None, max_regions: int) -> dict[str, Any]:
    """Reads all images as `convert.features` would, without captions.

    Args:
        features: of a format in `_KINDS`.
        tokens: a vocabulary for the tags, if there is one.
        max_regions: regions that training keeps of an image.

    Returns:
        What was found, as plain data.

    Raises:
        DataError: the files cannot be opened.
    """
    problems = Problems()
    tally = RegionTally(problems, max_regions)
    text = TextTally(tokens.tag_tally() if tokens else None)
    with features.open() as reader:
        try:
            Uncaptioned("test", reader.path, reader.names()).read()
        except DataError as error:
            problems.add("names that make one id", str(error))
        names: Sequence[str] = list(reader.names())
        for row, name in enumerate(tqdm(names, desc="images", unit="image", delay=2, mininterval=1, leave=False)):
            try:
                found = reader.detections(name)
            except DataError as error:
                problems.add("images that cannot be read", str(error))
                continue
            tally.add(found.regions, row, name)
            tally.add_tags(found.tags)
            text.add(" ".join(found.tags))
        described = tally.described()
        if not described["regions"]:
            problems.add("nothing was detected in any of the images", str(reader.path))
        described["tags"] |= text.described()
        return {
            "kind": _KINDS[str(features.format)],
            "path": str(Path(features.paths[0])),
            "notes": reader.notes,
            **described,
            "problems": problems.listed(),
        }
