"""The attacker's classifier: was the example of a pair a member of the model before the deletion?

It learns on shadow pairs, whose truth the attacker knows, and is asked about the target's. Settings are those of Chen
et al., "When Machine Unlearning Jeopardizes Privacy", 2021, and its public code:

    logistic_regression  lbfgs, 400 iterations, on standardised features
    decision_tree        at most 10 leaves
    random_forest        500 trees, each leaf with 30 training pairs at least
    mlp                  scikit-learn's (100 hidden units), learning rate 0.01, early stopping on a tenth of the pairs

Two things are other than there. A leaf of the forest never needs more than a tenth of the pairs of the smaller side:
with 30 of, say, 40 a side no tree could split at all. And the MLP reads standardised features, which the public code is
known to do for logistic regression alone, because differences of well-generalised models are of the order of 0.01.
"""

import dataclasses
import difflib
import warnings

import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Num
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mu_jax.attacks.leaks import checked_posteriors
from mu_jax.config import InputError
from mu_jax.config.leaks import CLASSIFIERS

LEAF_PAIRS = 30
"""Training pairs in a leaf of the random forest, where either side has ten times as many."""

STOPPING_PAIRS = 10
"""On either side; with fewer, a tenth of the pairs says nothing, and the MLP runs through its 200 epochs."""

__all__ = ["CLASSIFIERS", "PairAttack", "classical_features", "fit_pair_attack"]


@dataclasses.dataclass(frozen=True, eq=False)
class PairAttack:
    """A fitted classifier."""

    classifier: str
    features: int
    """Numbers that it reads of each pair."""
    fitted: BaseEstimator
    """scikit-learn's."""

    def confidence(self, features: Float[Array | np.ndarray, "N F"]) -> Float64[np.ndarray, "N"]:
        """The probability that each pair's example was a member of the model before the deletion."""
        x = _checked(features)
        if x.shape[1] != self.features:
            raise InputError(
                f"features have {x.shape[1]} columns, but expected the {self.features} that the classifier learned; "
                "build them in the same way for shadow and target, over the same classes."
            )
        return np.asarray(self.fitted.predict_proba(x)[:, 1], np.float64) if len(x) else np.zeros(0)


def fit_pair_attack(
    features: Float[Array | np.ndarray, "N F"],
    is_member: Bool[Array | np.ndarray, "N"],
    classifier: str,
    seed: int,
) -> PairAttack:
    """Fit one of `CLASSIFIERS` to N shadow pairs: their features, and which of them belong to deleted members.

    `seed` draws what is random about the classifier; the same one gives the same bits, whatever the number of cores.
    InputError for an unknown classifier, features that are not finite, or fewer than two pairs on a side.
    """
    if classifier not in CLASSIFIERS:
        close = difflib.get_close_matches(str(classifier), CLASSIFIERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "'random_forest' is a good first one."
        raise InputError(
            f"the classifier is {classifier!r}, but expected one of {', '.join(CLASSIFIERS)}; {hint}"
        )
    x, member = _checked(features), np.asarray(is_member)
    if member.dtype != bool or member.shape != x.shape[:1]:
        raise InputError(
            f"is_member has dtype {member.dtype} and shape {list(member.shape)}, but expected bool[{len(x)}], one for "
            "each row of features; compare labels with `== 1` first."
        )
    smaller = int(min(member.sum(), np.sum(~member)))
    if smaller < 2:
        raise InputError(
            f"{member.sum()} of {member.size} shadow pairs are of deleted members, but expected two at least on either "
            "side; add shadow pairs."
        )
    fitted = _classifier(classifier, smaller, seed)
    with warnings.catch_warnings():
        # An MLP or a logistic regression that has not settled after the source's number of iterations is the source's
        # attack all the same.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted.fit(x, member.astype(np.int64))
    return PairAttack(classifier, x.shape[1], fitted)


def classical_features(before: Num[Array | np.ndarray, "N C"]) -> Float64[np.ndarray, "N C"]:
    """What the one-model attack reads, against which the pair attack stands: the first model's posteriors as they are.

    The source sorts nothing here, so neither does this.
    """
    return checked_posteriors(before, "before")


def _classifier(name: str, smaller: int, seed: int) -> BaseEstimator:
    if name == "logistic_regression":
        return make_pipeline(StandardScaler(), LogisticRegression(solver="lbfgs", max_iter=400))
    if name == "decision_tree":
        return DecisionTreeClassifier(max_leaf_nodes=10, random_state=seed)
    if name == "random_forest":
        # One job. With two on two cores, forests of 400 and of 4,000 pairs took 0.9 to 1.4 times as long, and threads
        # add up the trees' probabilities in the order in which they end, so that bits would depend on their number.
        leaf = min(LEAF_PAIRS, max(1, smaller // 10))
        return RandomForestClassifier(n_estimators=500, min_samples_leaf=leaf, random_state=seed, n_jobs=1)
    stopping = smaller >= STOPPING_PAIRS
    return make_pipeline(
        StandardScaler(),
        MLPClassifier(learning_rate_init=0.01, early_stopping=stopping, random_state=seed),
    )


def _checked(features: Float[Array | np.ndarray, "N F"]) -> Float64[np.ndarray, "N F"]:
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not x.shape[1]:
        raise InputError(
            f"features have shape {list(x.shape)}, but expected [pairs, numbers]; build them with construct_features."
        )
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise InputError(
            f"{np.sum(~finite)} of {len(x)} rows of features, row {np.argmin(finite)} the first, are not finite, but "
            "expected numbers; find the model that diverged."
        )
    return x
