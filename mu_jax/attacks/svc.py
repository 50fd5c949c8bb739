"""The SVC attack of the unlearning papers: how much of the forget set looks like examples never trained on.

Unlearn-Sparse (Jia et al., 2023), SalUn (Fan et al., 2024) and AMUN (Ebrahimpour-Boroojeny et al., 2025) report it as
MIA or MIS. A support-vector classifier reads ONE number per example off a model's output. It learns retained (member)
against test (non-member) examples of the very model that it is then asked about, so it needs no shadow models; and the
score is the share of the forget set that it calls non-member.

A score has no ideal of its own. Of a model retrained without the forget set it is about `test_nonmember`, since to that
model the forget set is one more test set, and this is seldom near 1: most test examples look like members. So compare
it with the retrained model's.

    confidence         p_y                                            "MIA" or "MIS" without a name usually is this one
    entropy            −Σ_j p_j log p_j                               does not look at the label
    modified_entropy   −(1 − p_y) log p_y − Σ_{j≠y} p_j log(1 − p_j)  Song & Mittal, 2021; public code for it is wrong
    correctness        1 where the largest logit is the label's       not the same as forget accuracy: see `svc_attack`

The first three are those of `mu_jax.attacks.signals`.
"""

import dataclasses
import difflib
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Float64, Int
from sklearn.svm import SVC

from mu_jax.attacks.signals import confidence, entropy, modified_entropy
from mu_jax.config import InputError

FEATURES = ("confidence", "entropy", "modified_entropy", "correctness")

TRAINED_SHARE = (4, 5)
"""Of the smaller of the retain and the test set, at most this share trains the classifier; the rest judges it."""


@dataclasses.dataclass(frozen=True)
class SvcAttack:
    """What the attack says of one model by one feature; shares in [0, 1]."""

    score: float
    """Share of the forget set called non-member."""
    retain_nonmember: float
    """Share of retained examples called non-member, of those that the classifier was not trained on."""
    test_nonmember: float
    """The same of test examples: what `score` is, up to chance, where the forget set is one more test set."""
    trained: int
    """Examples that the classifier was trained on, of each side."""
    held_out: int
    """Examples behind `retain_nonmember` and `test_nonmember`, each."""

    @property
    def accuracy(self) -> float:
        """Share of right answers on the retained and test examples that were held out; ½ is a guess."""
        return (1 - self.retain_nonmember + self.test_nonmember) / 2


def svc_attack(
    logits: Float[Array | np.ndarray, "N C"],
    labels: Int[Array | np.ndarray, "N"],
    *,
    retain: Int[np.ndarray, "R"],
    forget: Int[np.ndarray, "F"],
    test: Int[np.ndarray, "T"],
    features: Sequence[str] = FEATURES,
    max_each_side: int = 2000,
    seed: int = 0,
) -> dict[str, SvcAttack]:
    """The attack on one model by each of `features`, one classifier a feature on the same examples.

    `logits` and `labels` are those of N examples; `retain`, `forget` and `test` are rows of them, no row in two.
    scikit-learn's SVC with an RBF kernel exp(−(a − b)²), C = 3, on the feature as it is: gamma="auto" is 1 for one
    feature. Published code trains on the whole test set (10,000 on CIFAR) and as many retained examples, and tests
    nothing but the forget set. Here `seed` draws equally many of either side, `max_each_side` at most, since the time
    grows with their square; and four fifths at most of the smaller set, so that others, as many at most, are held out
    to judge the classifier by. All of the forget set is scored.

    What the classifier can say is limited by the feature. `correctness` has two values, so a wrong answer and a right
    one each get one verdict: usually the score is the forget set's error, but it is 0 where both get "member" and 1
    where both get "non-member". Where a feature has one value for all that it was trained on, as where no answer is
    wrong, that verdict means nothing: `accuracy` is then ½. So far from every training example, as an odd modified
    entropy may lie, the kernel is 0 and all get one verdict too.

    InputError for logits that are not finite, labels outside the classes, unknown features, or sets that are empty,
    overlap or have rows outside the N; the retain and the test set need two examples each.

    >>> z = np.array([[9, 0], [9, 0], [0, 1], [0, 1], [9, 0], [0, 1]], np.float32)
    >>> rows = {"retain": np.array([0, 1]), "test": np.array([2, 3]), "forget": np.array([4, 5])}
    >>> svc_attack(z, np.zeros(6, int), **rows)["confidence"].score
    0.5
    """
    _check_settings(features, max_each_side)
    z, y = np.asarray(logits), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or not np.issubdtype(y.dtype, np.integer):
        raise InputError(
            f"logits have shape {z.shape} and labels {y.shape} of {y.dtype}, but expected [N, C] and N integers; give "
            "one row of logits and one label for each example."
        )
    rows = checked_rows(len(y), retain=retain, forget=forget, test=test)
    smaller = min(len(rows["retain"]), len(rows["test"]))
    if smaller < 2:
        raise InputError(
            f"retain has {len(rows['retain'])} rows and test {len(rows['test'])}, but expected two at least, one to "
            "train the classifier on and one to judge it by; give more examples."
        )
    part, whole = TRAINED_SHARE
    trained = min(max_each_side, smaller * part // whole)
    held_out = min(max_each_side, smaller - trained)
    rng = np.random.default_rng(seed)
    inside, outside = (
        rng.choice(rows[side], trained + held_out, replace=False) for side in ("retain", "test")
    )
    groups = [inside[:trained], outside[:trained], inside[trained:], outside[trained:], rows["forget"]]
    ends = np.cumsum([len(group) for group in groups])[:-1]
    used = np.concatenate(groups)
    z, y = z[used], y[used]
    _check_outputs(z, y, used)
    values, attacks = _values(z, y), {}
    for feature in features:
        members, others, *asked = np.split(values[feature][:, None], ends)
        classifier = SVC(C=3.0, kernel="rbf", gamma="auto")
        classifier.fit(np.concatenate([members, others]), np.arange(2 * trained) < trained)
        retained, tested, forgotten = (float(np.mean(~classifier.predict(x))) for x in asked)
        attacks[feature] = SvcAttack(forgotten, retained, tested, trained, held_out)
    return attacks


def checked_rows(examples: int, **rows: Int[np.ndarray, "_"]) -> dict[str, Int[np.ndarray, "_"]]:
    """The named sets of rows among so many examples, if none is empty and no row stands twice; else InputError."""
    sets = {name: np.asarray(row) for name, row in rows.items()}
    for name, row in sets.items():
        if row.ndim != 1 or not row.size or not np.issubdtype(row.dtype, np.integer):
            raise InputError(
                f"{name} has shape {row.shape} and dtype {row.dtype}, but expected a vector of one or more integers; "
                "give the rows of its examples."
            )
        if row.min() < 0 or row.max() >= examples:
            raise InputError(
                f"{name} has rows {row.min()} to {row.max()}, but expected 0 to {examples - 1}; count rows in the "
                "arrays that are given."
            )
    found, counts = np.unique(np.concatenate(list(sets.values())), return_counts=True)
    if np.any(counts > 1):
        row = found[np.argmax(counts > 1)]
        where = [name for name, of in sets.items() for _ in range(np.sum(of == row))]
        raise InputError(
            f"{np.sum(counts > 1)} rows stand more than once, {row} the first, in {' and '.join(where)}, but expected "
            "each in one set and once; take them out of one."
        )
    return sets


def _values(z: Float[np.ndarray, "n C"], y: Int[np.ndarray, "n"]) -> dict[str, Float64[np.ndarray, "n"]]:
    """Every feature, in float64 as the classifier computes; one compilation for each number of examples."""
    signals = {name: np.asarray(value, np.float64) for name, value in _signals(z, y).items()}
    return signals | {"correctness": (np.argmax(z, axis=1) == y).astype(np.float64)}


@jax.jit
def _signals(z: Float[Array, "n C"], y: Int[Array, "n"]) -> dict[str, Float[Array, "n"]]:
    return {
        "confidence": confidence(z, y),
        "entropy": entropy(z),
        "modified_entropy": modified_entropy(z, y),
    }


def _check_settings(features: Sequence[str], max_each_side: int) -> None:
    if isinstance(features, str) or not features:
        raise InputError(
            f"features is {features!r}, but expected a list of one or more names; give ('confidence',) for one."
        )
    for name in features:
        if name not in FEATURES:
            close = difflib.get_close_matches(str(name), FEATURES, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "'confidence' is the published one."
            raise InputError(f"the feature is {name!r}, but expected one of {', '.join(FEATURES)}; {hint}")
    if max_each_side < 1:
        raise InputError(f"max_each_side is {max_each_side}, but expected 1 at least; 2000 is the default.")


def _check_outputs(z: Float[np.ndarray, "n C"], y: Int[np.ndarray, "n"], used: Int[np.ndarray, "n"]) -> None:
    finite = np.all(np.isfinite(z), axis=1)
    if not finite.all():
        raise InputError(
            f"{np.sum(~finite)} of {len(z)} rows of logits that the attack reads, {used[np.argmin(finite)]} the first, "
            "are not finite, but expected all to be; find the model that diverged."
        )
    if y.min() < 0 or y.max() >= z.shape[1]:
        raise InputError(
            f"labels run from {y.min()} to {y.max()}, but expected 0 to {z.shape[1] - 1}, the columns of the logits; "
            "give the label of each row."
        )
