import dataclasses

import numpy as np
import pytest

from mu_jax.config import OptimizationConfig
from mu_jax.training.schedules import learning_rates, total_steps

BASE = OptimizationConfig(epochs=4.0, batch_size=10, learning_rate=0.1, schedule="constant")


def rates(first=0, count=40, examples=100, **changes):
    return learning_rates(dataclasses.replace(BASE, **changes), examples, first, count)


def test_total_steps_rounds_up_and_survives_float_noise():
    assert total_steps(BASE, 100) == 40
    assert total_steps(BASE, 101) == 41
    # 0.1 · 30 / 3 is 1.0000000000000002 in floating point, which is one step, not two.
    assert total_steps(dataclasses.replace(BASE, epochs=0.1, batch_size=3), 30) == 1


def test_constant():
    np.testing.assert_array_equal(rates(), np.full(40, 0.1, np.float32))


def test_step_schedule_drops_at_the_epoch():
    got = rates(schedule="step", step_epochs=2.0, step_factor=0.1)
    np.testing.assert_allclose(got, [0.1] * 20 + [0.01] * 20, rtol=1e-6)


def test_cosine_by_hand():
    got = rates(schedule="cosine")
    np.testing.assert_allclose(
        got[[0, 20, 30]], [0.1, 0.05, 0.1 * 0.5 * (1 + np.cos(0.75 * np.pi))], rtol=1e-6
    )
    assert np.all(np.diff(got) < 0)
    assert got[-1] > 0


def test_by_epoch_holds_the_rate_within_an_epoch():
    got = rates(schedule="cosine", schedule_by_epoch=True).reshape(4, 10)
    assert np.all(got == got[:, :1])
    # PyTorch's CosineAnnealingLR with T_max = 4, stepped once an epoch.
    np.testing.assert_allclose(got[:, 0], 0.05 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-6)


def test_warm_up_rises_linearly_and_reaches_the_peak_after_it():
    got = rates(warmup_epochs=1.0)
    np.testing.assert_allclose(got[:11], 0.1 * np.arange(1, 12) / 11, rtol=1e-6)
    np.testing.assert_allclose(got[10:], 0.1, rtol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
@pytest.mark.parametrize("warmup", [0.0, 0.7])
@pytest.mark.parametrize("by_epoch", [False, True])
def test_a_run_cut_into_chunks_sees_the_same_rates(schedule, warmup, by_epoch):
    changes = {
        "schedule": schedule,
        "warmup_epochs": warmup,
        "step_epochs": 1.5,
        "schedule_by_epoch": by_epoch,
    }
    whole = rates(examples=97, **changes)
    pieces = [rates(first, 8, examples=97, **changes) for first in range(0, 40, 8)]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
