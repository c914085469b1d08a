"""The golden numbers once more, in a process that compiles as users' programs do: optimised, and fused."""

from tests.conftest import AS_USERS_COMPILE
from tests.processes import run

# The forward pass, and training with all three parts that a loss can have, padded and packed.
GOLDEN = ["tests/models/test_forward.py", "tests/training/test_training_golden.py"]
LOADED = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # plugins are loaded already
CHOSEN = "test_both_streams_equal_the_originals or alignment_and_matching_distill"


def test_the_golden_numbers_hold_as_users_compile(tmp_path, monkeypatch):
    for name in ("AS_USERS_COMPILE", "XLA_FLAGS"):
        monkeypatch.setenv(name, AS_USERS_COMPILE)
    assert run("pytest", "-p", "no:xdist", *LOADED, *GOLDEN, "-k", CHOSEN, log=tmp_path / "log") == 0, (
        tmp_path / "log"
    ).read_text()
    assert "13 passed" in (tmp_path / "log").read_text()
