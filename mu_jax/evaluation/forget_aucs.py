"""RMIA's view of a forget set: does the model tell it from test examples, and from what it was left with?"""

import dataclasses
import statistics

import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mu_jax.attacks.rmia import rmia_scores
from mu_jax.attacks.svc import checked_rows
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc


@dataclasses.dataclass(frozen=True)
class ForgetAucs:
    """Three AUCs of one attack on one model, each the mean over draws of equally many examples of either side.

    A standard deviation (dividing by draws − 1; None for one draw) says how much the draws matter. It is 0 where the
    two sets are of one size, and never says how sure the mean is: intervals are for other forget sets and other models.
    """

    forget_vs_test: float
    """FT: forgotten examples as members, test examples as non-members; ½ where nothing of them is left."""
    forget_vs_retain: float
    """FR: retained examples as members, forgotten ones as non-members; `retain_vs_test` where nothing is left."""
    retain_vs_test: float
    """RT: what the attack makes of members of this model at all, and so what FR can reach."""
    forget_vs_test_sd: float | None
    forget_vs_retain_sd: float | None
    retain_vs_test_sd: float | None


def forget_aucs(
    target_prob: Float[Array | np.ndarray, "N"],
    reference_prob: Float[Array | np.ndarray, "K N"],
    reference_member: Bool[np.ndarray, "K N"],
    *,
    retain: Int[np.ndarray, "R"],
    forget: Int[np.ndarray, "F"],
    test: Int[np.ndarray, "T"],
    gamma: float = 2.0,
    draws: int = 3,
    seed: int = 0,
) -> ForgetAucs:
    """FT, FR and RT AUC of one target by online RMIA with a pool of references, as AMUN (2025) reports them.

    Probabilities are those of the true class of N examples, of which `retain`, `forget` and `test` are rows, no row in
    two. `reference_member[k, n]` says whether reference k trained on example n, so a pool must be trained on subsets of
    training AND test images. The references must not hold the target. AMUN reads the probabilities by the soft-margin
    Taylor softmax: `mu_jax.attacks.taylor_softmax`.

    All N examples are scored once, by `mu_jax.attacks.rmia.rmia_scores(mode="online")`; each draw takes the smaller set
    of a pair whole and as many of the larger. The population that an example is compared with are the test examples
    (never itself), because no target here was trained on them; AMUN's code takes all other examples, the target's
    members among them, and for p(x) the plain mean over references, which leaks where the pool is not balanced.

    The pool is not copied, but for its columns of the test set where their rows are not consecutive. InputError for
    sets that are empty, overlap or have rows outside the N, for fewer draws than one, and for all that `rmia_scores`
    refuses: probabilities that are not finite, and an example, in a set or not, that no reference was trained on, or
    all were; leave such columns out.
    """
    if draws < 1:
        raise InputError(f"draws is {draws}, but expected 1 at least; AMUN uses 3.")
    target, reference, member = (
        np.asarray(target_prob),
        np.asarray(reference_prob),
        np.asarray(reference_member),
    )
    if target.ndim != 1 or reference.shape[1:] != target.shape or member.shape != reference.shape:
        raise InputError(
            f"target_prob has shape {target.shape}, reference_prob {reference.shape} and reference_member "
            f"{member.shape}, but expected [N], [K, N] and [K, N]; query target and references on the same examples."
        )
    rows = checked_rows(len(target), retain=retain, forget=forget, test=test)
    population = rows["test"]
    # A slice is a view of the pool, where an array of rows is a copy.
    consecutive = np.all(np.diff(population) == 1)
    columns = slice(int(population[0]), int(population[-1]) + 1) if consecutive else population
    scores = rmia_scores(
        target,
        reference,
        member,
        target[columns],
        reference[:, columns],
        population_member=member[:, columns],
        population_index=population,
        mode="online",
        gamma=gamma,
    )
    pairs = {
        "forget_vs_test": ("forget", "test"),
        "forget_vs_retain": ("retain", "forget"),
        "retain_vs_test": ("retain", "test"),
    }
    figures: dict[str, float | None] = {}
    for name, (members, others) in pairs.items():
        # One stream for each draw, so that more draws, or another pair, leave the first ones as they are.
        areas = [
            _drawn_auc(scores[rows[members]], scores[rows[others]], np.random.default_rng([seed, draw]))
            for draw in range(draws)
        ]
        # Exact arithmetic: draws that are equal are their own mean, and have no spread.
        figures[name] = float(statistics.mean(areas))
        figures[f"{name}_sd"] = float(statistics.stdev(areas)) if draws > 1 else None
    return ForgetAucs(**figures)


def _drawn_auc(
    members: Float[np.ndarray, "M"], others: Float[np.ndarray, "O"], rng: np.random.Generator
) -> float:
    size = min(len(members), len(others))
    drawn = [rng.choice(side, size, replace=False) for side in (members, others)]
    return auc(np.concatenate(drawn), np.arange(2 * size) < size)
