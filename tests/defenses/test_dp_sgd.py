"""DP-SGD's gradient: clipping in closed form, the noise's law, fillers; and training by it, one model and many."""

import dataclasses
import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.defenses.dp_sgd import PrivateGradient
from mu_jax.defenses.poisson import PoissonRun, with_filler
from mu_jax.models.cnn import cnn_model
from mu_jax.models.layers import Convolution, Linear, norm_or_nothing
from mu_jax.models.mlp import mlp_model
from mu_jax.models.model import from_module
from mu_jax.ops import layout_of
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import train
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Recipe, cross_entropy

pytest.importorskip("jax_privacy", reason="DP-SGD needs the extra [dp]")
pytestmark = pytest.mark.dp

SHAPE, CLASSES, N = (2, 2, 1), 3, 10
LINEAR = mlp_model((), CLASSES, SHAPE)
CLIP, EXPECTED = 1.5, 4


def objective_of(model):
    def objective(params, images, targets, weights):
        logits, batch_stats = model.apply({"params": params, "batch_stats": {}}, images, train=True)
        return jnp.mean(weights * cross_entropy(logits, targets)), (logits, batch_stats)

    return objective


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def batch_of(shape=SHAPE, weights=None, size=N, seed=0):
    targets = label_targets(np.arange(size) % CLASSES, CLASSES)
    weights = np.ones(size) if weights is None else weights
    images = normal(size, *shape, seed=seed)
    images *= np.linspace(0.1, 3.0, size, dtype=np.float32)[:, None, None, None]  # some are clipped, some not
    return jnp.asarray(images), jnp.asarray(targets), jnp.asarray(weights, jnp.float32)


@functools.cache
def program_of(model, settings):
    return jax.jit(functools.partial(PrivateGradient(*settings), objective_of(model)))


def private(model, batch, *, clip=CLIP, sigma=0.0, key=0, params=None, microbatch=0):
    params = model.init(jax.random.key(1))["params"] if params is None else params
    return program_of(model, (clip, sigma, EXPECTED, microbatch))(params, *batch, jax.random.key(key))


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_compiled_is_as_it_is_written():
    batch, params = batch_of(), LINEAR.init(jax.random.key(1))["params"]
    gradient = PrivateGradient(CLIP, 1.0, EXPECTED)
    written = gradient(objective_of(LINEAR), params, *batch, jax.random.key(0))
    compiled = private(LINEAR, batch, sigma=1.0)
    for a, b in zip(jax.tree.leaves(written), jax.tree.leaves(compiled), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def clipped_by_hand(params, images, targets, weights, clip):
    """Of a linear model, each example's clipped gradient: the residual p − t times the pixels, and times one."""
    (head,) = params.values()
    found = []
    for image, target, weight in zip(*map(np.float64, (images, targets, weights)), strict=True):
        x = image.ravel()
        z = x @ np.float64(head["kernel"]) + np.float64(head["bias"])
        p = np.exp(z - z.max())
        residual = weight * (p / p.sum() - target)
        norm = np.linalg.norm(residual) * np.sqrt(x @ x + 1)
        scale = min(1.0, clip / norm) if norm else 0.0
        found.append({"kernel": scale * np.outer(x, residual), "bias": scale * residual})
    return found


def test_the_sum_of_clipped_gradients_of_a_linear_model_in_closed_form():
    batch, params = batch_of(weights=np.linspace(0, 2, N)), LINEAR.init(jax.random.key(1))["params"]
    (loss, (logits, stats_)), gradients = private(LINEAR, batch, params=params)
    by_hand = clipped_by_hand(params, *batch, CLIP)
    norms = [np.sqrt((g["kernel"] ** 2).sum() + (g["bias"] ** 2).sum()) for g in by_hand]
    assert 2 <= sum(norm > CLIP - 1e-9 for norm in norms) <= N - 3  # both kinds are there
    (got,) = gradients.values()
    for name in ("kernel", "bias"):
        expected = sum(g[name] for g in by_hand) / EXPECTED
        np.testing.assert_allclose(got[name], expected, rtol=1e-4, atol=1e-6)
    expected_logits, _ = LINEAR.apply({"params": params, "batch_stats": {}}, batch[0], train=True)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        loss, np.sum(batch[2] * cross_entropy(expected_logits, batch[1])) / EXPECTED, rtol=1e-5
    )
    assert stats_ == {}


@pytest.mark.parametrize("clip", [0.01, 1.5, 1000.0])
def test_no_example_moves_the_sum_by_more_than_the_clip(clip):
    params = LINEAR.init(jax.random.key(1))["params"]
    lengths, free = [], []
    for i in range(N):
        batch = batch_of(weights=np.eye(N)[i])
        lengths.append(np.linalg.norm(flat(private(LINEAR, batch, clip=clip, params=params)[1])) * EXPECTED)
        ((_, _), gradient) = private(LINEAR, batch, clip=1e9, params=params)
        free.append(np.linalg.norm(flat(gradient)) * EXPECTED)
    np.testing.assert_allclose(lengths, np.minimum(free, clip), rtol=1e-5)
    # Taking an example out, with all others there, moves it by no more either: that is the sensitivity.
    whole = flat(private(LINEAR, batch_of(), clip=clip, params=params)[1])
    for i in range(N):
        without = flat(private(LINEAR, batch_of(weights=1 - np.eye(N)[i]), clip=clip, params=params)[1])
        assert np.linalg.norm(whole - without) * EXPECTED <= clip * (1 + 1e-4)


def test_the_norm_is_over_all_parameters_together():
    model = mlp_model((8,), CLASSES, SHAPE)
    for i in range(N):
        gradients = private(model, batch_of(weights=np.eye(N)[i]), clip=1e-3)[1]
        np.testing.assert_allclose(np.linalg.norm(flat(gradients)) * EXPECTED, 1e-3, rtol=1e-5)
        assert all(0 < np.linalg.norm(flat(layer)) * EXPECTED < 1e-3 for layer in gradients.values())


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_fillers_add_exactly_nothing_whatever_they_show(sigma):
    weights = (np.arange(N) < 6).astype(float)
    images, targets, weights = batch_of(weights=weights)
    noise = jnp.asarray(100 * normal(4, *SHAPE, seed=5))
    found = [
        private(LINEAR, (images.at[6:].set(shown), targets, weights), sigma=sigma)
        for shown in (jnp.zeros((4, *SHAPE)), noise, jnp.full((4, *SHAPE), jnp.nan))
    ]
    for (loss, _), gradients in found[1:]:
        assert flat(gradients).tobytes() == flat(found[0][1]).tobytes()
        assert loss == found[0][0][0]
    alone = private(LINEAR, (images[:6], targets[:6], weights[:6]), sigma=sigma)
    np.testing.assert_allclose(flat(found[0][1]), flat(alone[1]), rtol=1e-5, atol=1e-7)
    assert found[0][0][1][0].shape == (N, CLASSES)


def test_a_batch_of_fillers_is_noise_alone():
    (loss, _), gradients = private(LINEAR, batch_of(weights=np.zeros(N)))
    assert loss == 0
    assert not flat(gradients).any()


def test_an_example_whose_gradient_is_not_finite_counts_as_zero():
    images, targets, weights = batch_of()
    broken = private(LINEAR, (images.at[3].set(jnp.inf), targets, weights))[1]
    without = private(LINEAR, (images, targets, weights.at[3].set(0.0)))[1]
    np.testing.assert_allclose(flat(broken), flat(without), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("clip", "sigma"), [(0.5, 3.0), (2.0, 0.7)])
def test_the_noise_is_gaussian_of_the_deviation_that_the_accounting_presumes(clip, sigma):
    draws, batch = 4000, batch_of()
    params = LINEAR.init(jax.random.key(1))["params"]
    gradient = PrivateGradient(clip, sigma, EXPECTED)

    @jax.jit
    def noisy(key):
        return gradient(objective_of(LINEAR), params, *batch, key)[1]

    found = jax.vmap(noisy)(jax.random.split(jax.random.key(0), draws))
    (layer,) = found.values()
    values = np.concatenate(
        [np.asarray(layer[name]).reshape(draws, -1) for name in ("bias", "kernel")], axis=1
    )
    clean = flat(private(LINEAR, batch, clip=clip, params=params)[1])  # bias, then kernel, too
    standard = (values - clean) / (clip * sigma / EXPECTED)
    # 4000 draws of 15 parameters: a deviation that is 2% off is seven standard errors away.
    assert abs(standard.std() - 1) < 4 / np.sqrt(2 * standard.size)
    assert abs(standard.mean()) < 4 / np.sqrt(standard.size)
    assert np.abs(standard.mean(0)).max() < 5 / np.sqrt(draws)
    assert np.abs(np.corrcoef(standard, rowvar=False) - np.eye(standard.shape[1])).max() < 5 / np.sqrt(draws)
    assert stats.kstest(standard.ravel(), "norm").pvalue > 1e-4


def test_noise_depends_on_the_key_and_not_on_the_batch():
    first, other = (private(LINEAR, batch_of(weights=np.zeros(N)), sigma=1.0, key=k)[1] for k in (0, 1))
    with_data = private(LINEAR, batch_of(), sigma=1.0)[1]
    without_noise = private(LINEAR, batch_of())[1]
    np.testing.assert_allclose(flat(with_data), flat(without_noise) + flat(first), rtol=1e-4, atol=1e-5)
    assert np.abs(flat(first) - flat(other)).min() > 0


@pytest.mark.parametrize("microbatch", [1, 4, 16])
def test_microbatches_change_nothing_but_memory(microbatch):
    weights = np.where(np.arange(N) % 3 == 1, 0.0, 1.0)
    (loss, (logits, _)), gradients = private(LINEAR, batch_of(weights=weights), sigma=1.0)
    (its_loss, (its_logits, _)), its = private(
        LINEAR, batch_of(weights=weights), sigma=1.0, microbatch=microbatch
    )
    np.testing.assert_allclose(flat(its), flat(gradients), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(its_loss, loss, rtol=1e-6)
    used = weights > 0  # microbatches of fillers alone, at the end, are not computed
    np.testing.assert_allclose(its_logits[used], logits[used], rtol=1e-5, atol=1e-6)


class Net(nn.Module):
    norm: str
    lowering: str

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of(self.lowering)
        x = Convolution(8, 3, 1, 1, lowering=self.lowering)(layout.arrange(images))
        norm = norm_or_nothing(self.norm, train=train, lowering=self.lowering, dtype=jnp.float32, name="norm")
        return Linear(CLASSES, name="head")(layout.mean_over_pixels(nn.relu(norm(x))))


@pytest.mark.parametrize(
    "lowering", ["patches", *(pytest.param(other, marks=pytest.mark.slow) for other in ("winograd", "xla"))]
)
def test_gradients_through_convolutions_are_each_examples_own(lowering):
    model = from_module(Net("group", lowering), (4, 4, 1))
    images, targets, weights = batch_of((4, 4, 1), size=4)
    params = model.init(jax.random.key(1))["params"]
    objective, expected = objective_of(model), 0.0
    of_one = jax.jit(jax.grad(objective, has_aux=True))
    for i in range(4):
        one = flat(of_one(params, images[i : i + 1], targets[i : i + 1], weights[i : i + 1])[0])
        expected += one * min(1.0, 0.5 / np.linalg.norm(one)) / EXPECTED
    gradient = PrivateGradient(0.5, 0.0, EXPECTED)
    got = jax.jit(lambda *batch: gradient(objective, params, *batch, jax.random.key(0))[1])
    np.testing.assert_allclose(flat(got(images, targets, weights)), expected, rtol=1e-3, atol=1e-5)


def test_batch_norm_is_refused_and_group_norm_is_not():
    def gradient(norm):
        model = from_module(Net(norm, "patches"), (4, 4, 1))
        variables = model.init(jax.random.key(0))

        def objective(params, images, targets, weights):
            logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
            return jnp.mean(weights * cross_entropy(logits, targets)), (logits, batch_stats)

        program = jax.jit(functools.partial(PrivateGradient(0.1, 0.0, N), objective))
        return program(variables["params"], *batch_of((4, 4, 1)), jax.random.key(0))[1]

    with pytest.raises(InputError, match=r"batch-norm.*use group-norm: --config.model.norm=group"):
        gradient("batch")
    assert 0 < np.linalg.norm(flat(gradient("group"))) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ((0.0, 1.0, 4), "DP-SGD's clip_norm is 0.0, but expected a positive number"),
        ((float("inf"), 1.0, 4), "DP-SGD's clip_norm is inf"),
        ((1.0, -1.0, 4), "DP-SGD's noise_multiplier is -1.0"),
        ((1.0, float("nan"), 4), "DP-SGD's noise_multiplier is nan"),
        ((1.0, 1.0, 0), "DP-SGD's expected_batch is 0"),
        ((1.0, 1.0, 4, -1), "DP-SGD's microbatch is -1"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings, match):
    with pytest.raises(InputError, match=match):
        PrivateGradient(*settings)


def test_without_the_extra_a_sentence_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax_privacy", None)
    with pytest.raises(InputError, match=r"jax_privacy, which is not installed; pip install 'mu-jax\[dp\]'"):
        private(LINEAR, batch_of(), clip=0.123)


ROWS, IMAGE = 24, (4, 4, 1)
TRAINING = OptimizationConfig(epochs=2.0, batch_size=6, learning_rate=0.1, crop_padding=1, flip=True)


@pytest.fixture(scope="module", name="examples")
def examples_fixture():
    images = np.random.default_rng(0).integers(0, 256, (ROWS, *IMAGE), dtype=np.uint8)
    labels = np.arange(ROWS) % CLASSES
    return with_filler(Examples(images, label_targets(labels, CLASSES), np.ones(ROWS, np.float32)))


@pytest.fixture(scope="module", name="model", params=["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def model_fixture(request):
    return (
        mlp_model((8,), CLASSES, IMAGE) if request.param == "mlp" else cnn_model(4, CLASSES, IMAGE, "patches")
    )


def runs_of(model, count=4, sigma=1.0, **changes):
    recipe = Recipe.of(model, DataConfig(), TRAINING, gradient=PrivateGradient(1.0, sigma, 6))
    indices = [np.arange(ROWS - k) for k in range(count)]
    runs = [
        PoissonRun(f"private_{k}", 3, index, TRAINING, recipe, filler=ROWS) for k, index in enumerate(indices)
    ]
    slots = max(run.rows_per_step for run in runs)
    return [dataclasses.replace(run, slots=slots, **changes) for run in runs]


@pytest.mark.parametrize("placement", [("map", 2, 2), ("vmap", 1, 4)], ids=lambda p: p[0])
def test_models_side_by_side_are_those_trained_one_by_one(placement, model, examples):
    runs = runs_of(model)
    trainer = ParallelTrainer(
        runs[0].recipe, examples, Placement(*placement), batch_size=runs[0].rows_per_step, chunk_steps=5
    )
    group = trainer.train(runs)
    assert (group.diverged_step < 0).all()
    assert np.isfinite(group.loss).all()
    optimizer = runs[0].recipe.make_optimizer()
    found = []
    for k, run in enumerate(runs):
        reports = []
        state = initial_state(model, optimizer, run.keys()[0])
        state = train(run, state, examples, chunk_steps=5, on_chunk=reports.append)
        alone = flat(variables_of(state))
        found.append(flat(group.of(k)))
        np.testing.assert_allclose(found[-1], alone, rtol=2e-3, atol=2e-4)
        assert sum(report.images for report in reports) == 6 * run.steps
        assert all(0 <= report.accuracy <= 1 for report in reports)
    # Each has noise of its own, not one shared by the group.
    moved = [weights - flat(model.init(run.keys()[0])) for weights, run in zip(found, runs, strict=True)]
    correlations = np.corrcoef(moved) - np.eye(len(runs))
    assert np.abs(correlations).max() < 0.5
    # And whatever its companions are, its bits are its own.
    assert flat(trainer.train([runs[2]]).of(0)).tobytes() == found[2].tobytes()
    with pytest.raises(ValueError, match="another recipe or batch size"):
        trainer.train([dataclasses.replace(runs[0], slots=runs[0].slots + 1)])


def test_filler_and_rows_outside_the_index_leave_no_trace(model, examples):
    (run,) = runs_of(model, 1)
    run = dataclasses.replace(run, index=np.arange(12), slots=0)
    other = examples.replace(images=examples.images.at[12:].set(255 - examples.images[12:]))
    states = [
        train(run, initial_state(model, run.recipe.make_optimizer(), run.keys()[0]), data, chunk_steps=4)
        for data in (examples, other)
    ]
    assert flat(states[0].params).tobytes() == flat(states[1].params).tobytes()
