"""Two small tables that ship with scikit-learn: breast cancer and wine."""

import numpy as np

from mu_jax.data.dataset import Dataset
from mu_jax.data.stratified import stratified_test

TABLES = ("breast_cancer", "wine")
_TEST_EXAMPLES = {"breast_cancer": 169, "wine": 54}


def load(name: str) -> Dataset:
    """One of `TABLES`, rows float32 [N,1,1,F] in the units of their source.

    `breast_cancer` is UCI's "Breast Cancer Wisconsin (Diagnostic)": 30 columns, 2 classes, 400 train, 169 test.
    `wine` is UCI's "Wine recognition": 13 columns, 3 classes, 124 train, 54 test. The splits are stratified and the
    same in every run, whatever its seed.
    """
    from sklearn.datasets import load_breast_cancer, load_wine

    bunch = {"breast_cancer": load_breast_cancer, "wine": load_wine}[name]()
    rows = bunch.data.astype(np.float32)[:, None, None, :]
    labels = bunch.target.astype(np.int32)
    test = stratified_test(labels, _TEST_EXAMPLES[name])
    return Dataset(
        name=f"{name.replace('_', ' ')} (scikit-learn)",
        x_train=rows[~test],
        y_train=labels[~test],
        x_test=rows[test],
        y_test=labels[test],
        class_names=tuple(str(label) for label in bunch.target_names),
    )
