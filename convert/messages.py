"""Errors as the command lines of this package print them."""

from __future__ import annotations

_MAX_LENGTH = 10_000


def one_line(error: BaseException) -> str:
    """An error's message without line ends and escape sequences, which names in a user's file may hold."""
    return printable(str(error))


def printable(message: str) -> str:
    """A text on one line, without escape sequences and cut if it is very long."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message[:_MAX_LENGTH])
    return text + ("..." if len(message) > _MAX_LENGTH else "")
