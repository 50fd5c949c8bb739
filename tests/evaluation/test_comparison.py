"""The gap to retraining, by hand."""

import dataclasses

import pytest

from mu_jax.config import InputError
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain

RETRAIN = Behaviour(unlearn_accuracy=0.9, retain_accuracy=1.0, test_accuracy=0.88, forget_vs_test_auc=0.5)


def test_gap_by_hand():
    model = Behaviour(unlearn_accuracy=0.8, retain_accuracy=0.96, test_accuracy=0.9, forget_vs_test_auc=0.54)
    got = gap_to_retrain(model, RETRAIN)
    assert got.parts == pytest.approx(
        {"unlearn": 0.1, "retain": 0.04, "test": 0.02, "forget_vs_test_auc": 0.04}
    )
    assert got.gap == pytest.approx(0.05)
    assert gap_to_retrain(RETRAIN, model) == got
    assert gap_to_retrain(RETRAIN, RETRAIN).gap == 0


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Behaviour)])
@pytest.mark.parametrize("value", [93.0, -0.1, float("nan")])
def test_percentages_and_nan_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(RETRAIN, **{field: value})
