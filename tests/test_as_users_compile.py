"""The golden numbers once more, in a process that compiles as users' programs do: optimised, and fused."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import AS_USERS_COMPILE

ROOT = Path(__file__).parents[1]
# The forward pass, and training with all three parts that a loss can have, padded and packed.
GOLDEN = ["tests/models/test_forward.py", "tests/training/test_training_golden.py"]
CHOSEN = "test_both_streams_equal_the_originals or alignment_and_matching_distill"


def test_the_golden_numbers_hold_as_users_compile():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", *GOLDEN, "-k", CHOSEN],
        cwd=ROOT,
        env={**os.environ, "AS_USERS_COMPILE": AS_USERS_COMPILE, "XLA_FLAGS": AS_USERS_COMPILE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
