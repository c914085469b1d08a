"""The command of an installed package: `aladin-jax NAME ...` does what `python -m NAME ...` does in the repository.

    aladin-jax convert.checkpoint --vinvl DIR --output weights/vinvl
    aladin-jax aladin_jax.main --config configs/alignment_triplet.py --workdir runs/alignment
    aladin-jax aladin_jax.search query --index index "two dogs on a red sofa"

An installed package keeps configs/, convert/ and demo/ within itself: modules of such common names would be in other
packages' way.
"""

import re
import runpy
import sys
from pathlib import Path

COMMANDS = (
    "aladin_jax.compare",
    "aladin_jax.main",
    "aladin_jax.search",
    "aladin_jax.sweep",
    "convert.checkpoint",
    "convert.coco_ir",
    "convert.detect",
    "convert.export",
    "convert.features",
    "convert.inspect",
    "demo",
)
_KEPT = Path(__file__).parent / "repository"
ROOT = _KEPT if _KEPT.is_dir() else Path(__file__).parents[1]
"""Where configs/, convert/ and demo/ lie."""


def main() -> None:
    """Runs a command; `configs/NAME.py` is found wherever the package lies."""
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        print(f"{__doc__}\nNames: {', '.join(COMMANDS)}")
        sys.exit(sys.argv[1:] not in ([], ["--help"], ["-h"]))
    sys.path.insert(0, str(ROOT))
    sys.argv = [sys.argv[1], *map(_found, sys.argv[2:])]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _found(argument: str) -> str:
    flag, file = re.fullmatch(r"(--?config=)?(.*)", argument, re.DOTALL).groups(default="")  # pyright: ignore[reportOptionalMemberAccess]
    return f"{flag}{ROOT / file}" if file.startswith("configs/") and not Path(file).exists() else argument
