"""Shared by all tests: what needs PyTorch, TensorFlow or jax-privacy may be left out only where the run says so."""

import gc
import importlib
import os
import pathlib

# JAX writes its compilation cache in place, so that a process may read what another one has half written: each of
# `pytest -n`'s has a cache of its own. Before JAX reads where it is.
_PROCESS = os.environ.get("PYTEST_XDIST_WORKER")
if _PROCESS and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    os.environ["JAX_COMPILATION_CACHE_DIR"] += f"/{_PROCESS}"

# Commands that tests start keep nothing in the user's folder; `scripts/test.sh` names a folder of its own.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")

import jax
import pytest

if _PROCESS:  # a plugin may have imported JAX before
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR") or None)
# Before any backend starts: models are split over devices, and one CPU can show several.
jax.config.update("jax_num_cpu_devices", 2)

# Set by `scripts/test.sh --with-torch`: there a parity test that skips is a failure, not a gap that nobody sees.
NOTHING_LEFT_OUT = os.environ.get("MU_JAX_NOTHING_LEFT_OUT") == "1"
OPTIONAL = ("torch", "safetensors", "tensorflow", "jax_privacy", "dp_accounting")


def pytest_configure() -> None:
    # Modules that skip as a whole leave no test behind whose skipping could be seen: look at the packages themselves.
    for package in OPTIONAL if NOTHING_LEFT_OUT else ():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise pytest.UsageError(
                f"this run leaves nothing out, but {package} cannot be imported ({error})"
            ) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    report = yield
    optional = any(item.get_closest_marker(marker) for marker in ("torch", "tensorflow", "dp"))
    if NOTHING_LEFT_OUT and optional and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, although this run leaves nothing out: {report.longrepr}"
    return report


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what `-m` does not ask for
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lines = pathlib.Path(__file__).with_name("slow.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    for item in items:
        if item.nodeid in listed or item.nodeid.partition("::")[0] in listed:
            item.add_marker(pytest.mark.slow)


_MAPS = pathlib.Path("/proc/self/maps")
_MANY_MAPS = 30_000


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Drop compiled programs once there are very many: each maps memory, and Linux allows a process 65,530 maps.

    Where none is left, LLVM cannot allocate, and JAX dies of a segmentation fault as it loads a program.
    """
    yield
    if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()
