"""The frame of this package's commands: what they have in common beside their options."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from aladin_jax.errors import DataError
from aladin_jax.files import check_local_options

_MAX_LENGTH = 10_000


class UsageError(DataError):
    """An option that cannot be; ends the command as argparse does."""


def run(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], Any],
    arguments: Sequence[str] | None,
    *,
    interrupted: str = "interrupted; the same command starts again",
) -> int:
    """Reads the options and does the work; an error that the user can mend becomes one line.

    Args:
        parser: of the options.
        work: what is done with them.
        arguments: of the command line; None takes this process's.
        interrupted: what is said after Ctrl-C.

    Returns:
        The exit status.

    Raises:
        SystemExit: an option is none of the parser's, or `work` ended in a `UsageError`.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow, for TFDS, else speaks of the CPU it finds
    options = parser.parse_args(arguments)
    try:
        check_local_options(options)
        work(options)
    except UsageError as error:
        parser.error(str(error))
    except (ValueError, OSError) as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130
    return 0


def printable(message: str) -> str:
    """A text on one line, without escape sequences and cut if it is very long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[:_MAX_LENGTH])
    return text + ("..." if len(message) > _MAX_LENGTH else "")
