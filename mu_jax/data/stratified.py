"""A test set in which every class has its share, the same in every run."""

import numpy as np
from jaxtyping import Bool, Int32

_SPLIT_SEED = 20260101


def stratified_test(labels: Int32[np.ndarray, "N"], size: int) -> Bool[np.ndarray, "N"]:
    """Which `size` of the N examples are for testing: of each class its share, to within one example.

    Drawn at random, but from a seed that is no setting: all runs share the split.
    """
    # At random, because stored orders have meaning: digits go writer by writer, so with a prefix for training the
    # test set would come from other hands, and an attack would see that shift in place of membership.
    stream = np.random.default_rng(_SPLIT_SEED)
    counts = np.bincount(labels)
    exact = counts * (size / len(labels))
    share = np.floor(exact).astype(int)
    largest_remainders = np.argsort(share - exact, kind="stable")[: size - share.sum()]
    share[largest_remainders] += 1
    chosen = np.zeros(len(labels), bool)
    for label, wanted in enumerate(share):
        chosen[stream.permutation(np.flatnonzero(labels == label))[:wanted]] = True
    return chosen
