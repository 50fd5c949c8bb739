"""The shadow models' signals on disk: one pool that every attack reads, and what its files promise.

A finished pool is a folder `signals/` of a run:

| file | holds |
|---|---|
| `member.npy` | bool[K,N]: which examples each model was trained on |
| `labels.npy` | int32[N] |
| `phi.npy`, `probability.npy` | float32[K,N,A]: margin and probability of the true class under each query |
| `logits.npy` | float32[K,N,A,C], where the sweep kept them |
| `pool.json` | what made the models, facts about each, shapes; written last, so its presence means complete |

`signal_parts.py` writes them. Rows beyond the K of `pool.json` belong to a growth that has not finished: the rows
before them are the same in both versions of a file, so a pool stays readable while it grows.
"""

import dataclasses
import hashlib
import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32

from mu_jax.config import InputError, first_difference
from mu_jax.data.array_files import read_npy_header

_FIELDS: Mapping[str, type] = {
    "hash": str,
    "produced_by": dict,
    "models": int,
    "examples": int,
    "queries": list,
    "blocks": list,
    "member_sha256": str,
    "arrays": dict,
    "diverged": dict,
    "per_model": dict,
    "made_with": dict,
}
"""What `pool.json` holds, and the type of each."""
_DTYPES = {
    "member": "bool",
    "labels": "int32",
    "phi": "float32",
    "probability": "float32",
    "logits": "float32",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Pool:
    """A finished pool: its arrays lie on disk (memory-mapped, read-only) until they are used."""

    member: Bool[np.ndarray, "K N"]
    labels: Int32[np.ndarray, " N"]
    phi: Float32[np.ndarray, "K N A"]
    probability: Float32[np.ndarray, "K N A"]
    logits: Float32[np.ndarray, "K N A C"] | None
    hash: str
    """`pool_hash(produced_by)`: two pools with the same hash hold models of one kind."""
    produced_by: dict[str, Any]
    """Everything that made one model, as nested plain values."""
    queries: list[Any]
    """The A query augmentations, as the sweep described them."""
    blocks: list[int]
    """How many models each sweep added; they sum to K."""
    diverged: dict[int, int]
    """Row to the step in which that model's training diverged: its signals mean nothing."""
    per_model: dict[str, np.ndarray]
    """Facts [K] about each model by name, int64 or float64; NaN where the number was not finite."""
    made_with: dict[str, Any]
    """Devices, versions, mapping: recorded, never compared."""

    @property
    def usable(self) -> Bool[np.ndarray, " K"]:
        """Which models did not diverge."""
        usable = np.ones(len(self.member), bool)
        usable[list(self.diverged)] = False
        return usable


def pool_hash(produced_by: Mapping[str, Any]) -> str:
    """The SHA-256 of `produced_by` as canonical JSON, in hexadecimal: what kind of models a pool holds.

    The order of keys does not matter, and a tuple is a list. InputError for what JSON cannot hold.
    """
    text = json.dumps(plain(produced_by, "produced_by"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_pool(
    folder: pathlib.Path, expected: Mapping[str, Any] | None = None, *, check_finite: bool = True
) -> Pool:
    """The finished pool in a run folder, or in its `signals/` folder.

    `expected` is the `produced_by` that the caller needs. `check_finite` reads all of φ once, a model at a time, and
    refuses a value that is not finite in a model not marked as diverged. Raises InputError for an unfinished, damaged
    or edited pool, and for one made by something else than `expected`.
    """
    signals = signals_folder(folder)
    saved = read_description(signals)
    if saved is None:
        if os.path.isdir(signals / "parts"):
            raise InputError(
                f"{signals} holds parts of a pool but no pool.json, so its sweep is unfinished; run the sweep again to "
                "its end."
            )
        raise InputError(
            f"{folder} holds no signals/pool.json, but expected the folder of a finished sweep; check the path, or run "
            "the sweep."
        )
    if expected is not None:
        refuse_another_recipe(signals, saved, expected)
    arrays = {name: open_rows(signals, saved, name) for name in saved["arrays"]}
    if member_sha256(arrays["member"]) != saved["member_sha256"]:
        raise InputError(
            f"{signals / 'member.npy'} has another SHA-256 than pool.json says, but expected the memberships that the "
            "models were trained with; copy the pool again, or run its sweep again elsewhere."
        )
    pool = Pool(
        **{"logits": None, **arrays},
        hash=saved["hash"],
        produced_by=saved["produced_by"],
        queries=saved["queries"],
        blocks=saved["blocks"],
        diverged={int(model): step for model, step in saved["diverged"].items()},
        per_model={name: _numbers(values) for name, values in saved["per_model"].items()},
        made_with=saved["made_with"],
    )
    for model in np.flatnonzero(pool.usable) if check_finite else ():
        if not np.isfinite(pool.phi[model]).all():
            raise InputError(
                f"{signals / 'phi.npy'} has values that are not finite in model {model}, but expected them only in "
                "models that pool.json marks as diverged; copy the pool again, or run its sweep again elsewhere."
            )
    return pool


def signals_folder(folder: pathlib.Path) -> pathlib.Path:
    """`folder` itself where it is (or is named as) a pool's own folder, else the `signals/` in it."""
    folder = pathlib.Path(folder)
    own = folder.name == "signals" or os.path.exists(folder / "pool.json")
    return folder if own else folder / "signals"


def read_description(signals: pathlib.Path) -> dict[str, Any] | None:
    """What `pool.json` holds, checked, or None where there is none; InputError where it is damaged or edited."""
    path = signals / "pool.json"
    fix = "copy the pool again, or run its sweep again elsewhere."
    try:
        saved = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        if not isinstance(saved, dict) or not saved.keys() & _FIELDS.keys():
            raise InputError(f"{path} is not of a pool of mu_jax; name the folder of a finished sweep.")
        flaw = _flaw(saved)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); check the path and its permissions."
        ) from None
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError) as error:
        flaw = f"{type(error).__name__}: {error}"
    if flaw:
        raise InputError(
            f"{path} is damaged ({flaw}), but expected the description of a finished pool; {fix}"
        )
    if pool_hash(saved["produced_by"]) != saved["hash"]:
        raise InputError(
            f"{path} was edited: its hash {saved['hash']!r} is not that of its own produced_by; undo the edit, {fix}"
        )
    return saved


def refuse_another_recipe(signals: pathlib.Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """InputError naming the first difference where the pool's models were not produced by `wanted`."""
    if pool_hash(wanted) == saved["hash"]:
        return
    difference = first_difference(saved["produced_by"], plain(wanted, "expected"))
    difference = difference or "the type of a number, or a key without value"
    raise InputError(
        f"The pool in {signals} was made by something else: {difference}; name a pool made with these settings, or set "
        "it back."
    )


def open_rows(signals: pathlib.Path, saved: Mapping[str, Any], name: str) -> np.memmap:
    """An array of a pool, memory-mapped: the rows that its description promises, whole on the disk.

    Read from the header and the file's size, because a map of a file cut short fails only where it is touched, with
    a bus error. Raises InputError.
    """
    path = signals / f"{name}.npy"
    shape, dtype = tuple(saved["arrays"][name]["shape"]), np.dtype(saved["arrays"][name]["dtype"])
    fix = "copy the pool again, or run its sweep again elsewhere."
    try:
        with open(path, "rb") as file:
            found, fortran_order, kind = read_npy_header(file)
            promised = file.tell() + math.prod(found) * kind.itemsize
            size = file.seek(0, 2)
    except FileNotFoundError:
        raise InputError(f"{path} is missing, but pool.json lists it; {fix}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check its permissions.") from None
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}), but expected a NumPy array; {fix}") from None
    grown = name != "labels" and found[:1] > shape[:1]
    if kind != dtype or fortran_order or (found[1:] if grown else found) != (shape[1:] if grown else shape):
        raise InputError(
            f"{path} holds {kind}{list(found)}{' in Fortran order' * fortran_order}, but pool.json says "
            f"{dtype}{list(shape)}; {fix}"
        )
    if size != promised:
        raise InputError(f"{path} has {size} bytes, but expected {promised} for {kind}{list(found)}; {fix}")
    return np.load(path, mmap_mode="r", allow_pickle=False)[: shape[0]]


def member_sha256(member: Bool[np.ndarray, "K N"]) -> str:
    """The SHA-256 of the memberships, a byte each in C order, in hexadecimal."""
    return hashlib.sha256(np.ascontiguousarray(member).data).hexdigest()


def array_specs(shapes: Mapping[str, tuple[int, ...]], models: int) -> dict[str, dict[str, Any]]:
    """`arrays` of `pool.json`, of K models whose signals have the `shapes` of one model: [N,A], of logits [N,A,C]."""
    examples = shapes["phi"][0]
    whole = {"member": (models, examples), "labels": (examples,)}
    whole |= {name: (models, *shapes[name]) for name in sorted(shapes)}
    return {name: {"shape": list(shape), "dtype": _DTYPES[name]} for name, shape in whole.items()}


def plain(value: Any, name: str) -> Any:
    """`value` as JSON gives it back: dicts, lists, text, finite numbers, booleans and None; InputError otherwise."""
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(inner, f"{name}.{key}") for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner, f"{name}[{place}]") for place, inner in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(
        f"{name} is {value!r}, but expected text, a finite number, a boolean or None, or lists and groups with text as "
        "keys of these; convert it."
    )


def _flaw(saved: dict[str, Any]) -> str | None:
    """What is wrong inside a `pool.json`, or None; may raise where its parts are of other types than ours."""
    for name, kind in _FIELDS.items():
        if not isinstance(saved.get(name), kind):
            return f"{name} is {saved[name]!r}" if name in saved else f"{name} is missing"
    models, arrays = saved["models"], saved["arrays"]
    if models < 1 or min(saved["blocks"], default=0) < 1 or sum(saved["blocks"]) != models:
        return f"blocks are {saved['blocks']!r} of {models} models"
    shapes = {name: tuple(array["shape"][1:]) for name, array in arrays.items()}
    phi, logits = shapes["phi"], shapes.get("logits", (*shapes["phi"], 1))
    sizes_agree = len(phi) == 2 and phi[0] == saved["examples"] and min(*phi, *logits) >= 1
    shapes_agree = shapes["probability"] == logits[:-1] == phi
    signals = {name: shapes[name] for name in shapes if name not in ("member", "labels")}
    if not (sizes_agree and shapes_agree and arrays == array_specs(signals, models)):
        return f"arrays are {arrays!r}"
    for model, step in saved["diverged"].items():
        if str(int(model)) != model or not 0 <= int(model) < models or not isinstance(step, int) or step < 0:
            return f"diverged has {model!r}: {step!r}"
    for name, values in saved["per_model"].items():
        if not all(value is None or isinstance(value, (int, float)) for value in values):
            return f"per_model.{name} holds {values!r}"
        if len(_numbers(values)) != models:
            return f"per_model.{name} has {len(values)} values for {models} models"
    return None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _numbers(values: list) -> np.ndarray:
    if all(isinstance(value, int) for value in values):
        return np.array(values, np.int64)
    return np.array([math.nan if value is None else value for value in values], np.float64)
