"""The embedded default: handwritten digits that ship with scikit-learn."""

import numpy as np

from mu_jax.data.dataset import Dataset
from mu_jax.data.stratified import stratified_test

_TEST_EXAMPLES = 500


def load() -> Dataset:
    """1,797 real 8×8 images of UCI's "Optical Recognition of Handwritten Digits": 1,297 train, 500 test.

    Pixel values 0..16 become uint8 0..255. The split is the same in every run, whatever its seed.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.round(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int32)
    test = stratified_test(labels, _TEST_EXAMPLES)
    return Dataset(
        name="digits (scikit-learn)",
        x_train=images[~test],
        y_train=labels[~test],
        x_test=images[test],
        y_test=labels[test],
        class_names=tuple(str(digit) for digit in range(10)),
    )
