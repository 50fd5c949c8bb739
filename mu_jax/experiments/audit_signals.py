"""The file that an audit reads: what models of any framework say of the same examples, and who was a member where."""

import dataclasses
import difflib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.special import expit

from mu_jax.attacks.signals import logit_margin
from mu_jax.attacks.taylor_softmax import taylor_softmax
from mu_jax.config import InputError
from mu_jax.data.array_files import UnreadableError, open_archive

_ARRAYS = (
    "target_logits",
    "target_phi",
    "shadow_logits",
    "shadow_phi",
    "member_target",
    "member_shadow",
    "labels",
    "images",
)
_DEPTHS = ((), (1,), (3,))
# Logits that are read at a time.
_BLOCK_ELEMENTS = 2**24


@dataclasses.dataclass(frozen=True, eq=False)
class AuditSignals:
    """What T targets and K shadow models say of the same N examples under the same A queries."""

    target_phi: Float[np.ndarray, "T N A"]
    shadow_phi: Float[np.ndarray, "K N A"]
    target_probability: Float[np.ndarray, "T N A"]
    """Of the true class, by the signal asked for."""
    shadow_probability: Float[np.ndarray, "K N A"]
    member_target: Bool[np.ndarray, "T N"]
    member_shadow: Bool[np.ndarray, "K N"]
    labels: Int[np.ndarray, "N"] | None
    """None where the file has none."""
    images: UInt8[np.ndarray, "N H W D"] | None


def read_audit_signals(path: pathlib.Path, probability: str = "softmax") -> AuditSignals:
    """Read and check an `.npz` file; the true class's probabilities are by `softmax` or `taylor_softmax`.

    | array | |
    |---|---|
    | `target_logits` float[T,N,C], or `target_phi` float[T,N] or [T,N,A] | of the models to be attacked |
    | `shadow_logits` float[K,N,C], or `shadow_phi` float[K,N] or [K,N,A] | of the references |
    | `member_target` bool[T,N], `member_shadow` bool[K,N] | who was trained on |
    | `labels` int[N] | needed with logits |
    | `images` uint8[N,H,W] or [N,H,W,D] | may be there: the report then shows them |

    φ is the margin z_y − logsumexp_{j≠y} z_j of `mu_jax.attacks.signals.logit_margin`. InputError, in one sentence, for
    a file or array that is not so, and for a Taylor softmax of φ, which no longer tells it.
    """
    arrays = _read_arrays(path)
    sides = {side: _one_of(arrays, path, f"{side}_logits", f"{side}_phi") for side in ("target", "shadow")}
    for name in ("member_target", "member_shadow"):
        if name not in arrays:
            raise InputError(
                f"{path} has no array {name!r}, but expected bool[models, examples]: who was trained on; add it."
            )
    examples = arrays[sides["target"]].shape[1] if arrays[sides["target"]].ndim > 1 else 0
    labels = _labels(arrays, path, sides, examples)
    phi = {side: _of_logits(logit_margin, arrays[name], name, labels, path) for side, name in sides.items()}
    if phi["target"].shape[1:] != phi["shadow"].shape[1:]:
        raise InputError(
            f"{sides['target']} is of {phi['target'].shape[1]} examples under {phi['target'].shape[2]} queries and "
            f"{sides['shadow']} of {phi['shadow'].shape[1]} under {phi['shadow'].shape[2]}, but expected the same in "
            f"both; query all models on the same examples in the same order and save {path.name} again."
        )
    member = {
        side: _member(arrays[f"member_{side}"], f"member_{side}", phi[side].shape[:2], path) for side in sides
    }
    _refuse_same_models(phi["target"], phi["shadow"], member["target"], member["shadow"])
    probabilities = {}
    for side, name in sides.items():
        if probability == "softmax":
            probabilities[side] = expit(phi[side])
        elif name.endswith("phi"):
            raise InputError(
                f"{path} has {name!r}, but a Taylor softmax is of all logits; save {side}_logits, or attack with "
                "--probability=softmax."
            )
        else:
            probabilities[side] = _of_logits(taylor_softmax, arrays[name], name, labels, path)
    return AuditSignals(
        target_phi=phi["target"],
        shadow_phi=phi["shadow"],
        target_probability=probabilities["target"],
        shadow_probability=probabilities["shadow"],
        member_target=member["target"],
        member_shadow=member["shadow"],
        labels=labels,
        images=_images(arrays.get("images"), examples, path),
    )


def _read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    fix = "save it with np.savez(FILE, target_phi=..., shadow_phi=..., member_target=..., member_shadow=...)"
    try:
        with open_archive(path) as archive:
            unknown = [name for name in archive.files if name not in _ARRAYS]
            if unknown:
                close = difflib.get_close_matches(unknown[0], _ARRAYS, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(_ARRAYS)}."
                raise InputError(f"{path} has an array {unknown[0]!r}, which an audit does not read; {hint}")
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise InputError(f"--signals is {str(path)!r}, but there is no such file; check the path.") from None
    except UnreadableError as error:
        raise InputError(f"{path} cannot be read as plain arrays ({error}); {fix}.") from None


def _one_of(arrays: dict[str, np.ndarray], path: pathlib.Path, logits: str, phi: str) -> str:
    given = [name for name in (logits, phi) if name in arrays]
    if len(given) != 1:
        found = "both" if given else "neither"
        raise InputError(f"{path} has {found} of {logits!r} and {phi!r}, but expected exactly one; save one.")
    name = given[0]
    array = arrays[name]
    dimensions = (3,) if name == logits else (2, 3)
    if array.dtype.kind not in "f" or array.ndim not in dimensions or 0 in array.shape:
        shapes = "[models, examples, classes]" if name == logits else "[models, examples(, queries)]"
        raise InputError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}, but expected floats {shapes}; save it so."
        )
    if name == logits and array.shape[2] < 2:
        raise InputError(
            f"{name} has {array.shape[2]} class, but expected at least 2; save logits of all classes."
        )
    # A float64 may be beyond float32, to which logits are turned.
    with np.errstate(over="ignore"):
        finite = np.isfinite(array.astype(np.float32, copy=False))
    odd = int(np.count_nonzero(~finite))
    if odd:
        model = int(np.argmin(finite.all(axis=tuple(range(1, array.ndim)))))
        raise InputError(
            f"{name} has {odd:,} values that are not finite, the first in model {model}, but expected numbers in "
            "float32's range; leave out the models that diverged."
        )
    return name


def _labels(
    arrays: dict[str, np.ndarray], path: pathlib.Path, sides: dict[str, str], examples: int
) -> Int[np.ndarray, "N"] | None:
    labels = arrays.get("labels")
    of_logits = [name for name in sides.values() if name.endswith("logits")]
    if labels is None:
        if of_logits:
            raise InputError(f"{path} has {of_logits[0]!r} but no 'labels', but expected int[N]; add them.")
        return None
    if labels.dtype.kind not in "iu" or labels.shape != (examples,):
        raise InputError(
            f"labels have dtype {labels.dtype} and shape {list(labels.shape)}, but expected one integer for each of "
            f"{examples} examples; save them so."
        )
    classes = min((arrays[name].shape[2] for name in of_logits), default=None)
    if labels.min() < 0 or (classes is not None and labels.max() >= classes):
        raise InputError(
            f"labels lie in {labels.min()}..{labels.max()}, but expected 0..{(classes or labels.max() + 1) - 1}; "
            "number the classes as the logits' columns are."
        )
    return labels.astype(np.int64)


def _of_logits(
    function: Callable, array: np.ndarray, name: str, labels: Int[np.ndarray, "N"] | None, path: pathlib.Path
) -> Float[np.ndarray, "M N A"]:
    """`function(logits, labels)` of each model's logits, float32[M,N,1]; φ stays as it is."""
    if name.endswith("phi"):
        return array[..., None] if array.ndim == 2 else array
    models, examples, classes = array.shape
    if len(labels) != examples:
        raise InputError(
            f"{name} is of {examples} examples, but there are {len(labels)} labels; query all models on the same "
            f"examples and save {path.name} again."
        )
    found = np.empty((models, examples, 1), np.float32)
    rows = max(1, _BLOCK_ELEMENTS // classes)
    for model in range(models):
        for first in range(0, examples, rows):
            part = slice(first, first + rows)
            found[model, part, 0] = function(array[model, part], labels[part])
    return found


def _member(
    array: np.ndarray, name: str, shape: tuple[int, ...], path: pathlib.Path
) -> Bool[np.ndarray, "M N"]:
    if array.dtype != bool or array.shape != shape:
        raise InputError(
            f"{name} has dtype {array.dtype} and shape {list(array.shape)}, but expected bool{list(shape)}: one row a "
            f"model, one column an example; save {path.name} again."
        )
    one_sided = np.flatnonzero(array.all(axis=1) | ~array.any(axis=1))
    if one_sided.size and name == "member_target":
        raise InputError(
            f"Target {one_sided[0]} has {int(array[one_sided[0]].sum())} members among {shape[1]} examples, but "
            "expected members and non-members, as an attack is judged by telling the two apart; add examples."
        )
    return array


def _refuse_same_models(
    target_phi: Float[np.ndarray, "T N A"],
    shadow_phi: Float[np.ndarray, "K N A"],
    target_member: Bool[np.ndarray, "T N"],
    shadow_member: Bool[np.ndarray, "K N"],
) -> None:
    """Models of the same members whose φ differs by no more than another batch size makes it are one."""
    for target, member in enumerate(target_member):
        for shadow in np.flatnonzero((shadow_member == member).all(axis=1)):
            if np.allclose(target_phi[target], shadow_phi[shadow], rtol=1e-3, atol=1e-3):
                raise InputError(
                    f"Target {target} and shadow {shadow} have the same members and the same φ, but expected no target "
                    "among its own references; leave that shadow out."
                )


def _images(array: np.ndarray | None, examples: int, path: pathlib.Path) -> Any:
    if array is None:
        return None
    shape_is_right = (
        array.ndim in (3, 4) and len(array) == examples and array.size and array.shape[3:] in _DEPTHS
    )
    if array.dtype != np.uint8 or not shape_is_right:
        raise InputError(
            f"images have dtype {array.dtype} and shape {list(array.shape)}, but expected uint8 [N,H,W], gray, or "
            f"[N,H,W,3], in colour, of the {examples} examples; leave them out of {path.name}, or save them so."
        )
    return array[..., None] if array.ndim == 3 else array
