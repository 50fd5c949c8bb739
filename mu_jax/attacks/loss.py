"""Attacks on nothing but an example's loss: the threshold attack, and the logistic regression on it."""

import dataclasses
import warnings

import numpy as np
from jaxtyping import Array, Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from mu_jax.attacks.signals import cross_entropy
from mu_jax.config import InputError


def loss_scores(
    logits: Float[Array | np.ndarray, "*batch C"], labels: Int[Array | np.ndarray, "*batch"]
) -> Float[Array, "*batch"]:
    """Minus the cross-entropy, in nats: members tend to have the smaller loss.

    Yeom et al., "Privacy Risk in Machine Learning", 2018. Every threshold on it at once is its ROC curve, so
    the threshold attack is these scores and `mu_jax.evaluation.roc`.
    """
    return -cross_entropy(logits, labels)


@dataclasses.dataclass(frozen=True)
class ShuffleSplitPredictions:
    """What the logistic regressions said of the examples they did not see: S splits of T examples each."""

    example: Int[np.ndarray, "S T"]
    """Position in members followed by non-members."""
    predicted: Bool[np.ndarray, "S T"]
    """Whether the example was called a member."""
    is_member: Bool[np.ndarray, "S T"]
    trained: int
    """Examples that each split's classifier was fitted to; members and non-members are half of all each."""

    @property
    def split_accuracy(self) -> Float[np.ndarray, "S"]:
        """Share of right answers in each split."""
        return np.mean(self.predicted == self.is_member, axis=1)


def logistic_loss_attack(
    member_loss: Float[Array | np.ndarray, "N"],
    nonmember_loss: Float[Array | np.ndarray, "N"],
    *,
    splits: int = 10,
    test_size: float = 0.1,
    seed: int = 0,
) -> ShuffleSplitPredictions:
    """Logistic regression on the scalar loss, judged on random stratified hold-outs.

    The attack of the NeurIPS 2023 machine-unlearning challenge's starting kit: scikit-learn's logistic
    regression and `StratifiedShuffleSplit` at their defaults. The splits are drawn independently, so an
    example may be tested several times or never, and the classifiers share most of their training data: the
    interval that knows so is `mu_jax.evaluation.intervals.shuffle_split_accuracy_interval`. Both classes need
    the same number of examples (`balanced_indices` draws them), else always answering the larger class would
    pass for knowledge.
    """
    member, nonmember = np.asarray(member_loss, np.float64), np.asarray(nonmember_loss, np.float64)
    if member.shape != nonmember.shape or member.ndim != 1:
        raise InputError(
            f"member_loss has shape {member.shape} and nonmember_loss {nonmember.shape}, but expected two "
            "vectors of the same length; draw equal numbers with balanced_indices."
        )
    loss = np.concatenate([member, nonmember])
    if not np.all(np.isfinite(loss)):
        raise InputError(
            f"{np.sum(~np.isfinite(loss))} of {loss.size} losses are not finite, but expected all to be; "
            "compute them with mu_jax.attacks.signals.cross_entropy, which is finite for finite logits."
        )
    if not 0 < test_size < 1 or splits < 1:
        raise InputError(
            f"test_size is {test_size} and splits {splits}, but expected a share in (0, 1) and at least 1 "
            "split; the challenge kit uses 0.1 and 10."
        )
    tested = int(np.ceil(test_size * loss.size))
    if min(tested, loss.size - tested) < 2:
        raise InputError(
            f"{member.size} members, as many non-members and test_size {test_size} hold out {tested} of "
            f"{loss.size} examples, but expected at least 2 on either side; give more examples "
            "or another test_size."
        )
    is_member = np.arange(loss.size) < member.size
    splitter = StratifiedShuffleSplit(n_splits=splits, test_size=test_size, random_state=seed)
    example, predicted = [], []
    for train, test in splitter.split(loss[:, None], is_member):
        with warnings.catch_warnings():
            # A solver that stops early on losses of wild scale is the kit's attack all the same.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier = LogisticRegression().fit(loss[train, None], is_member[train])
        example.append(test)
        predicted.append(classifier.predict(loss[test, None]))
    tests = np.stack(example)
    return ShuffleSplitPredictions(tests, np.stack(predicted), is_member[tests], loss.size - tests.shape[1])


def balanced_indices(
    num_members: int, num_nonmembers: int, seed: int
) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "n"]]:
    """Equally many members and non-members, at random: the smaller class whole, both in ascending order."""
    if min(num_members, num_nonmembers) < 1:
        raise InputError(
            f"there are {num_members} members and {num_nonmembers} non-members, but expected at least one of "
            "each; choose a forget set and a test set that are not empty."
        )
    rng = np.random.default_rng(seed)
    n = min(num_members, num_nonmembers)
    members, nonmembers = (
        np.sort(rng.choice(size, n, replace=False)) for size in (num_members, num_nonmembers)
    )
    return members, nonmembers
