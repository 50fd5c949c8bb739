"""No input runs code. The exceptions are named here: config files, and an own network's, are Python by design."""

import ast
import pathlib
import pickle

import numpy as np
import pytest

import mu_jax
from mu_jax.config import DataConfig, InputError
from mu_jax.data import load_dataset
from mu_jax.models.pytorch_import import load_state_dict

PACKAGE = pathlib.Path(mu_jax.__file__).parent
SCRIPTS = PACKAGE.parent / "scripts"
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "yaml",
    "code",
    "codeop",
}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
METHODS = {
    "unsafe_load",
    "load_module",
    "exec_module",
    "run_path",
    "run_module",
    "read_pickle",
}
# What runs the code that the user names, on purpose: (file, what).
MEANT = {
    ("models/own_code.py", "exec_module"),
}


def dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id if isinstance(node, ast.Name) else "?", *reversed(parts)])


def keywords(call: ast.Call) -> dict[str, object]:
    return {
        word.arg: word.value.value if isinstance(word.value, ast.Constant) else "not a constant"
        for word in call.keywords
    }


def findings(source: str) -> set[str]:
    """What of a module could run code that it was given."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.add(node.module)
        elif isinstance(node, ast.Call):
            name, given = dotted(node.func), keywords(node)
            last = name.rpartition(".")[2]
            if name in CALLS or (last in METHODS and "." in name):
                found.add(name if name in CALLS else last)
            if name in ("np.load", "numpy.load", "jnp.load") or last in ("NpzFile", "read_array"):
                allowed = given.get(
                    "allow_pickle", None if last != "read_array" or name == "read_array" else "default"
                )
                if (last == "load" and allowed is not False) or allowed not in (False, None):
                    found.add(f"{name} without allow_pickle=False")
            if name in ("torch.load", "jax.load") and given.get("weights_only") is not True:
                found.add(f"{name} without weights_only=True")
            if given.get("shell") not in (None, False):
                found.add(f"{name} with a shell")
    return found


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "pickle"),
        ("from joblib import load", "joblib"),
        ("x = eval('1')", "eval"),
        ("np.load(f)", "np.load without allow_pickle=False"),
        ("np.load(f, allow_pickle=flag)", "np.load without allow_pickle=False"),
        (
            "np.lib.format.read_array(f, allow_pickle=True)",
            "np.lib.format.read_array without allow_pickle=False",
        ),
        ("torch.load(f)", "torch.load without weights_only=True"),
        ("torch.load(f, weights_only=False)", "torch.load without weights_only=True"),
        ("subprocess.run(c, shell=True)", "subprocess.run with a shell"),
        ("os.system('x')", "os.system"),
        ("loader.exec_module(m)", "exec_module"),
        ("import runpy; runpy.run_path(p)", "run_path"),
    ],
)
def test_the_search_finds_what_it_looks_for(source, what):
    assert findings(source) == {what}
    assert not findings(
        "np.load(f, allow_pickle=False); torch.load(f, weights_only=True); ast.literal_eval(t)"
    )


@pytest.mark.parametrize("folder", [PACKAGE, SCRIPTS], ids=["mu_jax", "scripts"])
def test_nothing_runs_what_it_reads(folder):
    """`ast.literal_eval` reads literals alone; `importlib.import_module` is looked at by hand: see WORKSPACE.md."""
    found = {
        (str(path.relative_to(folder)), what)
        for path in sorted(folder.rglob("*.py"))
        for what in findings(path.read_text())
    }
    assert found - MEANT == set()


class Ran(Exception):
    pass


class Bomb:
    """Raises as it is unpickled."""

    def __reduce__(self):
        return (_ran, ())


def _ran():
    raise Ran


@pytest.mark.parametrize("kind", ["npz", "npy inside"])
def test_a_pickle_among_the_data_is_not_opened(tmp_path, kind):
    array = np.array([Bomb()], dtype=object)
    np.savez(tmp_path / "d.npz", x_train=array, y_train=array, x_test=array, y_test=array)
    if kind == "npy inside":
        (tmp_path / "d.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError):
        load_dataset(DataConfig(source=f"npz:{tmp_path / 'd.npz'}"), 0)


@pytest.mark.torch
def test_a_pickle_among_the_weights_is_not_opened(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.ones(1), "more": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="could run code"):
        load_state_dict(tmp_path / "w.pt")
