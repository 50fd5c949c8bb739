"""KLOM against hand values, the definition in loops, and the divergence of two normal distributions."""

import math

import jaxtyping
import numpy as np
import pytest
from scipy.stats import entropy

from mu_jax.config import InputError
from mu_jax.evaluation.klom import klom

REFUSED = (InputError, jaxtyping.TypeCheckError)


def slow_klom(u, o, bins, floor, clip):
    """One example, straight from the definition; NumPy's histogram keeps the largest value in its last bin."""
    u, o = np.clip(u, -clip, clip), np.clip(o, -clip, clip)
    low, high = min(u.min(), o.min()), max(u.max(), o.max())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    total = 0.0
    for a, b in zip(np.histogram(u, edges)[0], np.histogram(o, edges)[0], strict=True):
        if a:
            total += a / len(u) * math.log(a / len(u) / max(b / len(o), floor))
    return total


def test_by_hand():
    # Bins [0, 1), [1, 2]: p = (1/4, 3/4), q = (1/2, 1/2).
    u, o = np.array([0.0, 1, 2, 2])[:, None], np.array([0.0, 0.5, 1, 2])[:, None]
    want = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert klom(u, o, bins=2) == pytest.approx([want])
    # The other direction is another number.
    assert klom(o, u, bins=2) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3)])
    # All unlearned models in bins without an oracle.
    assert klom(np.array([[5.0], [5.0]]), np.array([[0.0], [1.0]])) == pytest.approx([-math.log(1e-5)])


def test_clipping_sets_the_bins():
    u, o = np.array([[0.0], [500.0]]), np.array([[0.0], [100.0]])
    assert klom(u, o) == 0
    assert klom(u, o, clip=1000.0)[0] > 1


@pytest.mark.parametrize(("models", "others", "bins"), [(2, 3, 1), (30, 20, 5), (64, 64, 20)])
def test_equals_the_definition_in_loops(models, others, bins):
    rng = np.random.default_rng(models)
    u, o = rng.normal(2, 3, (models, 40)), rng.normal(0, 2, (others, 40))
    u[:, ::4], o[:, ::4] = u[:, ::4].round(), o[:, ::4].round()
    u[0], u[:, 1], o[:, 1] = 130, 7, 7
    want = [slow_klom(a, b, bins, 1e-4, 100) for a, b in zip(u.T, o.T, strict=True)]
    np.testing.assert_allclose(klom(u, o, bins=bins, floor=1e-4), want, rtol=0, atol=1e-12)


def test_equal_samples_are_at_zero_and_any_are_at_least_almost_zero():
    rng = np.random.default_rng(0)
    u, o = rng.normal(size=(50, 30)), rng.normal(size=(50, 30))
    np.testing.assert_array_equal(klom(u, u[::-1]), 0)
    np.testing.assert_array_equal(klom(np.ones((5, 3)), np.ones((4, 3))), 0)
    assert np.all(klom(u, o) > 0)
    # Σ max(q, floor) may exceed 1 by floor for every empty bin, and the divergence fall below 0 by as much.
    assert np.all(klom(u, o) >= -20 * 1e-5)


def test_normal_distributions_have_their_divergence():
    # KL(N(1, 1) ‖ N(0, 1.5²)) = log 1.5 + (1 + 1)/(2·1.5²) − ½; 100 bins lose little of it.
    rng = np.random.default_rng(1)
    u, o = rng.normal(1, 1, (200_000, 2)), rng.normal(0, 1.5, (200_000, 2))
    want = math.log(1.5) + 2 / 4.5 - 0.5
    np.testing.assert_allclose(klom(u, o, bins=100), want, atol=0.01)
    np.testing.assert_allclose(klom(u, o), want, atol=0.02)


def test_place_and_scale_of_phi_do_not_matter():
    rng = np.random.default_rng(2)
    u, o = rng.normal(size=(64, 20)), rng.normal(1, 2, (64, 20))
    np.testing.assert_allclose(klom(u * 4 + 8, o * 4 + 8), klom(u, o), atol=1e-12)


@pytest.mark.parametrize(("models", "mean"), [(128, 0.26), (512, 0.05)])
def test_null_is_what_the_documentation_says(models, mean):
    rng = np.random.default_rng(3)
    assert np.mean(klom(rng.normal(size=(models, 1000)), rng.normal(size=(models, 1000)))) == pytest.approx(
        mean, abs=0.02
    )


def test_differs_from_the_released_code_only_as_documented():
    """Its definition, but for the largest margin, which belongs to no bin there."""
    rng = np.random.default_rng(4)
    u, o = rng.normal(1, 1, (100, 20)), rng.normal(0, 1, (100, 20))
    easydub, bench, dropped = [], [], []
    for a, b in zip(u.T, o.T, strict=True):
        edges = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 21)
        for last, results in ((np.inf, easydub), (edges[-1], dropped)):
            edges[-1] = last
            p, q = (np.bincount(np.digitize(x, edges), minlength=22)[1:21] for x in (a, b))
            p, q = p / p.sum(), q / q.sum()
            safe = np.where(p > 0, np.maximum(q, 1e-5), q)
            results.append(np.sum(p[p > 0] * np.log(p[p > 0] / safe[p > 0])))
            if last == np.inf:
                bench.append(entropy(p, safe))
    np.testing.assert_allclose(klom(u, o), easydub, rtol=0, atol=1e-12)
    np.testing.assert_allclose(klom(u, o), bench, rtol=0, atol=20e-5)
    assert 0.01 < np.mean(np.abs(klom(u, o) - dropped)) < 0.1


def test_blocks_precision_and_read_only_inputs_do_not_matter(monkeypatch):
    rng = np.random.default_rng(5)
    u, o = rng.normal(size=(2, 40, 30)).astype(np.float32)
    u.setflags(write=False)
    whole = klom(u, o)
    monkeypatch.setattr("mu_jax.evaluation.klom.BLOCK_ELEMENTS", 100)
    np.testing.assert_array_equal(klom(u, o), whole)
    assert whole.dtype == np.float64


def test_bad_input_is_refused():
    good = np.zeros((3, 2))
    for bad in (np.zeros((3, 4)), np.zeros((1, 2)), np.full((3, 2), np.nan)):
        with pytest.raises(REFUSED):
            klom(good, bad)
    with pytest.raises(InputError, match="6 values of φ are not finite"):
        klom(good, np.full((3, 2), np.inf))
    with pytest.raises(InputError, match="bins is 0"):
        klom(good, good, bins=0)
    with pytest.raises(InputError, match="floor is 0.0"):
        klom(good, good, floor=0.0)
    with pytest.raises(InputError, match="clip is -1.0"):
        klom(good, good, clip=-1.0)
