"""Shared by all tests: PyTorch parity may be skipped only where the run says so."""

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Set by `scripts/test.sh --with-torch`: there a parity test that skips is a failure, not a gap nobody sees.
    config.mu_jax_nothing_left_out = os.environ.get("MU_JAX_NOTHING_LEFT_OUT") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    optional = item.get_closest_marker("torch") or item.get_closest_marker("tensorflow")
    if optional and report.skipped and item.config.mu_jax_nothing_left_out:
        report.outcome = "failed"
        report.longrepr = f"skipped, although this run leaves nothing out: {report.longrepr}"
    return report
