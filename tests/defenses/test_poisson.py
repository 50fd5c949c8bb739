"""Poisson sampling: who is drawn and how often, room for it, and fillers. None of it needs the extra [dp]."""

import dataclasses
from fractions import Fraction
from math import comb

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.defenses.poisson import PoissonRun, capacity, with_filler
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import Examples
from mu_jax.training.step import Recipe

MODEL = mlp_model((), 3, (2, 2, 1))


def run_of(name="private", *, rows=40, batch=8, epochs=4.0, seed=0, gradient=None, index=None, **fields):
    optimization = OptimizationConfig(batch_size=batch, epochs=epochs)
    gradient = PrivateGradient(1.0, 1.0, batch) if gradient is None else gradient
    recipe = Recipe.of(MODEL, DataConfig(), optimization, gradient=gradient)
    fields = {"filler": 100} | fields
    index = np.arange(rows) + 10 if index is None else index
    return PoissonRun(name, seed, index, optimization, recipe, **fields)


def drawn(run, first=0, count=None):
    """bool[steps, 100], who is in the batch of each step"""
    count = run.steps - first if count is None else count
    index = run.inputs(first, count, count).index
    found = np.zeros((count, 101), int)
    for step, rows in enumerate(index):
        np.add.at(found[step], rows, 1)
    assert (found[:, :100] <= 1).all()
    return found[:, :100].astype(bool)


def tail(rows, probability, least):
    """P(Binomial(rows, probability) ≥ least), exactly"""
    p = Fraction(probability)
    return sum(comb(rows, k) * p**k * (1 - p) ** (rows - k) for k in range(least, rows + 1))


@pytest.mark.parametrize(("rows", "batch", "steps"), [(40, 8, 20), (60, 15, 1), (25, 24, 100), (30, 1, 7)])
def test_capacity_is_the_least_that_the_exact_tail_allows(rows, batch, steps):
    found, limit = capacity(rows, batch, steps), Fraction(1, 10**9)
    assert steps * tail(rows, Fraction(batch, rows), found + 1) <= limit
    assert steps * tail(rows, Fraction(batch, rows), found) > limit


def test_capacity_where_all_are_drawn_and_of_a_large_set():
    assert capacity(1000, 1000, 500) == 1000
    assert capacity(1000, 100, 500) == 172
    # Seven deviations, about, for 10⁴ steps: √(4096 · 0.918) is 61.3.
    assert 4096 + 6 * 62 < capacity(50_000, 4096, 10_000) < 4096 + 9 * 62
    assert capacity(1000, 100, 5) < capacity(1000, 100, 500) < capacity(1000, 101, 500)


def test_every_example_is_drawn_with_its_probability_and_by_itself():
    run = run_of(epochs=400.0)  # 2,000 steps
    assert run.sampling_probability == 0.2
    found = drawn(run)
    assert not found[:, :10].any()
    assert not found[:, 50:].any()
    found = found[:, 10:50].astype(float)
    steps, q = len(found), 0.2
    # Of 40 frequencies one lies four deviations off by chance in 400 runs of this test; the seed is fixed.
    assert np.abs(found.mean(0) - q).max() < 4 * np.sqrt(q * (1 - q) / steps)
    sizes = found.sum(1)
    np.testing.assert_allclose(sizes.mean(), 8, atol=4 * np.sqrt(40 * q * (1 - q) / steps))
    np.testing.assert_allclose(sizes.var(), 40 * q * (1 - q), rtol=0.12)  # batches of one size have 0
    correlations = np.corrcoef(found, rowvar=False) - np.eye(40)
    assert np.abs(correlations).max() < 5 / np.sqrt(steps)
    following = np.corrcoef(found[:-1].ravel(), found[1:].ravel())[0, 1]
    assert abs(following) < 5 / np.sqrt(steps * 40)


def test_batches_are_the_same_however_a_run_is_cut_and_others_under_another_name_or_seed():
    run = run_of()
    whole = drawn(run)
    pieces = [drawn(run, first, min(7, 20 - first)) for first in range(0, 20, 7)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    for other in (run_of("another"), run_of(seed=1)):
        assert (drawn(other) != whole).mean() > 0.05


def test_a_step_is_filled_up_with_the_filler_behind_what_was_drawn():
    run = run_of()
    inputs = run.inputs(3, 2, 5)
    assert inputs.index.dtype == np.int32
    assert inputs.index.shape == (5, run.rows_per_step) == (5, capacity(40, 8, 20))
    for rows in inputs.index[:2]:
        size = int((rows != 100).sum())
        assert 0 < size < 40
        assert (rows[size:] == 100).all()
    assert inputs.learning_rate.shape == inputs.progress.shape == (5,)
    assert run_of(slots=39).inputs(0, 1, 1).index.shape == (1, 39)
    assert run.steps == 20
    assert run.trained_samples == 160


def test_rates_and_progress_are_those_of_a_run_of_the_expected_batches():
    run = run_of()
    usual = super(PoissonRun, run).inputs(3, 2, 5)
    np.testing.assert_array_equal(run.inputs(3, 2, 5).learning_rate, usual.learning_rate)
    np.testing.assert_array_equal(run.inputs(3, 2, 5).progress, usual.progress)


def test_a_batch_beyond_its_capacity_stops_the_run():
    class Unlucky(PoissonRun):
        def _drawn(self, step):
            return self.index if step == 2 else self.index[:3]

    run = Unlucky(**{f.name: getattr(run_of(), f.name) for f in dataclasses.fields(PoissonRun)})
    run.inputs(0, 2, 4)
    with pytest.raises(RuntimeError, match="Step 2 of the run 'private' drew 40 examples, but has"):
        run.inputs(0, 3, 4)


@pytest.mark.parametrize("kind", ["images", "table", "shared", "marked"])
def test_with_filler_appends_one_row_of_weight_zero(kind):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (5, 2, 2, 1), dtype=np.uint8)
    more = {}
    if kind == "table":
        images = rng.normal(size=(5, 1, 1, 7)).astype(np.float32)
    if kind == "shared":
        more = {"source": np.array([4, 4, 0, 1, 2, 3], np.int32)}
    if kind == "marked":
        more = {"augmented": np.array([True, False, True, True, False])}
    rows = len(more.get("source", images))
    targets = np.eye(4, dtype=np.float32)[np.arange(rows) % 4]
    examples = Examples(images, targets, np.ones(rows, np.float32), **more)
    got = with_filler(examples)
    assert isinstance(got.images, jnp.ndarray)
    assert got.images.dtype == images.dtype
    np.testing.assert_array_equal(got.images[:-1], images)
    assert not got.images[-1].any()
    np.testing.assert_array_equal(got.targets[:-1], targets)
    np.testing.assert_array_equal(got.targets[-1], [0.25] * 4)
    np.testing.assert_array_equal(got.weights, [1] * rows + [0])
    if kind == "shared":
        np.testing.assert_array_equal(got.source, [4, 4, 0, 1, 2, 3, 5])
    else:
        assert got.source is None
    if kind == "marked":
        np.testing.assert_array_equal(got.augmented, [True, False, True, True, False, False])
    else:
        assert got.augmented is None


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (
            lambda: run_of(batch=41),
            InputError,
            "The expected batch size is 41, but 40 examples allow 1 to 40",
        ),
        (lambda: capacity(0, 1, 1), InputError, "0 examples allow"),
        (lambda: run_of(filler=-1), ValueError, "has the filler -1"),
        (lambda: run_of(index=np.arange(40) // 2), ValueError, "has rows twice in its index"),
        (lambda: run_of(slots=9), ValueError, "has 9 slots, but its batches need"),
        (lambda: run_of(gradient=PrivateGradient(1.0, 1.0, 9)), ValueError, "batches of 8 expected examples"),
        (lambda: run_of(gradient=len), ValueError, "batches of 8 expected examples"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(make, error, match):
    with pytest.raises(error, match=match):
        make()
