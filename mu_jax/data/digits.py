"""The embedded default: handwritten digits that ship with scikit-learn."""

import numpy as np

from mu_jax.data.dataset import Dataset

_TEST_EXAMPLES = 500
_SPLIT_SEED = 20260101


def load() -> Dataset:
    """1,797 real 8×8 images of UCI's "Optical Recognition of Handwritten Digits": 1,297 train, 500 test.

    Pixel values 0..16 become uint8 0..255. The split is the same in every run, whatever its seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = _stratified(labels, _TEST_EXAMPLES)
    return Dataset(
        name="digits (scikit-learn)",
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )


def _stratified(labels: np.ndarray, size: int) -> np.ndarray:
    # At random, because the stored order goes writer by writer: with a prefix for training, the test set
    # would come from other hands, and an attack would see that shift in place of membership.
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
