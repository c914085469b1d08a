"""What of the log a user sees."""

import logging
from pathlib import Path

from absl import logging as absl_logging

# Everything of ours, and CLU's writers and progress; of other libraries only warnings (Orbax alone says twenty lines a
# checkpoint).
_TALKATIVE = ("aladin_jax", "clu")


def show_our_messages() -> None:
    """Logs at level INFO, leaving out other libraries' messages below WARNING."""
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.get_absl_handler().addFilter(_is_for_users)


def _is_for_users(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or any(part in _TALKATIVE for part in Path(record.pathname).parts)
