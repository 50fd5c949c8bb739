"""The two files that an audit of a deletion reads: what models said of the same examples before and after it.

| array | file | |
|---|---|---|
| `shadow` float[N,C] | both | posteriors of the shadow pairs: models that the auditor made, and knows all about |
| `target` float[M,C] | both | posteriors of the pairs that are attacked |
| `shadow_deleted` bool[N] | before | the example was learned and then deleted; else neither model ever learned it |
| `target_deleted` bool[M] | before | may be left out: then there are scores and no figures |
| `shadow_model` int[N], `target_model` int[M] | before | may be left out: which original model a row was asked of |

Row n of both files is the same example. Several originals may lie in one array, each with its own deletions; without
`shadow_model` and `target_model` each pair counts as having an original of its own.
"""

import dataclasses
import difflib
import hashlib
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int

from mu_jax.attacks.leaks import checked_posteriors
from mu_jax.config import InputError
from mu_jax.data.array_files import UnreadableError, open_archive

SIDES = ("shadow", "target")
_OF_BEFORE = ("shadow_deleted", "target_deleted", "shadow_model", "target_model")
_NEEDED = {"before": ("shadow", "target", "shadow_deleted"), "after": SIDES}
_SAVE = {
    "before": "np.savez(FILE, shadow=..., target=..., shadow_deleted=...)",
    "after": "np.savez(FILE, shadow=..., target=...)",
}


@dataclasses.dataclass(frozen=True, eq=False)
class AuditPairs:
    """One side's pairs: posteriors in the precision that they came in, so that ties can be seen."""

    before: Float[np.ndarray, "N C"]
    after: Float[np.ndarray, "N C"]
    deleted: Bool[np.ndarray, "N"] | None
    """None where the file does not say."""
    model: Int[np.ndarray, "N"]
    """The original model of each row; a number of its own for each where the file does not say."""
    models_given: bool


def read_pairs(before: pathlib.Path, after: pathlib.Path) -> tuple[AuditPairs, AuditPairs]:
    """Read and check both files: the shadow's pairs and the target's; InputError in one sentence for what is bad."""
    arrays = {"before": _read(before, "before"), "after": _read(after, "after")}
    paths = {"before": before, "after": after}
    for name, found in arrays.items():
        for side in SIDES:
            _check_posteriors(found[side], side, paths[name])
    _check_shapes(arrays, paths)
    shadow, target = (_pairs(arrays, side, before) for side in SIDES)
    return shadow, target


def fingerprint(path: pathlib.Path, name: str) -> str:
    """SHA-256 of the file that the flag `--before` or `--after` names."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError(f"--{name} is {str(path)!r}, but there is no such file; check the path.") from None
    except OSError as error:
        raise InputError(f"--{name} {path} cannot be read ({error.strerror}); give an .npz file.") from None


def _read(path: pathlib.Path, name: str) -> dict[str, np.ndarray]:
    fix = f"save it with {_SAVE[name]}"
    known = (*SIDES, *_OF_BEFORE)
    try:
        with open_archive(path) as archive:
            found = {key: archive[key] for key in archive.files if key in known}
            names = archive.files
    except FileNotFoundError:
        raise InputError(f"--{name} is {str(path)!r}, but there is no such file; check the path.") from None
    except UnreadableError as error:
        raise InputError(f"{path} cannot be read as plain arrays ({error}); {fix}.") from None
    for key in names:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."
            raise InputError(f"{path} has an array {key!r}, which this audit does not read; {hint}")
        if name == "after" and key in _OF_BEFORE:
            raise InputError(
                f"{path} has {key!r}, but expected it in the file of --before, which says what examples are; save it "
                "there."
            )
    for key in _NEEDED[name]:
        if key not in found:
            raise InputError(f"{path} has no array {key!r}, but expected one in the file of --{name}; {fix}.")
    return found


def _check_posteriors(array: np.ndarray, side: str, path: pathlib.Path) -> None:
    if array.dtype.kind != "f" or array.ndim != 2 or 0 in array.shape:
        raise InputError(
            f"{side} of {path} has dtype {array.dtype} and shape {list(array.shape)}, but expected floats "
            "[examples, classes]; save it so."
        )
    checked_posteriors(array, f"{side} of {path}")


def _check_shapes(arrays: dict[str, dict[str, np.ndarray]], paths: dict[str, pathlib.Path]) -> None:
    for side in SIDES:
        lengths = [len(arrays[name][side]) for name in paths]
        if lengths[0] != lengths[1]:
            raise InputError(
                f"{side} has {lengths[0]:,} rows in {paths['before']} and {lengths[1]:,} in {paths['after']}, but "
                "expected as many; ask both models about the same examples in the same order."
            )
    classes = {f"{side} of {paths[name]}": arrays[name][side].shape[1] for name in paths for side in SIDES}
    if len(set(classes.values())) > 1:
        listed = ", ".join(f"{number} in {name}" for name, number in classes.items())
        raise InputError(
            f"Posteriors have different numbers of classes ({listed}), but expected one number; save all classes of "
            "every model."
        )


def _pairs(arrays: dict[str, dict[str, np.ndarray]], side: str, path: pathlib.Path) -> AuditPairs:
    told, before = arrays["before"], arrays["before"][side]
    deleted, model = told.get(f"{side}_deleted"), told.get(f"{side}_model")
    rows = len(before)
    if deleted is not None:
        if deleted.dtype != bool or deleted.shape != (rows,):
            raise InputError(
                f"{side}_deleted of {path} has dtype {deleted.dtype} and shape {list(deleted.shape)}, but expected "
                f"bool[{rows}], one for each row of {side}; save it so."
            )
        # Classifiers, and their choice by halves, need some of either kind on the shadow side.
        least = 4 if side == "shadow" else 1
        number = int(deleted.sum())
        if min(number, rows - number) < least:
            raise InputError(
                f"{number} of {rows} examples of {side} in {path} were deleted, but expected at least {least} that "
                f"were and {least} that neither model learned; add examples of the other kind."
            )
    if model is not None and (model.dtype.kind not in "iu" or model.shape != (rows,)):
        raise InputError(
            f"{side}_model of {path} has dtype {model.dtype} and shape {list(model.shape)}, but expected int[{rows}], "
            f"the number of the original model of each row of {side}; save it so."
        )
    return AuditPairs(
        before=before,
        after=arrays["after"][side],
        deleted=deleted,
        model=np.arange(rows) if model is None else model.astype(np.int64),
        models_given=model is not None,
    )
