"""Attacks on nothing but posteriors: the three adversaries of ML-Leaks. They need no label and no logits.

Salem et al., "ML-Leaks: Model and Data Independent Membership Inference Attacks and Defenses on Machine Learning
Models", 2019. An adversary with a shadow model learns what posteriors of members look like there, and applies it to the
target; one without reads the largest posterior. What an ensemble releases, a mean of posteriors or the one-hot of a
majority vote, is a posterior like any other.
"""

import dataclasses
import difflib
import warnings
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Float64, Num
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mu_jax.attacks.loss import balanced_indices
from mu_jax.config import InputError

CLASSIFIERS = ("logistic", "forest", "tree", "mlp")

SUM_TOLERANCE = 1e-3
"""How far a row may be from summing to one: rounding to float16 passes, logits and counts of votes do not."""

BLOCK_ELEMENTS = 2**20
"""Posteriors held in float64 at a time, so that an array larger than memory can be attacked from disk."""


@dataclasses.dataclass(frozen=True)
class PosteriorAttack:
    """What the attack says of each of N examples."""

    scores: Float64[np.ndarray, "N"]
    """Probability of being a member, in [0, 1], for as many members as non-members."""
    predicted: Bool[np.ndarray, "N"]
    """Called a member: a score above ½. A score of ½ exactly calls nobody."""


@dataclasses.dataclass(frozen=True)
class ShadowClassifier:
    """An attack fitted on one shadow model, for any number of targets."""

    pipeline: Pipeline
    classes: int
    """Classes of the shadow model."""
    top: int | None

    def attack(self, target: Num[Array | np.ndarray, "N C"]) -> PosteriorAttack:
        """Score a target's posteriors. With `top=None` the target needs as many classes as the shadow."""
        features = _features("target", target, self.top)
        classes = np.shape(target)[1]
        if self.top is None and classes != self.classes:
            raise InputError(
                f"target has {classes} classes and the shadow {self.classes}, but expected the same number where all "
                "posteriors are features; set top, such as 3, to compare models of different tasks."
            )
        scores = self.pipeline.predict_proba(_padded(features, self.top))[:, 1]
        return PosteriorAttack(scores, scores > 0.5)


def posterior_features(
    posteriors: Num[Array | np.ndarray, "N C"], top: int | None = 3
) -> Float64[np.ndarray, "N F"]:
    """The `top` largest posteriors of each example in descending order; None: all of them.

    Sorted, they are features that do not depend on which class was predicted. Rows are probabilities: InputError where
    one is not finite, is negative, or does not sum to 1 within `SUM_TOLERANCE`, and where there are no rows or fewer
    than two classes. The array may be a read-only memory map.

    >>> posterior_features(np.array([[0.25, 0.5, 0.0, 0.25]]))
    array([[0.5 , 0.25, 0.25]])
    """
    return _features("posteriors", posteriors, top)


def largest_posterior(posteriors: Num[Array | np.ndarray, "N C"]) -> Float64[np.ndarray, "N"]:
    """ML-Leaks' adversary 3: the largest posterior max_j p_j of each example, in [0, 1]; members tend to be surer.

    Nothing is trained, and it only scores. To decide, bring a threshold learned where membership is known, such as
    `mu_jax.evaluation.thresholds.best_threshold` on another model, or report every threshold at once as the ROC curve.
    """
    return _features("posteriors", posteriors, 1)[:, 0]


def posterior_attack(
    shadow_member: Num[Array | np.ndarray, "S Cs"],
    shadow_nonmember: Num[Array | np.ndarray, "M Cn"],
    target: Num[Array | np.ndarray, "N C"],
    *,
    classifier: str = "logistic",
    top: int | None = 3,
    seed: int = 0,
) -> PosteriorAttack:
    """ML-Leaks' adversaries 1 and 2: learn members' posteriors on a shadow model, and score the target's.

    Adversary 1's shadow was trained on data of the target's distribution, adversary 2's on another data set, perhaps
    with another number of classes. The roles are the threat model's: the shadow's outputs train the classifier, the
    target's are only scored. (The authors' code for adversary 1 trains on the target's and tests on the shadow's.)
    `fit_posterior_attack` documents the settings, and fits once for many targets.
    """
    return fit_posterior_attack(
        shadow_member, shadow_nonmember, classifier=classifier, top=top, seed=seed
    ).attack(target)


def fit_posterior_attack(
    shadow_member: Num[Array | np.ndarray, "S Cs"],
    shadow_nonmember: Num[Array | np.ndarray, "M Cn"],
    *,
    classifier: str = "logistic",
    top: int | None = 3,
    seed: int = 0,
) -> ShadowClassifier:
    """Fit a classifier of members against non-members on one shadow model's posteriors (so Cs = Cn).

    Features are those of `posterior_features`; a model of fewer than `top` classes gets zeros for those it lacks.
    Cut points learned on many classes may lie below any posterior of few (two classes' largest is at least ½): a tree
    then gives everybody one score, so prefer `logistic` across tasks.

    The classifier sees equally many examples of either side, the smaller side whole and the larger drawn by `seed`:
    one rule for classifiers with class weights and without, under which a score of ½ means no evidence.

    `logistic`: logistic regression, an L2 penalty of 1 on standardised features, as in scikit-learn. `mlp`: one hidden
    layer of 64 units on standardised features, Adam at 0.01, stopped early on a tenth of the examples where either side
    has 50. `tree`: at most 10 leaves, so at most 10 distinct scores: see `tie_rate`. `forest`: 200 trees with leaves of
    at least 30 examples (of a tenth of a side where it has fewer than 300). The standardisation too is the shadow's.
    """
    if classifier not in CLASSIFIERS:
        close = difflib.get_close_matches(classifier, CLASSIFIERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "'logistic' is the default."
        raise InputError(
            f"classifier is {classifier!r}, but expected one of {', '.join(CLASSIFIERS)}; {hint}"
        )
    inside = _padded(_features("shadow_member", shadow_member, top), top)
    outside = _padded(_features("shadow_nonmember", shadow_nonmember, top), top)
    classes, others = np.shape(shadow_member)[1], np.shape(shadow_nonmember)[1]
    if classes != others:
        raise InputError(
            f"shadow_member has {classes} classes and shadow_nonmember {others}, but expected the outputs of one "
            "shadow model; query the same model on the examples it was trained on and on those it was not."
        )
    chosen_in, chosen_out = balanced_indices(len(inside), len(outside), seed)
    features = np.concatenate([inside[chosen_in], outside[chosen_out]])
    is_member = np.arange(len(features)) < len(chosen_in)
    pipeline = _pipeline(classifier, len(chosen_in), seed)
    with warnings.catch_warnings():
        # A solver that stops early is an attacker's classifier all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline.fit(features, is_member)
    return ShadowClassifier(pipeline, classes, top)


def tie_rate(scores: Num[Array | np.ndarray, "N"]) -> float:
    """The share of examples whose score is exactly another's: the resolution that an attack lacks.

    >>> tie_rate(np.array([0.5, 0.5, 1.0, 0.0]))
    0.5
    """
    score = np.asarray(scores)
    if score.ndim != 1 or score.size == 0 or np.any(np.isnan(score)):
        raise InputError(
            f"scores have shape {score.shape} and {np.sum(np.isnan(score))} are NaN, but expected a vector of numbers, "
            "one at least; pass an attack's scores."
        )
    counts = np.unique(score, return_counts=True)[1]
    return float(np.sum(counts[counts > 1]) / score.size)


def _pipeline(classifier: str, each_side: int, seed: int) -> Pipeline:
    """Trees only compare numbers with thresholds; the other classifiers want one scale for all features."""
    estimators: dict[str, BaseEstimator] = {
        "logistic": LogisticRegression(max_iter=400),
        "mlp": MLPClassifier(
            (64,), learning_rate_init=0.01, early_stopping=each_side >= 50, random_state=seed
        ),
        "tree": DecisionTreeClassifier(max_leaf_nodes=10, random_state=seed),
        "forest": RandomForestClassifier(
            200, min_samples_leaf=min(30, max(1, each_side // 10)), random_state=seed
        ),
    }
    scaler = [StandardScaler()] if classifier in ("logistic", "mlp") else []
    return make_pipeline(*scaler, estimators[classifier])


def _padded(features: Float64[np.ndarray, "N F"], top: int | None) -> Float64[np.ndarray, "N T"]:
    """Zeros for the classes that a model lacks: no posterior is left for them."""
    missing = 0 if top is None else top - features.shape[1]
    return np.pad(features, ((0, 0), (0, missing)))


def _features(
    name: str, posteriors: Num[Array | np.ndarray, "N C"], top: int | None
) -> Float64[np.ndarray, "N F"]:
    if top is not None and top < 1:
        raise InputError(
            f"top is {top}, but expected a positive number of posteriors, or None for all; use 3."
        )
    array = np.asarray(posteriors)
    if array.ndim != 2 or array.shape[0] == 0 or array.shape[1] < 2:
        raise InputError(
            f"{name} has shape {array.shape}, but expected a row for each of one or more examples and a column for "
            "each of two or more classes; for a binary classifier's probability p pass the columns 1 − p and p."
        )
    kept = array.shape[1] if top is None else min(top, array.shape[1])
    features = np.empty((array.shape[0], kept))
    for start, rows in _checked_blocks(name, array):
        if kept < rows.shape[1]:
            rows = np.partition(rows, rows.shape[1] - kept, axis=1)[:, -kept:]
        features[start : start + len(rows)] = np.sort(rows, axis=1)[:, ::-1]
    return features


def _checked_blocks(
    name: str, array: Num[np.ndarray, "N C"]
) -> Iterator[tuple[int, Float64[np.ndarray, "R C"]]]:
    """Consecutive rows in float64 with the place of the first, once they are known to be probabilities."""
    size = max(1, BLOCK_ELEMENTS // array.shape[1])
    for start in range(0, array.shape[0], size):
        rows = np.asarray(array[start : start + size], np.float64)
        finite, negative = np.all(np.isfinite(rows), axis=1), np.any(rows < 0, axis=1)
        # A row that is not finite has no sum worth a warning.
        total = np.sum(rows, axis=1, where=finite[:, None])
        bad = np.flatnonzero(~finite | negative | (np.abs(total - 1) > SUM_TOLERANCE))
        if bad.size:
            row = bad[0]
            if not finite[row]:
                fault = "is not finite"
            elif negative[row]:
                fault = f"holds {rows[row].min():g}"
            else:
                fault = f"sums to {total[row]:g}"
            raise InputError(
                f"row {start + row} of {name} {fault}, but expected probabilities, none negative, that sum to 1 within "
                f"{SUM_TOLERANCE:g}; apply a softmax to logits, and divide votes by their number."
            )
        yield start, rows
