"""Each package imports only from those before it, and importing has no side effects."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ORDER = (
    "config", "data", "ops", "models", "training", "adversarial", "smoothness", "defenses", "unlearning", "attacks",
    "evaluation", "experiments", "api", "main", "audit",
)  # fmt: skip
FILES = sorted((ROOT / "mu_jax").rglob("*.py"))


def package_of(path):
    return path.relative_to(ROOT / "mu_jax").parts[0].removesuffix(".py")


def imported_packages(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module]
            if node.module == "mu_jax":
                names = [f"mu_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith("mu_jax."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_order(path):
    package = package_of(path)
    if package == "__init__":
        assert not list(imported_packages(path))
        return
    for other in imported_packages(path):
        assert ORDER.index(other) <= ORDER.index(package), f"{path} imports {other}"


def test_importing_everything_touches_no_device_and_no_heavy_package():
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in FILES
        if path.name != "__init__.py" and package_of(path) not in ("main", "audit")
    ]
    program = (
        f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized(), 'a device was touched'\n"
        "assert not {'torch', 'tensorflow', 'tensorflow_datasets', 'matplotlib.pyplot'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
