import pytest

from mu_jax.experiments.shadow_sweep import run
from tiny_sweep import CONFIG


@pytest.fixture(scope="session", name="finished")
def finished_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep") / "run"
    results, before = run(CONFIG, folder)
    assert not before
    return folder, results
