"""ε against closed forms, integrals and bounds."""

import itertools
import math
import sys

import numpy as np
import pytest
from scipy import integrate, optimize, stats

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.defenses.accounting import epsilon, noise_for
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.defenses.poisson import PoissonRun
from mu_jax.models.mlp import mlp_model
from mu_jax.training.step import Recipe

needs_dp = pytest.mark.dp


@pytest.fixture(name="accounting")
def accounting_fixture():
    return pytest.importorskip("dp_accounting", reason="counting ε needs the extra [dp]")


def of_delta(delta_of, delta):
    """ε with δ(ε) = delta"""
    return optimize.brentq(lambda eps: delta_of(eps) - delta, 0, 100, xtol=1e-12)


def gaussian(eps, sigma):
    """δ(ε) of N(0, σ²) against N(1, σ²): Balle & Wang 2018, theorem 8"""
    first, second = (stats.norm.cdf(sign / (2 * sigma) - eps * sigma) for sign in (1, -1))
    return first - np.exp(eps) * second


def sampled(eps, sigma, q):
    """δ(ε) of one Poisson-sampled sum: ∫ max(0, p − e^ε·r), the larger of both directions"""
    x = np.linspace(-12 * sigma, 12 * sigma + 1, 400_001)
    out, inside = stats.norm(0, sigma).pdf(x), stats.norm(1, sigma).pdf(x)
    mixture = (1 - q) * out + q * inside
    ways = ((mixture, out), (out, mixture))
    return max(integrate.trapezoid(np.maximum(0, p - np.exp(eps) * r), x) for p, r in ways)


@needs_dp
@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (5.0, 25, 1e-5), (0.3, 4, 1e-6), (20.0, 100, 1e-3)]
)
def test_steps_on_all_examples_are_one_gaussian_mechanism(accounting, sigma, steps, delta):
    exact = of_delta(lambda eps: gaussian(eps, sigma / math.sqrt(steps)), delta)
    got = epsilon(sigma, 1.0, steps, delta)
    assert exact - 1e-6 <= got <= exact * (1 + 1e-3) + 1e-3


@needs_dp
@pytest.mark.parametrize(("sigma", "q"), [(1.0, 0.5), (2.0, 0.1), (0.6, 0.02)])
def test_one_sampled_step_is_the_integral(accounting, sigma, q):
    exact = of_delta(lambda eps: sampled(eps, sigma, q), 1e-4)
    got = epsilon(sigma, q, 1, 1e-4)
    assert exact - 1e-4 <= got <= exact + 1e-3


@needs_dp
@pytest.mark.parametrize(("sigma", "q", "steps"), [(1.0, 0.01, 1000), (2.0, 0.5, 10), (0.7, 0.001, 100)])
def test_renyi_divergences_bound_it_from_above_and_a_single_step_from_below(accounting, sigma, q, steps):
    add_or_remove = accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    renyi = accounting.rdp.RdpAccountant(neighboring_relation=add_or_remove)
    event = accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(sigma))
    got = epsilon(sigma, q, steps, 1e-5)
    assert epsilon(sigma, q, 1, 1e-5) < got < renyi.compose(event, steps).get_epsilon(1e-5)


@needs_dp
def test_it_grows_with_what_is_shown_and_falls_with_noise(accounting):
    def rises(values):
        return all(a < b for a, b in itertools.pairwise(values))

    assert rises([epsilon(2.0, 0.02, steps, 1e-5) for steps in (10, 100, 1000)])
    assert rises([epsilon(8.0, q, 20, 1e-5) for q in (0.01, 0.1, 0.9, 1.0)])
    assert rises([epsilon(sigma, 0.02, 100, 1e-5) for sigma in (8.0, 4.0, 2.0)])
    assert rises([epsilon(2.0, 0.02, 100, delta) for delta in (1e-3, 1e-5, 1e-8)])


@needs_dp
def test_very_little_noise_is_counted_too(accounting):
    # Of n = 10 steps of σ = 0.05: μ = √10 / 0.05, ε about μ²/2 + μ·z.
    exact = of_large(math.sqrt(10) / 0.05, 1e-5)
    np.testing.assert_allclose(epsilon(0.05, 1.0, 10, 1e-5), exact, rtol=0.01)


def of_large(mu, delta):
    """The Gaussian mechanism's ε where e^ε overflows: logarithms of both terms."""

    def gap(eps):
        first = stats.norm.logcdf(mu / 2 - eps / mu)
        second = eps + stats.norm.logcdf(-mu / 2 - eps / mu)
        return first + np.log1p(-np.exp(min(second - first, -1e-300))) - math.log(delta)

    return optimize.brentq(gap, mu**2 / 2, mu**2 / 2 + 10 * mu)


def test_no_noise_no_step_and_no_example():
    assert epsilon(0.0, 0.5, 10, 1e-5) == math.inf
    assert epsilon(1.0, 0.5, 0, 1e-5) == 0
    assert epsilon(1.0, 0.0, 10, 1e-5) == 0


@needs_dp
@pytest.mark.parametrize(("target", "q", "steps"), [(1.0, 0.05, 200), (0.1, 0.5, 4), (20.0, 1.0, 3)])
def test_noise_for_is_the_least_that_keeps_to_the_target(accounting, target, q, steps):
    sigma = noise_for(target, q, steps, 1e-5)
    assert epsilon(sigma, q, steps, 1e-5) <= target < epsilon(sigma / 1.002, q, steps, 1e-5)


@needs_dp
def test_a_run_counts_its_own_steps(accounting):
    optimization = OptimizationConfig(batch_size=8, epochs=3.0)
    recipe = Recipe.of(
        mlp_model((), 3, (2, 2, 1)), DataConfig(), optimization, gradient=PrivateGradient(0.1, 1.5, 8)
    )
    run = PoissonRun("private", 0, np.arange(40), optimization, recipe, filler=40)
    assert run.epsilon(1e-4) == epsilon(1.5, 0.2, 15, 1e-4)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((-1.0, 0.1, 10, 1e-5), "The noise multiplier is -1.0, but expected 0 or a positive number"),
        ((math.nan, 0.1, 10, 1e-5), "The noise multiplier is nan"),
        ((math.inf, 0.1, 10, 1e-5), "The noise multiplier is inf"),
        ((1.0, 1.1, 10, 1e-5), "The sampling probability is 1.1"),
        ((1.0, -0.1, 10, 1e-5), "The sampling probability is -0.1"),
        ((1.0, 0.1, -1, 1e-5), "The number of steps is -1"),
        ((1.0, 0.1, 10, 0.0), "The δ is 0.0"),
        ((1.0, 0.1, 10, 1.0), "The δ is 1.0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(arguments, match):
    with pytest.raises(InputError, match=match):
        epsilon(*arguments)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((0.0, 0.1, 10, 1e-5), "The target ε is 0.0, but expected a positive number"),
        ((math.inf, 0.1, 10, 1e-5), "The target ε is inf"),
        ((1.0, 0.1, 0, 1e-5), "0 steps that draw an example with probability 0.1 need no noise"),
        ((1.0, 0.0, 10, 1e-5), "10 steps that draw an example with probability 0.0 need no noise"),
        ((1.0, 2.0, 10, 1e-5), "The sampling probability is 2.0"),
    ],
)
def test_targets_without_an_answer_are_refused(arguments, match):
    with pytest.raises(InputError, match=match):
        noise_for(*arguments)


def test_without_the_extra_a_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(
        InputError, match=r"dp_accounting, which is not installed; pip install 'mu-jax\[dp\]'"
    ):
        epsilon(1.0, 0.1, 10, 1e-5)
