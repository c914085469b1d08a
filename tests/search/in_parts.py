"""Makes an index of drawn scenes in three parts: python -m tests.search.in_parts FOLDER OUTPUT."""

import sys
from pathlib import Path

PART_IMAGES = 8


def build(folder, output):
    """Makes the index; `folder` is that of the fixture `scenes_folder`."""
    from aladin_jax.config import Settings
    from aladin_jax.pretrained import load
    from aladin_jax.search.indexing import Contents, create_index

    model = load(folder / "model", Settings(max_caption_len=24, max_labels_len=16, max_regions=10))
    return create_index(output, model, Contents(folder / "data", "test"), part_images=PART_IMAGES)


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
