"""An attacker who knows everything but one example finds no more than ε allows; without the noise he does.

Many models are trained with a canary and as many with the filler in its stead. The canary is as visible as an example
can be: no other moves the weights that it moves. The attack's threshold is chosen on half of the models; on the other
half exact (Clopper-Pearson) bounds of its rates give a lower bound of ε, which must lie below what is claimed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mu_jax.config import DataConfig, OptimizationConfig
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.defenses.poisson import PoissonRun, with_filler
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.step import Recipe

pytest.importorskip("jax_privacy", reason="DP-SGD needs the extra [dp]")
pytestmark = pytest.mark.dp

SHAPE, CLASSES, OTHERS, MODELS = (2, 2, 1), 2, 15, 600
CANARY, FILLER = OTHERS, OTHERS + 1
DELTA = 1e-3
MODEL = mlp_model((), CLASSES, SHAPE)
OPTIMIZATION = OptimizationConfig(
    batch_size=8, epochs=2.0, learning_rate=0.1, momentum=0.0, weight_decay=0.0, schedule="constant"
)


def examples():
    """All mid-grey, which is nearly zero to the model, but for a canary of white."""
    images = np.full((OTHERS + 1, *SHAPE), 128, np.uint8)
    images[CANARY] = 255
    labels = np.arange(OTHERS + 1) % CLASSES
    labels[CANARY] = 1
    return with_filler(Examples(images, label_targets(labels, CLASSES), np.ones(len(labels), np.float32)))


def runs_of(noise_multiplier, last, side):
    gradient = PrivateGradient(1.0, noise_multiplier, OPTIMIZATION.batch_size)
    recipe = Recipe.of(MODEL, DataConfig(), OPTIMIZATION, gradient=gradient)
    index = np.append(np.arange(OTHERS), last)
    return [
        PoissonRun(f"{side}_{k}", 0, index, OPTIMIZATION, recipe, filler=FILLER, slots=OTHERS + 1)
        for k in range(MODELS)
    ]


def margin(variables, data):
    (head,) = variables["params"].values()
    return {"margin": jnp.sum(head["kernel"][:, 1] - head["kernel"][:, 0])}


def scores(noise_multiplier):
    """[2, MODELS], how far each model leans to the canary's label: trained with it, and without"""
    sides = [runs_of(noise_multiplier, CANARY, "with"), runs_of(noise_multiplier, FILLER, "without")]
    start = jax.tree.map(jnp.zeros_like, MODEL.init(jax.random.key(0)))
    trainer = ParallelTrainer(
        sides[0][0].recipe,
        examples(),
        Placement("vmap", 1, MODELS),
        batch_size=OTHERS + 1,
        chunk_steps=4,
        query_fn=margin,
        from_variables=True,
    )
    return [trainer.train(runs, variables=[start] * MODELS).signals["margin"] for runs in sides], sides[0][0]


def lower_bound(inside, outside, delta, confidence=0.95):
    """ε, by the best threshold of the first halves, of the rates on the second ones."""

    def bound(true, false, n, level):
        """log((TPR − δ) / FPR) of counts, each rate's own bound at 1 − level/2"""
        low = stats.beta.ppf(level / 2, true, n - true + 1) if true else 0.0
        high = stats.beta.ppf(1 - level / 2, false + 1, n - false) if false < n else 1.0
        return np.log(max(low - delta, 1e-12) / high)

    def both_ways(threshold, inside, outside):
        n, level = len(inside), 1 - confidence
        above, over = int((inside > threshold).sum()), int((outside > threshold).sum())
        return bound(above, over, n, level), bound(n - over, n - above, n, level)

    half = len(inside) // 2
    candidates = np.quantile(np.concatenate([inside[:half], outside[:half]]), np.linspace(0.01, 0.99, 99))
    ways = np.array([both_ways(t, inside[:half], outside[:half]) for t in candidates])
    best, way = np.unravel_index(np.argmax(ways), ways.shape)
    return float(both_ways(candidates[best], inside[half:], outside[half:])[way])


def test_the_bound_itself_is_right_of_a_gaussian_mechanism():
    # σ = 1: ε(1e-3) is 3.9; with many draws the audit comes near what one threshold can show, and not above.
    rng = np.random.default_rng(0)
    found = lower_bound(rng.normal(1, 1, 200_000), rng.normal(0, 1, 200_000), DELTA)
    assert 1.5 < found < 3.9
    assert lower_bound(rng.normal(0, 1, 2000), rng.normal(0, 1, 2000), DELTA) < 0.1


def test_an_audit_stays_below_the_claimed_epsilon_and_exceeds_it_without_noise():
    (inside, outside), run = scores(2.0)
    claimed = run.epsilon(DELTA)
    found = lower_bound(inside, outside, DELTA)
    assert 0 < found < claimed < 3
    # The attack has teeth: what it finds without noise is more than the noisy models' owner promises.
    (inside, outside), _ = scores(0.01)
    assert lower_bound(inside, outside, DELTA) > 1.3 * claimed
