import numpy as np
import pytest

from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.config import InputError


def _halves(models: int, examples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((models, examples)).argsort(axis=0) < models // 2


@pytest.mark.parametrize("models", [2, 3, 7, 16])
def test_the_opposite_model_has_the_other_membership_and_is_found_by_the_rule(models):
    member = _halves(models, 50)
    if models == 3:
        member[0] = ~member[1]
    found = opposite_models(member)
    assert found.dtype == np.int32
    for target in range(models):
        order = [k for k in (target ^ 1, *((target + i) % models for i in range(1, models))) if k < models]
        for example in range(50):
            expected = next(k for k in order if member[k, example] != member[target, example])
            assert found[target, example] == expected


def test_in_pairs_the_opposite_is_always_the_other_half():
    half = np.random.default_rng(0).random((4, 30)) < 0.5
    member = np.stack([half, ~half], axis=1).reshape(8, 30)
    assert (opposite_models(member) == (np.arange(8) ^ 1)[:, None]).all()


def test_both_sides_keep_equally_many_whatever_the_target_was():
    member = _halves(8, 100)
    gone = opposite_models(member)
    for target in range(8):
        stays = np.ones((8, 100), bool)
        stays[target] = False
        stays[gone[target], np.arange(100)] = False
        assert ((member & stays).sum(axis=0) == 3).all()
        assert ((~member & stays).sum(axis=0) == 3).all()


def test_an_example_on_one_side_only_is_refused():
    member = _halves(4, 5)
    member[:, 3] = True
    with pytest.raises(InputError, match="1 of 5 examples, 3 the first"):
        opposite_models(member)
