"""VGG with batch-norm: its layers and sizes, a NumPy twin, every lowering and transform, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.data.sources import load_dataset
from mu_jax.models import build_model
from mu_jax.models.affine import AffineLayer
from mu_jax.models.layers import max_pool_2x2
from mu_jax.models.vgg import CONVOLUTIONS, vgg_model
from mu_jax.smoothness.layers import kernel_of
from mu_jax.smoothness.lipschitz import lipschitz_bound
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.state import initial_state
from mu_jax.training.step import Batch, Recipe, make_step

GRAY = (8, 8, 1)
LABELS = np.arange(6)
QUICK = {"xla_backend_optimization_level": 0}
"""What is compiled runs a few times only, so halve the compilation instead."""


@functools.cache
def model_of(name="vgg11", *, image_shape=GRAY, width=8, lowering="patches", dtype="float32"):
    config = ModelConfig(name=name, width=width, convolution=lowering, compute_dtype=dtype)
    return build_model(config, num_classes=10, image_shape=image_shape)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def random_variables(model, seed=0):
    """Random weights, γ, β and running statistics, without the compilation that drawing them with `init` takes."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            values = generator.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            values = (path[-1].key in ("scale", "var")) + generator.uniform(-0.2, 0.2, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


def random_images(batch=6, image_shape=GRAY, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *image_shape)), jnp.float32)


def step_of(model, variables, images):
    """Gradients, logits and new statistics of the mean cross-entropy in training mode."""

    def loss(params):
        logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[LABELS, LABELS]), (logits, batch_stats)

    return jax.grad(loss, has_aux=True)(variables["params"])


@functools.cache
def compiled_step(lowering):
    model = model_of(lowering=lowering)
    return jax.jit(lambda variables, images: step_of(model, variables, images), compiler_options=QUICK)


@functools.cache
def compiled(model):
    return jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)


def evaluate(model, variables, images):
    return compiled(model)(variables, images, train=False)[0]


def assert_near_in_norm(got, expected, tolerance):
    # Per tensor, because rounding leaves single small entries without a correct digit.
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference < tolerance, f"{jax.tree_util.keystr(path)}: {difference}"


@pytest.mark.parametrize(
    ("depth", "with_biases", "channels"),
    # The second is what the common CIFAR variant in PyTorch has, whose convolutions have a bias a channel.
    [(11, 9_231_114, 2752), (16, 14_728_266, 4224), (19, 20_040_522, 5504)],
)
def test_the_number_of_parameters_is_the_published_less_the_biases(depth, with_biases, channels):
    variables = shapes_of(vgg_model(depth, 64, 10, (32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == with_biases - channels
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"])) == 2 * channels


@pytest.mark.parametrize(("depth", "number"), [(11, 8), (16, 13), (19, 16)])
def test_the_config_names_the_depth(depth, number):
    assert len(model_of(f"vgg{depth}").layers()) == number + 1
    assert sum(CONVOLUTIONS[depth]) == number


@pytest.mark.parametrize(
    ("image_shape", "sizes"),
    [
        ((32, 32, 3), [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]),
        # Nothing is pooled away: what is one pixel wide stays as it is.
        (GRAY, [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]),
        ((9, 12, 3), [(9, 12), (4, 6), (2, 3), (1, 1), (1, 1)]),
        ((2, 5, 1), [(2, 5), (1, 2), (1, 2), (1, 2), (1, 2)]),
        ((64, 64, 3), [(64, 64), (32, 32), (16, 16), (8, 8), (4, 4)]),
    ],
)
@pytest.mark.parametrize("lowering", ["xla", "patches"])
def test_layers_and_their_sizes(image_shape, sizes, lowering):
    layers = model_of("vgg11", image_shape=image_shape, width=2, lowering=lowering).layers()
    expected, before = [], image_shape[2]
    for size, number, features in zip(sizes, CONVOLUTIONS[11], (2, 4, 8, 16, 16), strict=True):
        for _ in range(number):
            i = len(expected) + 1
            expected.append(
                AffineLayer(
                    path=(f"conv{i}",),
                    kind="conv",
                    input_shape=(*size, before),
                    output_shape=(*size, features),
                    kernel_shape=(3, 3, before, features),
                    stride=1,
                    padding=1,
                    norm=(f"norm{i}",),
                )
            )
            before = features
    assert layers == (*expected, AffineLayer(("head",), "dense", (16,), (10,), (16, 10)))


def numpy_logits(variables, images, depth):
    """In eval mode, in float64, one convolution a loop."""
    params, stats = jax.tree.map(np.float64, variables["params"]), variables["batch_stats"]
    x, number = np.float64(images), 0
    for convolutions in CONVOLUTIONS[depth]:
        for _ in range(convolutions):
            number += 1
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            kernel, y = params[f"conv{number}"]["kernel"], 0.0
            for u in range(3):
                for v in range(3):
                    y = y + padded[:, u : u + x.shape[1], v : v + x.shape[2]] @ kernel[u, v]
            norm, running = params[f"norm{number}"], stats[f"norm{number}"]
            y = (y - running["mean"]) / np.sqrt(np.float64(running["var"]) + 1e-5)
            x = np.maximum(y * norm["scale"] + norm["bias"], 0)
        if min(x.shape[1:3]) >= 2:
            corners = [
                x[:, i : x.shape[1] // 2 * 2 : 2, j : x.shape[2] // 2 * 2 : 2] for i in (0, 1) for j in (0, 1)
            ]
            x = np.max(corners, axis=0)
    return x.mean(axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize(
    ("depth", "image_shape", "lowering"),
    [
        (11, (9, 12, 3), "patches"),
        (11, (64, 32, 1), "xla"),
        pytest.param(16, GRAY, "xla", marks=pytest.mark.slow),
        pytest.param(19, GRAY, "winograd", marks=pytest.mark.slow),
    ],
)
def test_it_equals_its_numpy_twin(depth, image_shape, lowering):
    model = model_of(f"vgg{depth}", image_shape=image_shape, width=4, lowering=lowering)
    variables, images = random_variables(model), random_images(2, image_shape)
    expected = numpy_logits(variables, images, depth)
    assert np.std(expected) > 1e-2
    np.testing.assert_allclose(evaluate(model, variables, images), expected, rtol=1e-3, atol=1e-4)


def test_pooling_takes_the_largest_of_each_window_and_drops_an_odd_edge():
    x = random_images(2, (5, 4, 3))
    expected = [[x[:, i : i + 2, j : j + 2].max(axis=(1, 2)) for j in (0, 2)] for i in (0, 2)]
    got = max_pool_2x2(x)
    assert got.shape == (2, 2, 2, 3)
    np.testing.assert_array_equal(got, np.moveaxis(expected, (0, 1), (1, 2)))


@pytest.mark.parametrize("options", [None, QUICK])
def test_a_pools_gradient_is_whole_whatever_is_compiled_before_it(options):
    # Each window passes its gradient on in full, so that of a shift of all pixels is the sum over windows.
    x, weights = random_images(16, (8, 8, 64)), random_images(16, (4, 4, 64), seed=1)

    def loss(shift):
        centred = x - x.mean((0, 1, 2))
        y = centred * jax.lax.rsqrt((centred**2).mean((0, 1, 2)) + 1e-5) * 1.3 + shift
        return jnp.sum(weights * max_pool_2x2(y))

    gradient = jax.jit(jax.grad(loss), compiler_options=options)(jnp.full(64, 0.1))
    np.testing.assert_allclose(gradient, weights.sum((0, 1, 2)), rtol=1e-4, atol=1e-4)


def test_jit_equals_eager():
    model = model_of(image_shape=(4, 4, 1), width=2, lowering="xla")
    variables, images = random_variables(model), random_images(3, (4, 4, 1))
    eager = model.apply(variables, images, train=False)[0]
    np.testing.assert_allclose(evaluate(model, variables, images), eager, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lowering", ["patches", pytest.param("winograd", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_all_lowerings_are_one_function_of_the_same_variables(lowering):
    assert shapes_of(model_of(lowering=lowering)) == shapes_of(model_of(lowering="xla"))
    variables = random_variables(model_of())
    got, xla = (compiled_step(name)(variables, random_images()) for name in (lowering, "xla"))
    assert_near_in_norm(got, xla, 2e-3)


@pytest.mark.parametrize(
    "lowering", ["patches", *(pytest.param(name, marks=pytest.mark.slow) for name in ("xla", "winograd"))]
)
def test_vmap_over_stacked_models_equals_a_loop(lowering):
    models = [random_variables(model_of(), seed) for seed in range(2)]
    images = [random_images(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    got = jax.vmap(compiled_step(lowering))(stacked, jnp.stack(images))
    for k in range(2):
        alone = compiled_step(lowering)(models[k], images[k])
        assert_near_in_norm(jax.tree.map(lambda leaf, k=k: leaf[k], got), alone, 2e-3)


def test_a_step_moves_every_parameter_and_every_statistic_that_can_move():
    variables = random_variables(model_of())
    gradients, (_, moved) = compiled_step("patches")(variables, random_images())
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(gradients))
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), moved, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))
    # On one pixel only the middle of a kernel meets the image.
    outer = gradients["conv8"]["kernel"].at[1, 1].set(0)
    assert not jnp.any(outer) and jnp.any(gradients["conv4"]["kernel"][0, 0])


def test_evaluation_neither_moves_statistics_nor_mixes_examples():
    model = model_of()
    variables, images = random_variables(model), random_images()
    logits, batch_stats = compiled(model)(variables, images, train=False)
    jax.tree.map(np.testing.assert_array_equal, batch_stats, variables["batch_stats"])
    replaced = evaluate(model, variables, images.at[:2].set(7.0))
    np.testing.assert_allclose(replaced[2:], logits[2:], rtol=1e-5, atol=1e-6)
    assert not jnp.allclose(replaced[:2], logits[:2])


@pytest.mark.parametrize("lowering", ["patches", pytest.param("xla", marks=pytest.mark.slow)])
def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32(lowering):
    full, half = (model_of(lowering=lowering, dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables, images = random_variables(full), random_images()
    for found in (shapes_of(half), jax.eval_shape(lambda v: step_of(half, v, images), variables)):
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    logits, expected = (evaluate(model, variables, images) for model in (half, full))
    error = jnp.linalg.norm(logits - expected) / jnp.linalg.norm(expected)
    assert 1e-5 < error < 5e-2  # an error of zero would mean that nothing ran in bfloat16


def test_it_starts_with_fresh_norms_and_kernels_of_the_stated_spread():
    model = model_of(width=16)
    variables = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0))
    norm = {**variables["params"]["norm3"], **variables["batch_stats"]["norm3"]}
    assert {name: set(np.asarray(value).tolist()) for name, value in norm.items()} == {
        "scale": {1.0}, "bias": {0.0}, "mean": {0.0}, "var": {1.0}
    }  # fmt: skip
    kernel = np.asarray(variables["params"]["conv6"]["kernel"])
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * kernel.shape[-1])), rel=0.02)
    assert not np.array_equal(kernel, variables["params"]["conv8"]["kernel"])


@pytest.mark.slow
def test_the_product_of_its_layers_norms_bounds_how_far_logits_move():
    model = model_of(width=2, image_shape=(4, 4, 1))
    variables = random_variables(model)
    norms = {}
    for layer in model.layers():
        kernel = np.asarray(kernel_of(variables["params"], layer)).astype(np.float64)
        # ‖conv‖ ≤ Σ over taps of ‖kernel[u,v]‖, times the largest factor of the batch-norm behind it.
        norms[layer.name] = sum(np.linalg.norm(m, 2) for m in kernel.reshape(-1, *kernel.shape[-2:]))
        if layer.norm:
            scale = variables["params"][layer.norm[0]]["scale"]
            norms[layer.name] *= float(
                jnp.max(scale / jnp.sqrt(variables["batch_stats"][layer.norm[0]]["var"] + 1e-5))
            )
    bound = lipschitz_bound(model.layers(), norms)
    x, direction = random_images(5, (4, 4, 1)), random_images(5, (4, 4, 1), seed=1)
    apply = functools.partial(evaluate, model, variables)
    moved = jnp.linalg.norm(apply(x + 0.01 * direction) - apply(x), axis=-1)
    sizes = 0.01 * jnp.linalg.norm(direction.reshape(5, -1), axis=-1)
    assert 0 < float(jnp.max(moved / sizes)) <= bound


@pytest.mark.parametrize(
    "lowering", ["patches", *(pytest.param(n, marks=pytest.mark.slow) for n in ("xla", "winograd"))]
)
def test_a_step_exports_for_every_backend(lowering):
    model = model_of(lowering=lowering, dtype="bfloat16")
    step = jax.jit(lambda variables, images: step_of(model, variables, images))
    images = jax.ShapeDtypeStruct((6, *GRAY), jnp.float32)
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(shapes_of(model), images)
    assert exported.platforms == ("cpu", "cuda", "tpu")


SETTINGS = OptimizationConfig(epochs=6.0, batch_size=32, learning_rate=0.03, schedule="constant")


def digits():
    dataset = load_dataset(DataConfig(), seed=0)
    targets = label_targets(dataset.y_train[:256], 10)
    return Examples(dataset.x_train[:256], targets, np.ones(256, np.float32))


@pytest.mark.slow
def test_it_learns_digits_by_the_common_step():
    model, examples = model_of(), digits()
    recipe = Recipe.of(model, DataConfig(), SETTINGS)
    state = jax.jit(lambda key: initial_state(model, recipe.make_optimizer(), key), compiler_options=QUICK)(
        jax.random.key(0)
    )
    step = jax.jit(make_step(recipe), compiler_options=QUICK)
    scalars = Hyperparameters(jnp.float32(SETTINGS.momentum), jnp.float32(SETTINGS.weight_decay))
    losses, generator = [], np.random.default_rng(0)
    for _ in range(int(SETTINGS.epochs)):
        for rows in generator.permutation(256).reshape(-1, 32):
            batch = Batch(
                images=examples.images[rows],
                targets=examples.targets[rows],
                weights=examples.weights[rows],
                learning_rate=jnp.float32(SETTINGS.learning_rate),
                progress=jnp.float32(0),
            )
            state, metrics = step(state, batch, jax.random.key(0), scalars)
            losses.append(float(metrics["loss"]))
    # An untrained network's loss is about log 10 = 2.3.
    assert np.mean(losses[:2]) > 1.8 and np.mean(losses[-8:]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["vmap", "map"])
def test_several_learn_digits_side_by_side(mapping):
    recipe = Recipe.of(model_of(), DataConfig(), SETTINGS)
    runs = [TrainingRun(f"vgg_{k}", k, np.arange(256), SETTINGS, recipe) for k in range(2)]
    trainer = ParallelTrainer(recipe, digits(), Placement(mapping, 1, 2), batch_size=32, chunk_steps=8)
    group = trainer.train(runs)
    assert (group.diverged_step == -1).all()
    assert (group.loss < 0.5).all() and group.loss[0] != group.loss[1]


def test_images_too_small_to_pool_are_refused():
    with pytest.raises(InputError, match="1×8 pixels, but VGG-16 needs at least 2×2"):
        model_of("vgg16", image_shape=(1, 8, 1))


def test_an_unknown_depth_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match="model.name is 'vgg17', but expected .*did you mean 'vgg1"):
        ModelConfig(name="vgg17")
