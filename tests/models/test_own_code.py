"""A user's code by its name: what is found, what is signed, and what is refused."""

import dataclasses

import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models.own_code import load_own, model_identity, signature_of

SOURCE = '''
"""A file of mine."""
import math
from neighbour import WIDTH

SIZE = 3
UNUSED = 4

def helper(x):
    """Doubles."""
    return SIZE * x

class Net:
    """My network."""
    def __call__(self, x):
        return helper(x) + WIDTH  # a comment

def get_config():
    return 5
'''


@pytest.fixture(name="path")
def path_fixture(tmp_path):
    (tmp_path / "neighbour.py").write_text("WIDTH = 7\n")
    (tmp_path / "mine.py").write_text(SOURCE)
    return tmp_path / "mine.py"


def test_a_class_is_found_in_a_file_with_its_neighbours_and_is_one_class_however_often(path):
    net = load_own(f"{path}:Net")
    assert net()(2) == 13
    assert load_own(f"{path}:Net") is net
    # Another content is another module.
    path.write_text(SOURCE.replace("SIZE = 3", "SIZE = 4"))
    assert load_own(f"{path}:Net")()(2) == 15
    assert load_own("mu_jax.models.own_code:load_own") is load_own


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("  # a comment", "", True),
        ('    """Doubles."""\n', "", True),
        ('"""My network."""', '"""Ours."""', True),
        ("return 5", "return 6", True),  # of get_config, which the network does not use
        ("UNUSED = 4", "UNUSED = 5", True),
        ("import math\n", "", True),
        ("SIZE * x", "(SIZE *  x)", True),
        ("SIZE = 3", "SIZE = 4", False),  # which the network uses through a function
        ("SIZE * x", "SIZE + x", False),
        ("helper(x) + WIDTH", "helper(x) - WIDTH", False),
        ("from neighbour", "from another", False),
    ],
)
def test_a_signature_is_of_what_the_network_is_made_of(path, old, new, same):
    before = signature_of(f"{path}:Net")
    assert SOURCE.count(old) == 1
    path.write_text(SOURCE.replace(old, new))
    assert (signature_of(f"{path}:Net") == before) == same


def test_signing_runs_nothing_and_names_are_told_apart(path):
    before = signature_of(f"{path}:Net")
    path.write_text(SOURCE + "\nraise RuntimeError('run')\n")
    assert signature_of(f"{path}:Net") == before
    path.write_text(SOURCE.replace("class Net", "class Other"))
    assert signature_of(f"{path}:Other") != before


def test_the_identity_of_a_network_is_its_signature_and_not_its_place(path, tmp_path):
    (tmp_path / "copy.py").write_text(SOURCE)
    mine, copy = (ModelConfig(name="own", module=f"{where}:Net") for where in (path, tmp_path / "copy.py"))
    assert model_identity(mine) == model_identity(copy)
    assert model_identity(mine) != model_identity(dataclasses.replace(mine, width=3))
    # Of all others nothing changes: pools of before have the same hash.
    assert "module" not in model_identity(ModelConfig())


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("", "expected FILE.py:NAME or package.module:NAME"),
        ("mine.py", "expected FILE.py:NAME"),
        ("mine.py:", "expected FILE.py:NAME"),
        ("mine.py:a-b", "expected FILE.py:NAME"),
        ("nowhere.py:Net", "there is no file nowhere.py"),
        ("{path}:Nett", "has no 'Nett'; name one of Net, get_config, helper"),
        ("{broken}:Net", r"fails as it is imported \(ValueError: my own fault\)"),
        ("no_such_package.module:Net", "cannot be imported .*ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_found_is_refused_in_one_sentence(path, place, message):
    broken = path.with_name("broken.py")
    broken.write_text("raise ValueError('my own fault\\nand more')\n")
    with pytest.raises(InputError, match=message) as refused:
        load_own(place.format(path=path, broken=broken))
    assert "\n" not in str(refused.value)


def test_what_is_no_python_is_not_signed(path):
    path.write_text("class Net(:\n")
    with pytest.raises(InputError, match="is no Python"):
        signature_of(f"{path}:Net")
    with pytest.raises(InputError, match="whose source is not to be found"):
        signature_of("math:sqrt")
