"""Makes an index of drawn scenes, and has the operating system kill it at one exact moment.

python -m tests.search.killed EVENT PATTERN FOLDER OUTPUT

The moment is the first time that Python is about to do EVENT (`os.mkdir`, `os.rename`, ...) to a path that PATTERN
fits. FOLDER is that of the fixture `scenes_folder`, OUTPUT the index.
"""

import os
import re
import signal
import sys
from pathlib import Path

PART_IMAGES = 8  # three parts


def build(folder, output):
    """What both the process that is killed and the one that goes on run."""
    from aladin_jax.config import Settings
    from aladin_jax.pretrained import load
    from aladin_jax.search.indexing import Contents, create_index

    model = load(folder / "model", Settings(max_caption_len=24, max_labels_len=16, max_regions=10))
    return create_index(output, model, Contents(folder / "data", "test"), part_images=PART_IMAGES)


if __name__ == "__main__":
    event, pattern, folder, output = sys.argv[1:]

    def hook(name, arguments):
        if name == event and re.search(pattern, str(arguments[0])):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    build(Path(folder), Path(output))
