"""How much privacy a deletion costs: the attack on the pair of models beside the attack on the first model alone.

Chen et al., "When Machine Unlearning Jeopardizes Privacy", 2021. Both attacks give each example a confidence that it
was a member of the first model. Their confidence in the TRUE answer is c for a deleted member and 1 − c for an example
that neither model has learned; with c_new of the pair attack and c_old of the classical one

    DegCount = mean of 1{c_new > c_old}        DegRate = mean of c_new − c_old

over both kinds of examples. DegCount above ½ or DegRate above 0 means that the deletion itself gave something away.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from mu_jax.config import InputError
from mu_jax.evaluation import roc
from mu_jax.evaluation.clustered_intervals import PairIntervals, pair_intervals
from mu_jax.evaluation.intervals import Interval

MEMBER_ABOVE = 0.5
"""An attack calls an example a member where its confidence is larger than this."""

Confidence = Float[Array | np.ndarray, "N"]
Truth = Bool[Array | np.ndarray, "N"]


def deg_count(new: Confidence, old: Confidence, is_member: Truth) -> float:
    """The share of examples of whose true answer the pair attack (`new`) is surer than the classical one (`old`).

    Where both are equally sure it counts as no degradation, so two attacks that agree everywhere have 0.
    """
    return float(np.mean(_gain(new, old, is_member) > 0))


def deg_rate(new: Confidence, old: Confidence, is_member: Truth) -> float:
    """By how much the pair attack is surer of the true answer, on average; in [−1, 1]."""
    return float(np.mean(_gain(new, old, is_member)))


def newly_exposed(new: Confidence, old: Confidence, is_member: Truth) -> float:
    """The share of deleted members that the pair attack calls members (> ½) and the classical attack does not.

    They are the ones that the deletion made vulnerable. Attacks without knowledge that call at random have ¼.
    """
    x, y, member = _checked(new, old, is_member)
    return float(np.mean((x[member] > MEMBER_ABOVE) & ~(y[member] > MEMBER_ABOVE)))


def evaluate_pair_attack(
    confidence: Confidence,
    classical: Confidence,
    is_member: Truth,
    cluster: Int[Array | np.ndarray, "N"],
    *,
    fpr: tuple[float, ...] = (0.001, 0.01, 0.1),
    level: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """All that is reported of an attack on N pairs, in strict JSON; fractions.

    `confidence` is the pair attack's, `classical` that of the attack on the first model alone, `cluster` numbers the
    original model that a pair belongs to. `auc_gain` is the difference of both areas. `accuracy` is balanced, with
    the confidences' own threshold ½ and so learned on shadow pairs; `advantage` is the pair attack's TPR − FPR there.
    `tpr_at_fpr` and `classical_tpr_at_fpr` are keyed by the rate, as in `{"0.01": 0.12}`. `interval` has [low, high] by
    the same names, from one set of resamples of the `resampled` units: the `originals`, or the pairs where an original
    stands alone (`mu_jax.evaluation.clustered_intervals`).
    """
    new, old, member = _checked(confidence, classical, is_member)
    area, former = roc.auc(new, member), roc.auc(old, member)
    called = new > MEMBER_ABOVE
    bounds = pair_intervals(new, old, member, cluster, fpr=fpr, level=level, samples=samples, seed=seed)
    return {
        "auc": area,
        "classical_auc": former,
        "auc_gain": area - former,
        "accuracy": roc.balanced_accuracy(called, member),
        "classical_accuracy": roc.balanced_accuracy(old > MEMBER_ABOVE, member),
        "advantage": roc.advantage(called, member),
        "tpr_at_fpr": {str(rate): roc.tpr_at_fpr(new, member, rate) for rate in fpr},
        "classical_tpr_at_fpr": {str(rate): roc.tpr_at_fpr(old, member, rate) for rate in fpr},
        "deg_count": deg_count(new, old, member),
        "deg_rate": deg_rate(new, old, member),
        "newly_exposed": newly_exposed(new, old, member),
        "interval": dict(_as_lists(bounds, fpr)),
        "originals": bounds.originals,
        "resampled": bounds.resampled,
        "members": int(member.sum()),
        "nonmembers": int(np.sum(~member)),
    }


def _as_lists(bounds: PairIntervals, fpr: tuple[float, ...]) -> Iterator[tuple[str, Any]]:
    for name, value in bounds._asdict().items():
        if isinstance(value, Interval):
            yield name, [float(end) for end in value]
        elif isinstance(value, Mapping):
            yield name, {str(rate): [float(end) for end in value[rate]] for rate in fpr}


def _gain(new: Confidence, old: Confidence, is_member: Truth) -> Float64[np.ndarray, "N"]:
    """c_new − c_old. Not 1 − c, whose rounding would make ties of confidences that differ, or the other way round."""
    x, y, member = _checked(new, old, is_member)
    return np.where(member, x - y, y - x)


def _checked(
    new: Confidence, old: Confidence, is_member: Truth
) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"], Bool[np.ndarray, "N"]]:
    both = []
    for name, given in (("new", new), ("old", old)):
        score, member = roc.checked(given, is_member)
        if score.min() < 0 or score.max() > 1:
            raise InputError(
                f"the {name} attack's confidences lie in [{score.min():.4g}, {score.max():.4g}], but expected "
                "probabilities of having been a member, in [0, 1]; give PairAttack.confidence."
            )
        both.append(score)
    return both[0], both[1], member
