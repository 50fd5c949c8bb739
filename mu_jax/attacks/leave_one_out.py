"""Each model of a pool as the target in turn, the others as its references, with no leak by counting.

In a pool where each example is in the same number of the K models, an example that the target was trained on is left
with one IN model fewer and one OUT model more than the others, and any score that feels how many there are tells
members by that alone. So with the target goes, for each example, one model on the other side: what is left of either
side is then the same number for all. Where examples differ in the number of models that hold them, this does *not*
help, and plain exclusion may not either: `balance.py` is for those.
"""

import numpy as np
from jaxtyping import Bool, Int

from mu_jax.config import InputError


def opposite_models(member: Bool[np.ndarray, "K N"]) -> Int[np.ndarray, "K N"]:
    """For each target and example the model that leaves with the target: its membership is the other one.

    It is the target's neighbour (0 and 1, 2 and 3, …) where that one's membership differs, else the next model, in
    cyclic order, whose does. In a pool of complementary pairs it is always the pair's other half, which must never be
    a reference: it holds exactly what the target does not. int32; InputError where an example has no model on one side.

    >>> opposite_models(np.array([[True, False], [False, False], [True, True], [False, True]]))[:, 0]
    array([1, 0, 3, 2], dtype=int32)
    """
    member = np.asarray(member)
    models, examples = member.shape
    one_sided = np.flatnonzero(member.all(axis=0) | ~member.any(axis=0))
    if one_sided.size:
        raise InputError(
            f"{one_sided.size} of {examples} examples, {one_sided[0]} the first, are on one side in all {models} "
            "models, but expected each to be a member in some and not in others; drop these examples, or add models."
        )
    found = np.full(member.shape, -1, np.int32)
    for target in range(models):
        left = np.arange(examples)
        for other in (target ^ 1, *(np.arange(target + 1, target + models) % models)):
            if other >= models or not left.size:
                continue
            differs = member[other, left] != member[target, left]
            found[target, left[differs]] = other
            left = left[~differs]
    return found
