"""References of which every example has equally many on either side, so that no score can tell members by counting.

How noisy a score is depends on how many references it rests on. Where the number of references that were trained on
an example has anything to do with whether the target was, scores that know nothing tell members apart. Of null signals,
when targets and references were cut from one pool of exact halves, LiRA has AUC 0.46 with 2 targets and 8 references,
0.48 with 4 and 12; when each membership was drawn by coin and one model leaves on either side, 0.52 at K = 16.
"""

import numpy as np
from jaxtyping import Bool, Int, Shaped

from mu_jax.config import InputError


def is_balanced(member: Bool[np.ndarray, "K N"]) -> bool:
    """Whether every example is a member of the same number of models."""
    counts = np.asarray(member).sum(axis=0)
    return bool(counts.size == 0 or counts.min() == counts.max())


def balanced_references(
    member: Bool[np.ndarray, "K N"], *, online: bool = True
) -> tuple[Int[np.ndarray, "R N"], Bool[np.ndarray, "R N"]]:
    """For each example its first n_in IN models and then its first n_out OUT models: rows of one side each.

    n_in (0 where the attack is not `online`) and n_out are the least that any example has, and what an example has
    beyond them is left out. `take_references` reads signals by them. InputError where an example has none on a side.

    >>> balanced_references(np.array([[True, True], [True, False], [False, False]]))[0]
    array([[0, 0],
           [2, 1]])
    """
    member = np.asarray(member)
    models, examples = member.shape
    inside = member.sum(axis=0)
    sides = {"IN": inside, "OUT": models - inside} if online else {"OUT": models - inside}
    for side, count in sides.items():
        if not count.min():
            fix = " or attack offline," if side == "IN" else ""
            raise InputError(
                f"{np.count_nonzero(count == 0)} of {examples} examples, {int(np.argmin(count))} the first, have no "
                f"{side} reference, but expected one at least; drop these examples,{fix} or add references."
            )
    least_in, least_out = int(inside.min()) if online else 0, int(models - inside.max())
    # A stable sort by side keeps the models' order within each.
    order = np.argsort(~member, axis=0, kind="stable")
    rows = np.concatenate(
        [order[:least_in], np.take_along_axis(order, inside + np.arange(least_out)[:, None], axis=0)]
    )
    is_in = np.repeat([True, False], [least_in, least_out])
    return rows, np.repeat(is_in[:, None], examples, axis=1)


def take_references(
    signals: Shaped[np.ndarray, "K N *A"], rows: Int[np.ndarray, "R N"]
) -> Shaped[np.ndarray, "R N *A"]:
    """Of each example the signals of its own references; a copy."""
    return np.asarray(signals)[rows, np.arange(rows.shape[1])]
