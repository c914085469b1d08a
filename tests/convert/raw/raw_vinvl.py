"""VinVL's raw files, small and ready to be spoilt."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest

from aladin_jax.errors import DataError
from convert.raw.vinvl_files import VinvlFiles

E2E = Path(__file__).parents[2] / "golden" / "e2e"
GOLDEN_FEATURES = E2E / "model_0060000" / "features.tsv"


def read_rows(path, count):
    with open(path, "rb") as file:
        return [file.readline().removesuffix(b"\n").split(b"\t") for _ in range(count)]


class Raw:
    """The first four rows of the golden files, to be spoilt; row 2 is image 473681 with 6 boxes."""

    def __init__(self, folder):
        self.folder = folder
        self.features = read_rows(GOLDEN_FEATURES, 4)
        self.predictions = read_rows(GOLDEN_FEATURES.with_name("predictions.tsv"), 4)
        self.index = {row[0].decode(): number for number, row in enumerate(self.features)}

    def write(self):
        for name, rows in (("features", self.features), ("predictions", self.predictions)):
            lines = [b"\t".join(row) + b"\n" for row in rows]
            offsets = np.cumsum([0, *map(len, lines)])[:-1]
            (self.folder / f"{name}.tsv").write_bytes(b"".join(lines))
            (self.folder / f"{name}.lineidx").write_text("".join(f"{offset}\n" for offset in offsets))
        (self.folder / "imageid2idx.json").write_text(json.dumps(self.index))
        return self.folder / "features.tsv"

    def set_objects(self, row, objects):
        self.predictions[row][1] = json.dumps(objects).encode()

    def set_regions(self, row, regions):
        self.features[row][1] = str(len(regions)).encode()
        self.features[row][2] = base64.b64encode(regions.astype("<f4").tobytes())
        self.set_objects(row, [{"class": "cat"}] * len(regions))

    def regions(self, row):
        return np.frombuffer(base64.b64decode(self.features[row][2]), "<f4").reshape(-1, 2054).copy()


def refusal(path, image="473681", dtype=np.float32):
    with pytest.raises(DataError) as caught:
        VinvlFiles(path).detections(image, dtype)
    message = str(caught.value)
    assert "\n" not in message
    return message
