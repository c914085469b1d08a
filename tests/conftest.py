"""What all tests share: quick compilation, exact matrix products, checked shapes, and how far the golden data was."""

# ruff: noqa: E402
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before TensorFlow is imported: it speaks of the CPU it finds
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
for library in ("OMP", "OPENBLAS"):  # threads that wait for work this small spin, and take it from other tests
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"  # here, and in the processes that tests start
# Before JAX meets its devices. Most of the time of these tests would go into making small programs a little faster;
# so compiled, a training step is ready in a quarter of the time, and gives the same numbers.
# The golden numbers are also computed as users' programs are compiled (test_as_users_compile.py).
# The users' own flags are kept for the processes that this one starts, pytest-xdist's among them.
AS_USERS_COMPILE = os.environ.setdefault("USERS_XLA_FLAGS", os.environ.get("XLA_FLAGS", ""))
if "AS_USERS_COMPILE" not in os.environ:
    os.environ["XLA_FLAGS"] = (
        f"{AS_USERS_COMPILE} --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    )

import jax
import jaxtyping
import pytest

import tests.type_checks

DIFFERENCES = pytest.StashKey()


def pytest_configure(config):
    """Runs before any test module, and so before any module of the package, is imported."""
    jaxtyping.install_import_hook(["aladin_jax", "convert", "demo"], f"{tests.type_checks.__name__}.check")
    jax.config.update("jax_compilation_cache_dir", compilation_cache(config))


def pytest_runtest_setup():
    """Keeps all that is compiled, also after a test that has had a program set what users have."""
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def compilation_cache(config):
    """A folder of compiled programs, of all processes that run tests and of those that they start.

    One that reads what another has not written to its end is warned, which pyproject.toml lets pass, and compiles.
    """
    return str(config.cache.mkdir("compiled"))


def pytest_sessionfinish(session):
    """Of several processes that run tests, each tells the first one what it saw."""
    if hasattr(session.config, "workeroutput") and (differences := session.config.stash.get(DIFFERENCES, None)):
        session.config.workeroutput["differences"] = differences.groups


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Takes what another process saw."""
    from tests.golden_data import Differences

    if groups := getattr(node, "workeroutput", {}).get("differences"):
        node.config.stash.setdefault(DIFFERENCES, Differences()).merge(groups)


def pytest_terminal_summary(terminalreporter, config):
    """Shows how close the golden numbers were, and what became of the files that were damaged."""
    if differences := config.stash.get(DIFFERENCES, None):
        terminalreporter.section("largest differences from the golden data")
        for line in differences.table():
            terminalreporter.line(line)
    reports = terminalreporter.getreports("passed")
    printed = [(report.nodeid.split("::")[-1], line) for report in reports for line in report.capstdout.splitlines()]
    if counts := [f"{line}  {test}" for test, line in printed if "damaged files:" in line]:
        terminalreporter.section("damaged files")
        for line in counts:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def differences(request):
    """Compares with the golden data; the largest differences are shown at the end."""
    from tests.golden_data import Differences

    return request.config.stash.setdefault(DIFFERENCES, Differences())


@pytest.fixture
def unchecked():
    """Turns type checks off, for tests that give what the annotations forbid: a user's program has no checks either."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def golden_folder(tmp_path_factory):
    """`model` and `data`, converted from tests/golden/e2e through the command lines' own functions."""
    from convert import checkpoint, coco_ir
    from tests.golden_data import E2E

    folder = tmp_path_factory.mktemp("golden")
    weights = ["--vinvl", E2E / "vinvl", "--checkpoint", E2E / "checkpoint.pth.tar", "--output", folder / "model"]
    assert checkpoint.main([str(argument) for argument in weights]) == 0
    features = E2E / "model_0060000" / "features.tsv"
    data = ["--data_dir", E2E / "coco_ir", "--img_feat_file", features, "--output", folder / "data"]
    assert coco_ir.main([str(argument) for argument in data]) == 0
    return folder
