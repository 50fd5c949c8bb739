"""scikit-learn's trees as models under attack: many of them, each fitted on rows of its own.

The settings are those of UnlearningLeaks (Chen et al., "When Machine Unlearning Jeopardizes Privacy", 2021, public
code): a decision tree of at most 10 leaves, or a random forest of 500 trees with at least 30 examples a leaf.
"""

import difflib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int, Real
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.parallel import Parallel, delayed

from mu_jax.config import InputError

SCIKIT_TARGETS = ("decision_tree", "random_forest")

_WORTH_PROCESSES = {"decision_tree": 1000, "random_forest": 4}
"""So many models take longer than processes to start: a tree is fitted in milliseconds, a forest in seconds."""


def fit_scikit(
    name: str,
    features: Real[np.ndarray, "N F"],
    labels: Int[np.ndarray, "N"],
    rows: Sequence[Int[np.ndarray, "_"]],
    queries: Real[np.ndarray, "Q F"],
    num_classes: int,
    seeds: Sequence[int],
    *,
    require_all_classes: bool = True,
    max_leaves: int = 10,
    trees: int = 500,
    min_leaf: int = 30,
    workers: int = 0,
) -> Float64[np.ndarray, "K Q C"]:
    """The posteriors of K models on all queries: model k is fitted on the rows `rows[k]`, with the seed `seeds[k]`.

    Features are read in float32, as they are: trees compare them with thresholds, so no scale matters; images are
    flattened by the caller. `max_leaves` belongs to the `decision_tree`; `trees` and `min_leaf` to the
    `random_forest`, whose trees cannot split fewer than twice `min_leaf` examples: fitted on so few, it gives every
    query the same. A class that a model has no row of gets probability 0, which tells an attacker of it; so it is an
    InputError unless `require_all_classes` is off. A model's posteriors depend on its rows (in their order) and its
    seed alone, not on its companions or on `workers`, the processes that share the models: 1 fits them here, 0 takes
    as many as there are cores where that is faster.

    InputError, too, for an unknown name, shapes that do not fit, values that are not finite in float32, labels that are
    no class, and rows that are empty or outside the N.
    """
    _check_settings(name, max_leaves, trees, min_leaf, workers)
    x, asked = _as_float32("features", features), _as_float32("queries", queries)
    _check_data(x, labels, asked, num_classes)
    _check_models(rows, seeds, labels, num_classes, require_all_classes)
    if workers == 0:
        workers = -1 if len(rows) >= _WORTH_PROCESSES[name] else 1
    settings = (name, max_leaves, trees, min_leaf)
    # Processes, because building and asking small trees holds the interpreter: two threads were no faster than one.
    answers = Parallel(n_jobs=workers, return_as="generator")(
        delayed(_fit_one)(settings, x, labels, chosen, asked, seed)
        for chosen, seed in zip(rows, seeds, strict=True)
    )
    posteriors = np.zeros((len(rows), len(asked), num_classes))
    for posterior, (classes, answer) in zip(posteriors, answers, strict=True):
        posterior[:, classes] = answer
    return posteriors


def _fit_one(
    settings: tuple[str, int, int, int],
    x: Float32[np.ndarray, "N F"],
    labels: Int[np.ndarray, "N"],
    chosen: Int[np.ndarray, "_"],
    asked: Float32[np.ndarray, "Q F"],
    seed: int,
) -> tuple[Int[np.ndarray, "c"], Float64[np.ndarray, "Q c"]]:
    """The classes that the model knows, and their posteriors."""
    name, max_leaves, trees, min_leaf = settings
    if name == "decision_tree":
        model = DecisionTreeClassifier(max_leaf_nodes=max_leaves, random_state=seed)
    else:
        model = RandomForestClassifier(trees, min_samples_leaf=min_leaf, random_state=seed)
    model.fit(x[chosen], labels[chosen])
    return model.classes_, model.predict_proba(asked)


def _as_float32(key: str, values: Real[np.ndarray, "N F"]) -> Float32[np.ndarray, "N F"]:
    if values.ndim != 2 or 0 in values.shape:
        raise InputError(
            f"{key} have shape {values.shape}, but expected [examples, features], none of them 0; flatten images first."
        )
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(values, np.float32)
    finite = np.isfinite(narrow)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise InputError(
            f"{key} hold {np.sum(~finite)} values that are not finite in float32, the first in row {row} and column "
            f"{column}, but expected numbers alone; fill in or drop what is missing."
        )
    return narrow


def _check_settings(name: str, max_leaves: int, trees: int, min_leaf: int, workers: int) -> None:
    if name not in SCIKIT_TARGETS:
        close = difflib.get_close_matches(name, SCIKIT_TARGETS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "networks are made by mu_jax.models.build_model."
        raise InputError(f"the model is {name!r}, but expected one of {', '.join(SCIKIT_TARGETS)}; {hint}")
    for key, got, least in (
        ("max_leaves", max_leaves, 2),
        ("trees", trees, 1),
        ("min_leaf", min_leaf, 1),
        ("workers", workers, 0),
    ):
        if got < least:
            raise InputError(f"{key} is {got}, but expected {least} at least; change it.")


def _check_data(
    x: Float32[np.ndarray, "N F"],
    labels: Int[np.ndarray, "N"],
    asked: Float32[np.ndarray, "Q F"],
    num_classes: int,
) -> None:
    if x.shape[1] != asked.shape[1] or labels.shape != x.shape[:1]:
        raise InputError(
            f"features have shape {x.shape}, queries {asked.shape} and labels {labels.shape}, but expected as many "
            "columns in both, and a label for each row of features; give those of one table."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InputError(
            f"labels run from {labels.min()} to {labels.max()}, but expected 0 to {num_classes - 1}; renumber the "
            "classes, or raise num_classes."
        )


def _check_models(
    rows: Sequence[Int[np.ndarray, "_"]],
    seeds: Sequence[int],
    labels: Int[np.ndarray, "N"],
    num_classes: int,
    require_all_classes: bool,
) -> None:
    if not len(rows) or len(rows) != len(seeds):
        raise InputError(
            f"There are rows of {len(rows)} models and {len(seeds)} seeds, but expected one model at least and a "
            "seed for each; give a seed a model."
        )
    for k, (chosen, seed) in enumerate(zip(rows, seeds, strict=True)):
        if not 0 <= seed < 2**32:
            raise InputError(
                f"seeds[{k}] is {seed}, but expected a number in [0, 2³²); take the seed modulo 2³²."
            )
        if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(labels):
            held = f"{chosen.min()} to {chosen.max()}" if len(chosen) else "none"
            raise InputError(
                f"rows[{k}] are {held}, but expected rows 0 to {len(labels) - 1}, one at least; count them in features."
            )
        found = np.bincount(labels[chosen], minlength=num_classes)
        if require_all_classes and not found.all():
            raise InputError(
                f"class {np.argmin(found)} is absent from the {len(chosen)} rows of model {k} (a shard, under SISA), "
                "but expected every class in each, since a model that lacks one says so; make fewer shards, give more "
                "examples, or allow it with require_all_classes=False."
            )
