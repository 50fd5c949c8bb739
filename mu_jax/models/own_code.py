"""A user's own code, by its name: found, run once, and signed by what of its file it is made of."""

import ast
import functools
import hashlib
import importlib
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

from mu_jax.config import InputError, ModelConfig, to_dict

_EXPECTED = "FILE.py:NAME or package.module:NAME, a class or function in it"


def load_own(place: str) -> Callable[..., Any]:
    """What `place` names: `net.py:Net` in a file, or `package.module:Net` in an importable module.

    The code is run, so `place` must come from whoever started the program (a config file, a flag, an argument), never
    from a folder that was found. A file finds its neighbours as a script does. InputError where there is no such
    thing.
    """
    where, name = _parts(place)
    module = _of_file(place) if where.endswith(".py") else _of_package(place)
    if not hasattr(module, name):
        defined = sorted(
            key for key, value in vars(module).items() if inspect.isclass(value) or inspect.isfunction(value)
        )
        raise InputError(
            f"model.module is {place!r}, but {where} has no {name!r}; name one of {', '.join(defined) or 'its own'}."
        )
    return getattr(module, name)


def signature_of(place: str) -> str:
    """SHA-256 (hex) of the source of what `place` names and of all that it uses from the top level of its file.

    Comments, docstrings and layout do not count, nor does the rest of the file; nothing is run. What the file imports
    counts by its name alone: two versions of an imported layer have one signature (and, if their weights differ in
    shape, checkpoints that do not fit).
    """
    where, name = _parts(place)
    path = _path(place) if where.endswith(".py") else _source_of_package(place)
    try:
        tree = ast.parse(path.read_text())
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"model.module is {place!r}, but {path} is no Python ({error}); correct it."
        ) from None
    statements = [(set(_bound(statement)), statement) for statement in tree.body]
    needed, waiting = set(), {name}
    while waiting:
        wanted = waiting.pop()
        for i, (names, statement) in enumerate(statements):
            if wanted in names and i not in needed:
                needed.add(i)
                waiting |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
    source = "\n".join(ast.unparse(_without_docstrings(statements[i][1])) for i in sorted(needed))
    return hashlib.sha256(f"{name}\n{source}".encode()).hexdigest()


def model_identity(config: ModelConfig) -> dict[str, Any]:
    """The settings that say which network a model is: of one's own, by its signature and not by where it lies."""
    settings = to_dict(config)
    if settings.pop("module"):
        settings["module"] = signature_of(config.module)
    return settings


def _parts(place: str) -> tuple[str, str]:
    where, colon, name = place.rpartition(":")
    if not (colon and where and name.isidentifier()):
        raise InputError(f"model.module is {place!r}, but expected {_EXPECTED}; correct it.")
    return where, name


def _path(place: str) -> pathlib.Path:
    path = pathlib.Path(_parts(place)[0]).expanduser()
    if not path.is_file():
        raise InputError(
            f"model.module is {place!r}, but there is no file {path}; give its path as seen from "
            f"{pathlib.Path.cwd()}, or the whole one."
        )
    return path.absolute()


def _of_file(place: str) -> Any:
    path = _path(place)
    return _run(path, hashlib.sha256(path.read_bytes()).hexdigest()[:12], place)


# Once for each content, so that a class is one class however often it is asked for.
@functools.cache
def _run(path: pathlib.Path, content: str, place: str) -> Any:
    name = f"own_{path.stem}_{content}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, which flax modules are, look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        del sys.modules[name]
        raise InputError(
            f"model.module is {place!r}, but {path} fails as it is imported ({_reason(error)}); correct it."
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _of_package(place: str) -> Any:
    where = _parts(place)[0]
    try:
        return importlib.import_module(where)
    except Exception as error:  # as above
        raise InputError(
            f"model.module is {place!r}, but {where!r} cannot be imported ({_reason(error)}); give {_EXPECTED}."
        ) from error


def _source_of_package(place: str) -> pathlib.Path:
    found = getattr(_of_package(place), "__file__", None)
    if found is None or not found.endswith(".py"):
        raise InputError(
            f"model.module is {place!r}, whose source is not to be found, but expected Python code that can be signed; "
            "define the network in a .py file."
        )
    return pathlib.Path(found)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top level of a file gives something to."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        if node is statement and isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            return  # what is inside it is its own


def _without_docstrings(statement: ast.stmt) -> ast.stmt:
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            first = node.body[0]
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if is_text and isinstance(first.value.value, str):
                node.body = node.body[1:] or [ast.Pass()]
    return statement
