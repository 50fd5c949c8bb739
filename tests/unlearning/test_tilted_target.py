"""Tilted targets against a hand value, a slow twin and their own properties; β as an information projection."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mu_jax.config import InputError
from mu_jax.unlearning.class_similarity import class_similarity
from mu_jax.unlearning.trw import solve_beta, tilted_target

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(7, 5)).astype(np.float32)
LOGITS = (3 * RNG.normal(size=(6, 5))).astype(np.float32)


@pytest.fixture
def unchecked():
    """Runs without the annotations' checks, as users have them: there only the function's own words refuse input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def twin_similarity(kernel, f, temperature, directions, also=()):
    """By the definition, in float64: singular vectors, then one class after another."""
    columns = kernel.astype(np.float64)
    columns = columns - columns.mean(axis=1)[:, None]
    left, _, _ = np.linalg.svd(columns, full_matrices=False)
    if directions:
        columns = left[:, :directions].T @ columns
    weight = {}
    for k in range(kernel.shape[1]):
        if k != f and k not in also:
            a, b = columns[:, f], columns[:, k]
            weight[k] = np.exp((a @ b) / np.sqrt((a @ a) * (b @ b)) / temperature)
    total = sum(weight.values())
    return np.array([weight.get(k, 0.0) / total for k in range(kernel.shape[1])])


def twin_target(logits, kernel, f, beta, temperature, directions, also=()):
    s = twin_similarity(kernel, f, temperature, directions, also)
    rows = []
    for z in logits.astype(np.float64):
        p = softmax(z)
        q = np.array([0 if k == f or k in also else p[k] * np.exp(beta * s[k]) for k in range(len(z))])
        rows.append(q / q.sum())
    return np.array(rows)


def test_by_hand():
    # Columns (1,0), (0,1), (-1,-1) sum to 0; cosines with the first: 0 and -1/√2. This τ makes s = (0, ¾, ¼), and
    # with β = 2·log 2 the odds of the second against the third are times 2^(2·(¾ − ¼)) = 2.
    kernel = np.array([[1.0, 0.0, -1.0], [0.0, 1.0, -1.0]], np.float32)
    tau = 1 / (np.sqrt(2) * np.log(3))
    np.testing.assert_allclose(class_similarity(kernel, 0, temperature=tau), [0, 0.75, 0.25], atol=1e-6)
    logits = np.array([9.0, 1.0, 1.0], np.float32)
    got = tilted_target(logits, kernel, 0, 2 * np.log(2), temperature=tau)
    np.testing.assert_allclose(got, [0, 2 / 3, 1 / 3], atol=1e-6)
    # The docstrings' own examples: cosines 0 and -1/√2 over ½, then s once more.
    np.testing.assert_allclose(class_similarity(kernel, 0, temperature=0.5), [0, 0.804, 0.196], atol=5e-4)
    got = tilted_target(np.array([9.0, 0.0, 0.0], np.float32), kernel, 0, 1.0, temperature=0.5)
    np.testing.assert_allclose(got, [0, 0.648, 0.352], atol=5e-4)


@pytest.mark.parametrize("f", [0, 3])
@pytest.mark.parametrize("directions", [0, 1, 3])
@pytest.mark.parametrize("also", [(), (1, 4)])
def test_equals_the_slow_twin(f, directions, also):
    how = {"temperature": 0.3, "directions": directions, "also_forgotten": also}
    expected = twin_similarity(KERNEL, f, 0.3, directions, also)
    np.testing.assert_allclose(class_similarity(KERNEL, f, **how), expected, atol=2e-6)
    got = tilted_target(LOGITS, KERNEL, f, 4.0, **how)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, twin_target(LOGITS, KERNEL, f, 4.0, 0.3, directions, also), atol=1e-5)
    assert np.all(np.asarray(got)[:, [f, *also]] == 0)


def test_is_a_distribution_whatever_the_logits():
    rows = [[1e4, -1e4, 0, 1e4, -1e4], [-1e4, 1e4, 1e4, 1e4, -1e4], [200, 0, 0, 0, 0]]
    rows += [[3e38, -3e38, 3e38, -3e38, 0], [-3e38, -3e38, -3e38, -3e38, 3e38], [-3e38, 3e38, 0, 0, 0]]
    logits = np.array(rows, np.float32)
    assert softmax(logits[2])[0] == 1  # the forgotten class takes all there is in float32
    for beta in (-1e6, -10.0, 0.0, 10.0, 1e6, 3e38):
        q = np.asarray(tilted_target(logits, KERNEL, 0, beta))
        assert np.all(np.isfinite(q)) and np.all(q >= 0) and np.all(q[:, 0] == 0)
        np.testing.assert_allclose(q.sum(-1), 1, atol=1e-6)
    # Where p is 0 beside f, what it leaves is still shared out by the logits: evenly here, so by exp(β·s).
    expected = softmax(10 * twin_similarity(KERNEL, 0, 0.1, 0)[1:])
    np.testing.assert_allclose(np.asarray(tilted_target(logits, KERNEL, 0))[2, 1:], expected, rtol=1e-4)
    gradient = jax.grad(lambda z: tilted_target(z, KERNEL, 0)[..., 1].sum())(jnp.asarray(logits))
    assert np.all(np.isfinite(gradient)) and np.all(np.asarray(gradient)[:, 0] == 0)


def test_a_strong_tilt_is_all_on_the_class_most_alike_and_a_weak_one_on_none():
    for f in range(5):
        s = np.asarray(class_similarity(KERNEL, f))
        q = np.asarray(tilted_target(LOGITS, KERNEL, f, 1e5))
        assert np.all(q[:, np.argmax(s)] > 1 - 1e-6)
        untilted = np.asarray(tilted_target(LOGITS, KERNEL, f, 0.0))
        np.testing.assert_allclose(
            untilted, softmax(np.where(np.arange(5) == f, -1e10, LOGITS), axis=-1), atol=1e-6
        )
    # One class that stays gets all.
    got = tilted_target(LOGITS, KERNEL, 1, 10.0, also_forgotten=(0, 2, 3))
    np.testing.assert_array_equal(got, np.tile(np.eye(5)[4], (6, 1)))


def test_similarity_is_the_posteriors_not_the_columns():
    expected = class_similarity(KERNEL, 2, directions=2)
    # A vector on all columns and a factor change no order of classes; a rotation of the features changes nothing.
    rotation, _ = np.linalg.qr(RNG.normal(size=(7, 7)))
    moved = (1e-3 * rotation @ (KERNEL + RNG.normal(size=(7, 1)))).astype(np.float32)
    np.testing.assert_allclose(class_similarity(moved, 2, directions=2), expected, atol=1e-5)
    for factor in (np.float32(1e-30), np.float32(1e30)):
        np.testing.assert_allclose(class_similarity(factor * KERNEL, 2, directions=2), expected, atol=1e-5)
    # Classes in another order.
    order = np.array([4, 2, 0, 3, 1])
    got = class_similarity(KERNEL[:, order], 1, directions=2)
    np.testing.assert_allclose(got, np.asarray(expected)[order], atol=1e-5)
    # All directions there are: nothing is projected out.
    np.testing.assert_allclose(
        class_similarity(KERNEL, 2, directions=4), class_similarity(KERNEL, 2), atol=1e-5
    )
    # No direction at all to compare along: evenly.
    flat = np.ones((7, 5), np.float32)
    np.testing.assert_allclose(class_similarity(flat, 2), [0.25, 0.25, 0, 0.25, 0.25])
    # The mean of all columns is alike to none, and opposite columns stay opposite.
    two = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(
        class_similarity(two, 0, temperature=1.0), [0, 1 / (1 + np.e), np.e / (1 + np.e)], atol=1e-6
    )


def test_jit_equals_eager_and_vmap_equals_a_loop():
    function = functools.partial(tilted_target, directions=2, also_forgotten=(1,))
    eager = np.stack([function(LOGITS, KERNEL, f, 3.0) for f in (0, 2, 3)])
    compiled = jax.jit(function)
    for f, expected in zip((0, 2, 3), eager, strict=True):
        got = compiled(LOGITS, KERNEL, jnp.asarray(f), 3.0)
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert compiled._cache_size() == 1  # neither the class nor β is compiled in
    # All that may differ between models side by side: logits, head, class, and β.
    heads, several = np.stack([KERNEL, KERNEL[::-1] ** 2]), np.stack([LOGITS, -LOGITS])
    classes, betas = np.array([3, 0]), np.array([3.0, 7.0], np.float32)
    mapped = jax.vmap(function)(several, heads, jnp.asarray(classes), betas)
    looped = [function(*one) for one in zip(several, heads, classes, betas.tolist(), strict=True)]
    np.testing.assert_allclose(mapped, looped, atol=1e-6)
    # A β for each example, and no batch at all.
    betas = np.linspace(-2, 20, 6).astype(np.float32)
    each = np.stack([function(z, KERNEL, 0, float(b)) for z, b in zip(LOGITS, betas, strict=True)])
    np.testing.assert_allclose(function(LOGITS, KERNEL, 0, betas), each, atol=1e-6)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_runs_on_accelerators(platform):
    function = functools.partial(tilted_target, directions=2)
    arguments = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((6, 5), jnp.float32), ((7, 5), jnp.float32), ((), jnp.int32), ((), jnp.float32))
    ]
    exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
    assert exported.out_avals[0].shape == (6, 5)


def test_bad_input_is_named(unchecked):
    for temperature in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="temperature is .*, but expected a positive finite number"):
            tilted_target(LOGITS, KERNEL, 0, temperature=temperature)
    for directions in (-1, 5):
        with pytest.raises(
            InputError, match=f"directions is {directions}, but 5 centred columns of 7 numbers have 4"
        ):
            tilted_target(LOGITS, KERNEL, 0, directions=directions)
    for label in (-1, 5):
        with pytest.raises(InputError, match=f"class to forget is {label}, but expected one from 0 to 4"):
            tilted_target(LOGITS, KERNEL, label)
        with pytest.raises(InputError, match=f"class to forget is {label}, but expected one from 0 to 4"):
            tilted_target(LOGITS, KERNEL, 0, also_forgotten=(label,))
    with pytest.raises(
        InputError, match="All 5 classes are to be forgotten, but expected one or more to stay"
    ):
        tilted_target(LOGITS, KERNEL, 0, also_forgotten=(1, 2, 3, 4))
    with pytest.raises(InputError, match="logits have 4 classes, but the head's kernel has 5 columns"):
        tilted_target(LOGITS[:, :4], KERNEL, 0)


def divergences(q, logits, stays):
    """KL(q ‖ p) of each row, p being the posterior on the classes that stay; 0·log 0 = 0."""
    reference = log_softmax(logits[:, stays].astype(np.float64), axis=-1)
    return np.sum(q * (np.log(np.maximum(q, 1e-300)) - reference), axis=-1)


@pytest.mark.parametrize("per_example", [False, True])
def test_beta_meets_its_level_with_the_smallest_divergence(per_example):
    stays = [0, 1, 3]
    s = np.asarray(class_similarity(KERNEL, 2, temperature=0.7, also_forgotten=(4,)), np.float64)
    level = 0.4 * s[stays].min() + 0.6 * s[stays].max()
    beta = solve_beta(LOGITS, s, level, (2, 4), per_example=per_example)
    assert beta.shape == ((6,) if per_example else ())
    q = softmax(LOGITS[:, stays].astype(np.float64) + beta[..., None] * s[stays], axis=-1)
    means = q @ s[stays]
    np.testing.assert_allclose(means if per_example else means.mean(), level, atol=1e-12)
    # The function that makes targets agrees.
    target = tilted_target(
        LOGITS, KERNEL, 2, np.asarray(beta, np.float32), temperature=0.7, also_forgotten=(4,)
    )
    np.testing.assert_allclose(np.asarray(target)[:, stays], q, atol=1e-5)
    # Whatever else meets the level lies farther from the posterior: random steps that keep every row's sum, and either
    # each row's expected similarity or their mean.
    rng = np.random.default_rng(1)
    least = divergences(q, LOGITS, stays)
    farther = 0
    for _ in range(200):
        step = rng.normal(size=q.shape)
        step -= step.mean(axis=1, keepdims=True)
        direction = s[stays] - s[stays].mean()
        if per_example:
            step -= np.outer(step @ direction, direction) / (direction @ direction)
        else:
            step -= (step @ direction).mean() * direction / (direction @ direction)
        other = q + step * rng.uniform(0.05, 1) * np.min(q / np.maximum(-step, 1e-300))
        assert np.all(other >= -1e-15)
        np.testing.assert_allclose((other @ s[stays]).mean(), level, atol=1e-12)
        excess = divergences(np.maximum(other, 0), LOGITS, stays) - least
        assert excess.sum() > 0 and (not per_example or np.all(excess > -1e-12))
        farther += excess.sum() > 1e-6
    assert farther > 100


def test_beta_is_found_at_any_distance():
    s = np.array([0.0, 0.2, 0.3, 0.5, 0.0])
    for beta in (-40.0, -0.3, 0.0, 1e-4, 7.0, 60.0):
        q = softmax(LOGITS[:, 1:4].astype(np.float64) + beta * s[1:4], axis=-1)
        level = float((q @ s[1:4]).mean())
        assert solve_beta(LOGITS, s, level, (0, 4)) == pytest.approx(beta, abs=1e-6)
    # Logits so far apart that only a β of many thousands moves the posterior.
    far = np.array([[0.0, 1e4, -1e4, 0.0, 0.0], [0.0, -1e4, 1e4, 0.0, 0.0]])
    beta = solve_beta(far, s, 0.45, (0, 4), per_example=True)
    assert np.all(beta > 1e4)
    np.testing.assert_allclose(
        softmax(far[:, 1:4] + beta[:, None] * s[1:4], axis=-1) @ s[1:4], 0.45, atol=1e-9
    )


def test_a_level_out_of_reach_is_named():
    s = np.array([0.0, 0.2, 0.3, 0.5, 0.0])
    for level in (0.0, 0.2, 0.5, 0.9, -1.0, float("nan")):
        with pytest.raises(
            InputError, match="run from 0.2 to 0.5, and an expected one lies strictly between"
        ):
            solve_beta(LOGITS, s, level, (0, 4))
    with pytest.raises(InputError, match="run from 0.25 to 0.25"):
        solve_beta(LOGITS, np.full(5, 0.25), 0.25, (0,))
