"""Runs convert.coco_ir on images whose features never come, to be ended from outside.

Each process that waits for one leaves a file with its number as the name in the folder given as --img_feat_file.
"""

import os
import signal
import sys
import time

from convert.coco_ir import main
from convert.dataset import coco_ir


class StuckFiles:
    def __init__(self, path, *, feature_dim):
        self._path, self.notes = path, []

    def require(self, images, wanted_by):
        pass

    def detections(self, image, dtype):
        (self._path / str(os.getpid())).touch()
        time.sleep(300)


if __name__ == "__main__":
    from tests.convert.dataset import stuck_source  # by the name that other processes find it under

    coco_ir.VinvlFiles = stuck_source.StuckFiles
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, tests among them, ignore it
    sys.exit(main())
