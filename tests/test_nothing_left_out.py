"""The guard of `scripts/test.sh --with-torch`: a parity test that does not run there fails the run."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def run_pytest(path, **environment):
    command = [sys.executable, "-m", "pytest", "-q", str(path)]
    environment = os.environ | {"MU_JAX_NOTHING_LEFT_OUT": "0"} | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("strict", ["0", "1"])
def test_without_torch_a_strict_run_fails_and_another_passes(tmp_path, strict):
    (tmp_path / "torch.py").write_text("raise ImportError('hidden by a test')")
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = run_pytest("tests/training/test_schedules.py", MU_JAX_NOTHING_LEFT_OUT=strict, PYTHONPATH=search)
    assert (done.returncode == 0) == (strict == "0"), done.stdout
    if strict == "1":
        assert "torch cannot be imported" in done.stdout + done.stderr
