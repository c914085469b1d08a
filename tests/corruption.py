"""Damages files as disks, networks, editors and hostile people do, from a seed; and sorts what readers make of them."""

import collections
import contextlib
import itertools

import numpy as np

HOSTILE = (
    b"-1",
    b"99999999999999999999",
    b"1e999",
    b"NaN",
    b"../../etc/passwd",
    b"[" * 10_000,
    b"\x00" * 64,
    b"\xff\xfe",
    b"\n",
    b"\t",
    b'"',
    b"\xed\xa0\x80",
)


def damages(content, count, seed):
    """Yields (what was done, the content after it), `count` of them, each different from the content."""
    rng = np.random.default_rng(seed)
    kinds = itertools.cycle(KINDS)
    made = 0
    while made < count:
        name = next(kinds)
        damaged = KINDS[name](content, rng)
        if damaged != content:  # a kind may have nothing to damage: of one line, lines cannot be reversed
            made += 1
            yield f"{name} #{made}", damaged


def _place(content, rng):
    """A part of the content, up to 100 bytes long, nearer its begin than its end in half of all cases."""
    length = min(len(content), 200) if rng.random() < 0.5 else len(content)
    start = int(rng.integers(0, max(1, length)))
    return start, min(len(content), start + int(rng.integers(1, 100)))


def _flip_bit(content, rng):
    damaged = bytearray(content)
    damaged[_place(content, rng)[0]] ^= 1 << int(rng.integers(0, 8))
    return bytes(damaged)


def _replace_byte(content, rng):
    damaged = bytearray(content)
    damaged[_place(content, rng)[0]] = int(rng.integers(0, 256))
    return bytes(damaged)


def _replace_digit(content, rng):
    digits = [k for k, byte in enumerate(content) if 48 <= byte <= 57] or [0]
    damaged = bytearray(content)
    damaged[digits[int(rng.integers(0, len(digits)))]] = int(rng.integers(48, 58))
    return bytes(damaged)


def _insert(content, rng):
    start, _ = _place(content, rng)
    return content[:start] + HOSTILE[int(rng.integers(0, len(HOSTILE)))] + content[start:]


def _overwrite(content, rng):
    start, end = _place(content, rng)
    return content[:start] + HOSTILE[int(rng.integers(0, len(HOSTILE)))] + content[end:]


def _delete(content, rng):
    start, end = _place(content, rng)
    return content[:start] + content[end:]


def _repeat(content, rng):
    start, end = _place(content, rng)
    return content[:end] + content[start:]


def _zero(content, rng):
    start, end = _place(content, rng)
    return content[:start] + bytes(end - start) + content[end:]


def _swap(content, rng):
    (a, b), (c, d) = sorted([_place(content, rng), _place(content, rng)])
    c, d = max(b, c), max(b, d)
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


KINDS = {
    "flipped bit": _flip_bit,
    "other byte": _replace_byte,
    "other digit": _replace_digit,
    "cut short": lambda content, rng: content[: int(rng.integers(0, max(1, len(content))))],
    "inserted": _insert,
    "overwritten": _overwrite,
    "deleted": _delete,
    "repeated": _repeat,
    "zeroed": _zero,
    "swapped": _swap,
    "grown": lambda content, rng: content + rng.bytes(50),
    "emptied": lambda content, rng: b"",
    "lines reversed": lambda content, rng: b"\n".join(reversed(content.split(b"\n"))),
}


class Outcomes:
    """What became of damaged files: counted, and shown when a test says so."""

    def __init__(self):
        self.counts = collections.Counter()

    @contextlib.contextmanager
    def sort(self, what, accepted, folder):
        """Runs a reading that is either accepted or refused: by a `ValueError` of one line that names the file.

        Anything else, a wrong result or another exception, fails the test.

        Args:
            what: was done to the file.
            accepted: what an accepted reading counts as.
            folder: the file is in it.
        """
        try:
            yield
        except ValueError as error:
            message = str(error)
            assert "\n" not in message, (what, message)
            assert str(folder) in message, (what, message)
            self.counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
        else:
            self.counts[accepted] += 1

    def check(self, at_least):
        """Shows the counts; there have to be as many cases, and both outcomes."""
        print(f"{sum(self.counts.values())} damaged files: {dict(self.counts)}")
        assert sum(self.counts.values()) >= at_least
        assert self.counts["refused"] > at_least / 3
