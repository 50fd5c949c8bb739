import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mu_jax.config import DataConfig, OptimizationConfig
from mu_jax.data.augmentation import normalize
from mu_jax.models.mlp import mlp_model
from mu_jax.models.model import Model
from mu_jax.training.chunk import ChunkInputs, Examples, label_targets, make_run_chunk
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Batch, Recipe, make_step

SHAPE, CLASSES, N = (4, 4, 1), 3, 12
MODEL = mlp_model((), CLASSES, SHAPE)
DATA = DataConfig(mean=(0.5,), std=(0.25,))
CONFIG = OptimizationConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.01, batch_size=N)


def hyperparameters(config=CONFIG):
    return Hyperparameters(jnp.float32(config.momentum), jnp.float32(config.weight_decay))


def random_images(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (N, *SHAPE), dtype=np.uint8)


def batch_of(images, labels, weights=None, rate=0.1):
    return Batch(
        images=jnp.asarray(images),
        targets=jnp.asarray(label_targets(labels, CLASSES)),
        weights=jnp.ones(N) if weights is None else jnp.asarray(weights, jnp.float32),
        learning_rate=jnp.float32(rate),
        progress=jnp.float32(0.25),
    )


@pytest.fixture(name="problem")
def problem_fixture():
    images, labels = random_images(), np.arange(N) % CLASSES
    recipe = Recipe.of(MODEL, DATA, CONFIG)
    state = initial_state(MODEL, recipe.make_optimizer(), jax.random.key(1))
    return images, labels, recipe, state


def numpy_logistic_step(kernel, bias, images, labels, weights, config, velocity):
    """The gradient of weighted cross-entropy of a linear model, and PyTorch's SGD, in plain NumPy."""
    x = (images.reshape(N, -1) / 255.0 - 0.5) / 0.25
    logits = x @ kernel + bias
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    error = weights[:, None] * (p - np.eye(CLASSES)[labels]) / N
    gradients = {"kernel": x.T @ error, "bias": error.sum(0)}
    params = {"kernel": kernel, "bias": bias}
    for name, decay in (("kernel", True), ("bias", config.decay_norm_and_bias)):
        g = gradients[name] + (config.weight_decay * params[name] if decay else 0.0)
        velocity[name] = config.momentum * velocity[name] + g
        direction = g + config.momentum * velocity[name] if config.nesterov else velocity[name]
        params[name] = params[name] - config.learning_rate * direction
    return params["kernel"], params["bias"]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("decay_all", [False, True])
def test_three_steps_equal_plain_numpy(problem, nesterov, decay_all):
    images, labels, _, state = problem
    config = dataclasses.replace(CONFIG, nesterov=nesterov, decay_norm_and_bias=decay_all)
    recipe = Recipe.of(MODEL, DATA, config)
    state = state.replace(opt_state=recipe.make_optimizer().init(state.params))
    step = make_step(recipe)
    weights = np.linspace(-1.0, 2.0, N)  # negative weights ascend: gradient-ascent methods need them
    (head,) = state.params.values()
    kernel, bias = np.asarray(head["kernel"], np.float64), np.asarray(head["bias"], np.float64)
    velocity = {"kernel": 0.0, "bias": 0.0}
    for _ in range(3):
        state, _ = step(state, batch_of(images, labels, weights), jax.random.key(0), hyperparameters(config))
        kernel, bias = numpy_logistic_step(kernel, bias, images, labels, weights, config, velocity)
    (head,) = state.params.values()
    np.testing.assert_allclose(head["kernel"], kernel, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head["bias"], bias, rtol=1e-4, atol=1e-5)
    assert int(state.step) == 3


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_follows_its_definition(problem, name):
    images, labels, _, state = problem
    config = dataclasses.replace(CONFIG, optimizer=name)
    recipe = Recipe.of(MODEL, DATA, config)
    state = state.replace(opt_state=recipe.make_optimizer().init(state.params))
    new, _ = make_step(recipe)(state, batch_of(images, labels), jax.random.key(0), hyperparameters(config))
    # Adam's first step is g/(|g| + ε), near sign(g): with decay in the gradient or beside it, as the name says.
    gradient = jax.grad(lambda p: _mean_loss(p, images, labels))(state.params)
    decay = jax.tree.map(lambda p: config.weight_decay * p, state.params)
    inside = jax.tree.map(jnp.add, gradient, decay) if name == "adam" else gradient
    wanted = jax.tree.map(lambda g: g / (jnp.abs(g) + 1e-8), inside)
    if name == "adamw":
        wanted = jax.tree.map(jnp.add, wanted, decay)
    moved = jax.tree.map(lambda a, b: (a - b) / config.learning_rate, state.params, new.params)
    for a, b in zip(jax.tree.leaves(moved), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def _mean_loss(params, images, labels):
    x = (jnp.asarray(images, jnp.float32) / 255.0 - 0.5) / 0.25
    logits, _ = MODEL.apply({"params": params, "batch_stats": {}}, x, train=True)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(labels)))


def test_metrics_are_of_the_state_before_the_update(problem):
    images, labels, recipe, state = problem
    _, metrics = make_step(recipe)(state, batch_of(images, labels), jax.random.key(0), hyperparameters())
    np.testing.assert_allclose(metrics["loss"], _mean_loss(state.params, images, labels), rtol=1e-6)
    gradient = jax.grad(lambda p: _mean_loss(p, images, labels))(state.params)
    np.testing.assert_allclose(metrics["gradient_norm"], optax.tree.norm(gradient), rtol=1e-6)


def test_a_gradient_mask_freezes_exactly_what_it_masks(problem):
    images, labels, recipe, state = problem
    mask = jax.tree.map(lambda p: (jnp.arange(p.size).reshape(p.shape) % 2).astype(p.dtype), state.params)
    step, frozen = make_step(recipe), state
    for _ in range(3):  # decay and momentum would move a parameter whose gradient alone is masked
        frozen, _ = step(frozen, batch_of(images, labels), jax.random.key(0), hyperparameters(), mask)
    for old, new, m in zip(*map(jax.tree.leaves, (state.params, frozen.params, mask)), strict=True):
        assert np.all(np.asarray(old)[np.asarray(m) == 0] == np.asarray(new)[np.asarray(m) == 0])
        assert np.all(np.asarray(old)[np.asarray(m) == 1] != np.asarray(new)[np.asarray(m) == 1])


# Its running statistics are what it is shown.
SPY = Model(
    init=lambda key: {"params": {"w": jnp.ones((16, CLASSES))}, "batch_stats": {"seen": jnp.zeros(())}},
    apply=lambda variables, images, *, train: (
        images.reshape(len(images), -1) @ variables["params"]["w"],
        {"seen": images},
    ),
)


def test_only_images_marked_so_are_cropped_and_mirrored():
    images, labels = random_images(), np.arange(N) % CLASSES
    recipe = Recipe.of(SPY, DATA, dataclasses.replace(CONFIG, crop_padding=1, flip=True))
    state = initial_state(SPY, recipe.make_optimizer(), jax.random.key(0))
    step, marked = jax.jit(make_step(recipe)), np.arange(N) % 3 > 0

    def shown(augmented):
        batch = batch_of(images, labels).replace(augmented=jnp.asarray(augmented))
        return np.asarray(step(state, batch, jax.random.key(2), hyperparameters())[0].batch_stats["seen"])

    none, every, mixed = shown(marked & ~marked), shown(marked | ~marked), shown(marked)
    np.testing.assert_allclose(none, normalize(jnp.asarray(images), DATA.mean, DATA.std), atol=1e-6)
    assert np.mean(np.any(every != none, axis=(1, 2, 3))) > 0.7
    np.testing.assert_array_equal(mixed[~marked], none[~marked])
    # The others are drawn as they would be without these.
    np.testing.assert_array_equal(mixed[marked], every[marked])


def test_all_marked_for_augmentation_are_the_bits_of_none_marked(problem):
    images, labels, _, state = problem
    recipe = Recipe.of(MODEL, DATA, dataclasses.replace(CONFIG, crop_padding=1, flip=True))
    examples, inputs = examples_of(images, labels), inputs_of(5)
    states = [
        make_run_chunk(recipe)(
            jax.tree.map(jnp.array, state),
            examples.replace(augmented=augmented),
            inputs,
            np.int32(5),
            jax.random.key(7),
            hyperparameters(),
        )[0]
        for augmented in (None, jnp.ones(N, bool), jnp.arange(N) > 0)
    ]
    leaves = [[np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)] for state in states]
    assert leaves[0] == leaves[1] != leaves[2]


def test_a_quadratic_penalty_equals_weight_decay(problem):
    images, labels, _, state = problem
    plain = dataclasses.replace(CONFIG, weight_decay=0.0)

    def penalty(params, progress):
        # progress is 0.25 in these batches: 4·0.25·λ/2·‖θ‖².
        return 4.0 * progress * CONFIG.weight_decay / 2 * optax.tree.norm(params, squared=True)

    with_penalty = make_step(Recipe.of(MODEL, DATA, plain, penalty=penalty))
    with_decay = make_step(Recipe.of(MODEL, DATA, CONFIG))
    a = b = state
    for _ in range(3):
        a, _ = with_penalty(a, batch_of(images, labels), jax.random.key(0), hyperparameters(plain))
        b, _ = with_decay(b, batch_of(images, labels), jax.random.key(0), hyperparameters())
    for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_post_step_may_change_parameters_and_carry_extra(problem):
    images, labels, _, state = problem

    def post_step(state, batch, key):
        return state.replace(params=jax.tree.map(jnp.zeros_like, state.params), extra={"calls": state.step})

    step = make_step(Recipe.of(MODEL, DATA, CONFIG, post_step=post_step))
    state, _ = step(state, batch_of(images, labels), jax.random.key(0), hyperparameters())
    assert all(np.all(np.asarray(p) == 0) for p in jax.tree.leaves(state.params))
    assert int(state.extra["calls"]) == 1


def examples_of(images, labels):
    return Examples(
        images=jnp.asarray(images), targets=jnp.asarray(label_targets(labels, CLASSES)), weights=jnp.ones(N)
    )


def inputs_of(chunk, seed=0):
    rng = np.random.default_rng(seed)
    return ChunkInputs(
        index=rng.integers(0, N, (chunk, 6)).astype(np.int32),
        learning_rate=np.full(chunk, 0.1, np.float32),
        progress=np.linspace(0, 1, chunk).astype(np.float32),
    )


def test_a_chunk_is_its_steps_in_order_and_stops_at_the_count(problem):
    images, labels, _, state = problem
    recipe = Recipe.of(MODEL, DATA, dataclasses.replace(CONFIG, crop_padding=1, flip=True))
    examples, inputs, key = examples_of(images, labels), inputs_of(5), jax.random.key(7)
    step, expected = make_step(recipe), state
    for i in range(3):
        rows = inputs.index[i]
        batch = Batch(
            examples.images[rows], examples.targets[rows], examples.weights[rows],
            jnp.asarray(inputs.learning_rate[i]), jnp.asarray(inputs.progress[i]),
        )  # fmt: skip
        expected, _ = step(expected, batch, jax.random.fold_in(key, i), hyperparameters())
    run_chunk = make_run_chunk(recipe)
    copy = jax.tree.map(jnp.array, state)
    got, metrics = run_chunk(copy, examples, inputs, np.int32(3), key, hyperparameters())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert np.all(np.asarray(metrics["loss"])[:3] > 0)
    assert np.all(np.asarray(metrics["loss"])[3:] == 0)


def test_one_program_serves_every_count_rate_and_decay(problem):
    images, labels, _, state = problem
    recipe = Recipe.of(MODEL, dataclasses.replace(DATA, mean=(0.25,)), CONFIG)
    run_chunk, examples, key = make_run_chunk(recipe), examples_of(images, labels), jax.random.key(7)
    assert run_chunk is make_run_chunk(dataclasses.replace(recipe))
    for count, decay in ((0, 0.0), (4, 0.1), (2, 0.3)):
        copy = jax.tree.map(jnp.array, state)
        scalars = Hyperparameters(jnp.float32(0.9), jnp.float32(decay))
        run_chunk(copy, examples, inputs_of(4, seed=count), np.int32(count), key, scalars)
    assert run_chunk._cache_size() == 1


def test_vmap_over_models_equals_the_loop(problem):
    images, labels, recipe, _ = problem
    optimizer = recipe.make_optimizer()
    states = jax.vmap(lambda key: initial_state(MODEL, optimizer, key))(
        jax.random.split(jax.random.key(3), 3)
    )
    step, batch, key = make_step(recipe), batch_of(images, labels), jax.random.key(0)
    together, _ = jax.vmap(step, in_axes=(0, None, None, None))(states, batch, key, hyperparameters())
    for i in range(3):
        alone, _ = step(jax.tree.map(lambda a, i=i: a[i], states), batch, key, hyperparameters())
        for a, b in zip(
            jax.tree.leaves(variables_of(together)), jax.tree.leaves(variables_of(alone)), strict=True
        ):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6)


def test_label_targets_by_hand():
    np.testing.assert_allclose(label_targets(np.array([1]), 4, 0.2), [[0.05, 0.85, 0.05, 0.05]], rtol=1e-6)
