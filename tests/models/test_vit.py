"""The vision transformer: hand values, a NumPy twin, its layers as linear maps, transforms, and that it learns."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.data.sources import load_dataset
from mu_jax.models import build_model
from mu_jax.models.affine import AffineLayer
from mu_jax.models.vit import patches_of, self_attention, vit_model
from mu_jax.ops import LOWERINGS
from mu_jax.smoothness.layers import kernel_fn, kernel_of
from mu_jax.smoothness.model import measure_layers
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
def model_of(*, image_shape=GRAY, width=8, dtype="float32", lowering="patches", **changes):
    changes = {"patch_size": 4, "depth": 2, "heads": 2} | changes
    config = ModelConfig(name="vit", width=width, compute_dtype=dtype, convolution=lowering, **changes)
    return build_model(config, num_classes=10, image_shape=image_shape)


def shapes_of(model):
    return jax.eval_shape(model.init, jax.random.key(0))


def random_variables(model, seed=0):
    """Nothing at 0 or 1, so that no two parameters could be mistaken for each other."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        spread = leaf.shape[0] ** -0.5 if path[-1].key == "kernel" else 0.3
        values = (path[-1].key == "scale") + spread * generator.normal(size=leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model))


def random_images(batch=6, image_shape=GRAY, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *image_shape)), jnp.float32)


def step_of(model, variables, images):
    """Gradients, and logits, of the mean cross-entropy in training mode."""

    def loss(params):
        logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[LABELS, LABELS]), (logits, batch_stats)

    return jax.grad(loss, has_aux=True)(variables["params"])


@functools.cache
def compiled(model):
    return jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)


def evaluate(model, variables, images):
    return compiled(model)(variables, images, train=False)[0]


def assert_near_in_norm(got, expected, tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference < tolerance, f"{jax.tree_util.keystr(path)}: {difference}"


def test_patches_lie_row_by_row_and_their_pixels_as_well():
    images = jnp.arange(2 * 4 * 6 * 2, dtype=jnp.float32).reshape(2, 4, 6, 2)
    patches = patches_of(images, 2)
    assert patches.shape == (2, 6, 8)
    for patch in range(6):
        i, j = 2 * (patch // 3), 2 * (patch % 3)
        np.testing.assert_array_equal(patches[1, patch], images[1, i : i + 2, j : j + 2].ravel())


def test_attention_by_hand():
    # One head of one feature and two tokens: q = (1, 0), k = (0, log 3), v = (2, 6).
    mixed = jnp.asarray([[[1.0, 0.0, 2.0], [0.0, math.log(3), 6.0]]])
    # The first token weighs 1 : 3, the second, whose query is 0, evenly.
    np.testing.assert_allclose(self_attention(mixed, 1)[0, :, 0], [5.0, 4.0], rtol=1e-6)


def test_heads_do_not_see_each_other_and_tokens_have_no_order():
    mixed = np.asarray(random_images(2, (5, 24, 1)))[..., 0]
    both = self_attention(jnp.asarray(mixed), 2)
    for head in range(2):
        parts = [mixed[..., 8 * i + 4 * head : 8 * i + 4 * head + 4] for i in range(3)]
        alone = self_attention(jnp.asarray(np.concatenate(parts, -1)), 1)
        np.testing.assert_allclose(both[..., 4 * head : 4 * head + 4], alone, rtol=1e-5, atol=1e-6)
    order = np.array([3, 1, 4, 0, 2])
    np.testing.assert_allclose(
        self_attention(jnp.asarray(mixed[:, order]), 2), both[:, order], rtol=1e-4, atol=1e-5
    )


def numpy_logits(variables, images, patch, heads):
    """In float64, with a loop over images, heads and queries."""
    params = jax.tree.map(np.float64, variables["params"])
    erf = np.vectorize(math.erf)

    def dense(x, layer):
        return x @ layer["kernel"] + layer["bias"]

    def norm(x, layer):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]

    def attend(mixed):
        q, k, v = np.split(mixed, 3, axis=-1)
        out, size = np.zeros_like(q), q.shape[-1] // heads
        for head in range(heads):
            here = slice(head * size, (head + 1) * size)
            for token in range(len(q)):
                weights = np.exp(k[:, here] @ q[token, here] / math.sqrt(size))
                out[token, here] = weights @ v[:, here] / weights.sum()
        return out

    logits = []
    for image in np.float64(images):
        tokens = [params["class_token"]]
        for i in range(0, image.shape[0], patch):
            for j in range(0, image.shape[1], patch):
                tokens.append(dense(image[i : i + patch, j : j + patch].ravel(), params["patches"]))
        x = np.stack(tokens) + params["position"]
        for name in sorted(key for key in params if key.startswith("block")):
            block = params[name]
            x = x + dense(attend(dense(norm(x, block["norm1"]), block["qkv"])), block["projection"])
            y = dense(norm(x, block["norm2"]), block["mlp1"])
            x = x + dense(y * (1 + erf(y / math.sqrt(2))) / 2, block["mlp2"])
        logits.append(dense(norm(x[0], params["norm"]), params["head"]))
    return np.stack(logits)


@pytest.mark.parametrize(
    ("image_shape", "patch", "heads"), [(GRAY, 4, 2), ((6, 9, 3), 3, 4), ((2, 4, 1), 2, 1), ((4, 4, 2), 1, 8)]
)
def test_it_equals_its_numpy_twin(image_shape, patch, heads):
    model = model_of(image_shape=image_shape, patch_size=patch, heads=heads)
    variables, images = random_variables(model), random_images(3, image_shape)
    expected = numpy_logits(variables, images, patch, heads)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(evaluate(model, variables, images), expected, rtol=1e-4, atol=1e-4)


def test_the_number_of_parameters():
    # By hand: ViT-Ti's blocks, on 64 patches of 4×4×3.
    features, tokens = 192, 65
    block = 2 * 2 * features + (4 * features**2 + 4 * features) + (8 * features**2 + 5 * features)
    outside = (48 * features + features) + features + tokens * features + 2 * features + (features * 10 + 10)
    variables = shapes_of(vit_model(192, 10, (32, 32, 3), patch_size=4, depth=12, heads=3))
    assert (
        sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 12 * block + outside == 5_362_762
    )
    assert variables["batch_stats"] == {}


def test_layers_are_the_dense_ones_and_say_that_they_map_tokens():
    def block(number):
        shapes = {"qkv": (8, 24), "projection": (8, 8), "mlp1": (8, 32), "mlp2": (32, 8)}
        return [
            AffineLayer((f"block{number}", name), "dense", (7, shape[0]), (7, shape[1]), shape)
            for name, shape in shapes.items()
        ]

    layers = model_of(image_shape=(8, 12, 3)).layers()
    first = AffineLayer(("patches",), "dense", (6, 48), (6, 8), (48, 8))
    assert layers == (first, *block(1), *block(2), AffineLayer(("head",), "dense", (8,), (10,), (8, 10)))


def test_what_layers_are_given_is_what_they_map():
    model = model_of()
    variables, images = random_variables(model), random_images(3)
    watched = jax.jit(model.inputs, static_argnames="train", compiler_options=QUICK)
    logits, batch_stats, inputs = watched(variables, images, train=False)
    assert batch_stats == {}
    layers = {layer.name: layer for layer in model.layers()}
    assert set(inputs) == set(layers)
    for name, layer in layers.items():
        assert inputs[name].shape == (3, *layer.input_shape)
    head = variables["params"]["head"]
    np.testing.assert_allclose(inputs["head"] @ head["kernel"] + head["bias"], logits, rtol=1e-5, atol=1e-6)
    mlp1 = variables["params"]["block2"]["mlp1"]
    hidden = jax.nn.gelu(inputs["block2/mlp1"] @ mlp1["kernel"] + mlp1["bias"], approximate=False)
    np.testing.assert_allclose(inputs["block2/mlp2"], hidden, rtol=1e-5, atol=1e-6)


def test_norms_of_its_layers_are_their_kernels():
    model = model_of(depth=1)
    variables = random_variables(model)
    layers = model.layers()[1:2]
    found = measure_layers(variables, layers, "patches")
    for layer in layers:
        kernel = np.asarray(kernel_of(variables["params"], layer))
        # A map of tokens one by one stretches none further than the kernel does.
        assert found[layer.name].norm == pytest.approx(np.linalg.norm(kernel, 2), rel=1e-4), layer.name
        one = np.random.default_rng(0).normal(size=layer.input_shape).astype(np.float32)
        np.testing.assert_allclose(kernel_fn(layer, "patches")(kernel, one), one @ kernel, rtol=1e-6)


def test_jit_equals_eager():
    model = model_of(depth=1)
    variables, images = random_variables(model), random_images(2)
    eager, _ = model.apply(variables, images, train=False)
    np.testing.assert_allclose(evaluate(model, variables, images), eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mapping", ["vmap", pytest.param("map", marks=pytest.mark.slow)])
def test_stacked_models_equal_a_loop(mapping):
    model = model_of(depth=1)

    def step(variables, images):
        return step_of(model, variables, images)

    models = [random_variables(model, seed) for seed in range(3)]
    images = [random_images(seed=seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models), jnp.stack(images)
    of_many = jax.vmap(step) if mapping == "vmap" else lambda *pair: jax.lax.map(lambda one: step(*one), pair)
    together = jax.jit(of_many, compiler_options=QUICK)(*stacked)
    alone = jax.jit(step, compiler_options=QUICK)
    for k in range(3):
        got = jax.tree.map(lambda leaf, k=k: leaf[k], together)
        assert_near_in_norm(got, alone(models[k], images[k]), 1e-4)


def test_no_lowering_of_convolutions_changes_a_bit():
    variables = random_variables(model_of())
    first, *others = (evaluate(model_of(lowering=name), variables, random_images()) for name in LOWERINGS)
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_training_mode_is_evaluation_and_examples_do_not_mix():
    model = model_of()
    variables, images = random_variables(model), random_images()
    logits = evaluate(model, variables, images)
    trained, batch_stats = jax.jit(lambda v, x: model.apply(v, x, train=True), compiler_options=QUICK)(
        variables, images
    )
    np.testing.assert_allclose(trained, logits, rtol=1e-6, atol=1e-6)
    assert batch_stats == {}
    replaced = evaluate(model, variables, images.at[:2].set(7.0))
    np.testing.assert_allclose(replaced[2:], logits[2:], rtol=1e-5, atol=1e-6)
    assert not jnp.allclose(replaced[:2], logits[:2])


def test_every_patch_and_its_place_matter():
    model = model_of()
    variables, images = random_variables(model), random_images(1)
    logits = evaluate(model, variables, images)
    for i in (0, 4):
        for j in (0, 4):
            assert not jnp.allclose(
                evaluate(model, variables, images.at[:, i, j].add(1.0)), logits, atol=1e-3
            )
    assert not jnp.allclose(evaluate(model, variables, jnp.roll(images, 4, axis=1)), logits, atol=1e-3)
    # Without positions a ViT does not know where a patch was.
    lost = jax.tree.map(jnp.asarray, variables)
    lost["params"]["position"] = jnp.zeros_like(lost["params"]["position"])
    turned = evaluate(model, lost, jnp.roll(images, 4, axis=1))
    np.testing.assert_allclose(turned, evaluate(model, lost, images), rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32():
    full, half = (model_of(dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables, images = random_variables(full), random_images()
    for found in (shapes_of(half), jax.eval_shape(lambda v: step_of(half, v, images), variables)):
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    logits, expected = (evaluate(model, variables, images) for model in (half, full))
    error = jnp.linalg.norm(logits - expected) / jnp.linalg.norm(expected)
    assert 1e-5 < error < 5e-2  # an error of zero would mean that nothing ran in bfloat16


def test_it_starts_as_documented():
    model = model_of(image_shape=(32, 32, 1), width=16, patch_size=2, depth=1)
    params = jax.jit(model.init, compiler_options=QUICK)(jax.random.key(0))["params"]
    assert not jnp.any(params["class_token"])
    assert np.std(params["position"]) == pytest.approx(0.02, rel=0.05)
    kernel = np.asarray(params["block1"]["mlp2"]["kernel"])  # of 64 inputs
    assert 0.95 / 8 < np.abs(kernel).max() <= 1 / 8
    assert np.std(kernel) == pytest.approx(1 / 8 / math.sqrt(3), rel=0.05)
    assert (params["block1"]["norm1"]["scale"] == 1).all() and not params["block1"]["norm1"]["bias"].any()


def test_a_step_exports_for_every_backend():
    model = model_of(dtype="bfloat16")
    step = jax.jit(lambda variables, images: step_of(model, variables, images))
    images = jax.ShapeDtypeStruct((6, *GRAY), jnp.float32)
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(shapes_of(model), images)
    assert exported.platforms == ("cpu", "cuda", "tpu")


SETTINGS = OptimizationConfig(
    epochs=20.0, batch_size=32, optimizer="adamw", learning_rate=3e-3, schedule="constant"
)


def digits():
    dataset = load_dataset(DataConfig(), seed=0)
    targets = label_targets(dataset.y_train[:256], 10)
    return Examples(dataset.x_train[:256], targets, np.ones(256, np.float32))


def test_it_learns_digits_by_the_common_step():
    model, examples = model_of(width=16, depth=1), digits()
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
    assert np.mean(losses[:2]) > 1.8 and np.mean(losses[-8:]) < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("mapping", ["vmap", "map"])
def test_several_learn_digits_side_by_side(mapping):
    recipe = Recipe.of(model_of(width=16, depth=1), DataConfig(), SETTINGS)
    runs = [TrainingRun(f"vit_{k}", k, np.arange(256), SETTINGS, recipe) for k in range(2)]
    trainer = ParallelTrainer(recipe, digits(), Placement(mapping, 1, 2), batch_size=32, chunk_steps=8)
    group = trainer.train(runs)
    assert (group.diverged_step == -1).all()
    assert (group.loss < 0.6).all() and group.loss[0] != group.loss[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "model.heads is 3, but expected a divisor of model.width, which is 8"),
        ({"heads": 0}, "model.heads is 0"),
        ({"depth": 0}, "model.depth is 0, but expected a positive number"),
        ({"patch_size": 0}, "model.patch_size is 0, but expected a positive number of pixels"),
        ({"patch_size": 3}, "8×8 pixels, but expected multiples of the ViT's patches of 3 pixels"),
        ({"patch_size": 16}, "8×8 pixels, but a ViT with patches of 16 pixels needs at least 16×16"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        model_of(**changes)


def test_bad_arguments_are_refused_without_a_config_too():
    with pytest.raises(InputError, match="width is 8 with 3 heads, but expected a multiple of the heads"):
        vit_model(8, 10, GRAY, heads=3)
    assert (
        ModelConfig(name="resnet18", width=9).heads == 4
    )  # other networks have no heads to share their width
