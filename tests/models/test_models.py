"""All architectures behind the functional pair: shapes, dtypes, transforms, and refusals."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.models.cnn import cnn_model
from mu_jax.models.mlp import mlp_model
from mu_jax.models.resnet import BasicBlock, resnet18_model
from mu_jax.ops import LOWERINGS, layout_of

GRAY = (8, 8, 1)
ARCHITECTURES = ("resnet18", "cnn", "mlp")
LABELS = np.arange(6)
QUICK = {"xla_backend_optimization_level": 0}
"""For ResNet-18: what is compiled runs a few times only, so halve the compilation instead."""


def _model(
    name, *, image_shape=GRAY, width=8, num_classes=10, lowering="patches", dtype="float32", **changes
):
    config = ModelConfig(name=name, width=width, convolution=lowering, compute_dtype=dtype, **changes)
    return build_model(config, num_classes=num_classes, image_shape=image_shape)


def _variables(model, seed=0, fresh_norms=False):
    """Random weights without the compilation that drawing them with `init` takes."""
    generator = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            return generator.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1]))
        centre = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return centre + (0 if fresh_norms else generator.uniform(-0.2, 0.2, leaf.shape)) * np.ones(leaf.shape)

    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32), jax.tree_util.tree_map_with_path(draw, shapes)
    )


def _images(batch=6, image_shape=GRAY, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, *image_shape)), jnp.float32)


def _count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _step(model, variables, images):
    """Gradients, logits and new statistics of the mean cross-entropy in training mode."""

    def loss(params):
        logits, batch_stats = model.apply({**variables, "params": params}, images, train=True)
        return -jnp.mean(jax.nn.log_softmax(logits)[LABELS, LABELS]), (logits, batch_stats)

    return jax.grad(loss, has_aux=True)(variables["params"])


@functools.cache
def _compiled_step(name, lowering):
    model = _model(name, lowering=lowering)
    return jax.jit(lambda variables, images: _step(model, variables, images), compiler_options=QUICK)


def _evaluate(model, variables, images):
    apply = jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)
    return apply(variables, images, train=False)[0]


def _at(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)


def _assert_trees_close(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def _assert_trees_near_in_norm(got, expected, tolerance):
    # Per tensor, because rounding leaves single small entries without a correct digit.
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    pairs = jax.tree_util.tree_leaves_with_path(got)
    for (path, a), b in zip(pairs, jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        difference = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert difference < tolerance, f"{jax.tree_util.keystr(path)}: {difference}"


def test_resnet18_has_the_published_number_of_parameters():
    variables = jax.eval_shape(resnet18_model(64, 10, (32, 32, 3)).init, jax.random.key(0))
    assert _count(variables["params"]) == 11_173_962
    assert _count(variables["batch_stats"]) == 2 * 4800  # a mean and a variance for each normalised channel


def test_cnn_and_mlp_have_the_documented_layers():
    cnn = jax.eval_shape(cnn_model(4, 10, (9, 8, 3)).init, jax.random.key(0))
    convolutions = (9 * 3 * 4 + 4) + (9 * 4 * 8 + 8)
    assert _count(cnn["params"]) == convolutions + (4 * 4 * 8 * 128 + 128) + (128 * 10 + 10)
    mlp = jax.eval_shape(_model("mlp", width=7).init, jax.random.key(0))
    assert _count(mlp["params"]) == (64 * 7 + 7) + (7 * 7 + 7) + (7 * 10 + 10)
    assert cnn["batch_stats"] == mlp["batch_stats"] == {}


def test_mlp_without_hidden_layers_is_logistic_regression():
    model = mlp_model((), 3, (2, 2, 1))
    variables = _variables(model)
    images = _images(5, (2, 2, 1))
    logits, _ = model.apply(variables, images, train=False)
    head = variables["params"]["head"]
    assert set(variables["params"]) == {"head"}
    np.testing.assert_allclose(logits, images.reshape(5, 4) @ head["kernel"] + head["bias"], rtol=1e-6)


def test_cnn_and_mlp_equal_their_numpy_twins():
    images = np.asarray(_images(2, (5, 4, 3)))

    def dense(x, layer):
        return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])

    def convolve(x, layer):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
        return np.einsum("bhwduv,uvde->bhwe", windows, layer["kernel"]) + np.asarray(layer["bias"])

    def relu(x):
        return np.maximum(x, 0)

    cnn, mlp = (_model(name, image_shape=(5, 4, 3)) for name in ("cnn", "mlp"))
    variables = _variables(cnn)
    params = variables["params"]
    x = relu(convolve(relu(convolve(images, params["conv1"])), params["conv2"]))
    pooled = np.maximum(x[:, 0:4:2], x[:, 1:4:2])
    pooled = np.maximum(pooled[:, :, 0::2], pooled[:, :, 1::2]).reshape(2, -1)
    expected = dense(relu(dense(pooled, params["hidden"])), params["head"])
    np.testing.assert_allclose(_evaluate(cnn, variables, images), expected, rtol=1e-4, atol=1e-5)

    variables = _variables(mlp)
    params = variables["params"]
    x = relu(dense(relu(dense(images.reshape(2, -1), params["hidden1"])), params["hidden2"]))
    expected = dense(x, params["head"])
    np.testing.assert_allclose(_evaluate(mlp, variables, images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "image_shape", "lowering"),
    [
        ("resnet18", GRAY, "patches"),
        ("resnet18", (9, 12, 3), "winograd"),
        ("cnn", GRAY, "xla"),
        ("cnn", (9, 12, 3), "patches"),
        ("cnn", (7, 5, 3), "winograd"),
        ("mlp", (9, 12, 3), "xla"),
    ],
)
def test_logits_are_float32_of_the_right_shape(name, image_shape, lowering):
    model = _model(name, image_shape=image_shape, num_classes=7, lowering=lowering)
    logits = _evaluate(model, _variables(model), _images(3, image_shape))
    assert logits.shape == (3, 7)
    assert logits.dtype == jnp.float32
    assert jnp.std(logits) > 1e-3


@pytest.mark.parametrize("name", ["resnet18", "cnn"])
def test_all_lowerings_are_one_function(name):
    variables = _variables(_model(name))
    xla, *others = (_compiled_step(name, lowering)(variables, _images()) for lowering in LOWERINGS)
    for other in others:
        _assert_trees_near_in_norm(other, xla, 1e-3)


@pytest.mark.parametrize("name", ["resnet18", "cnn"])
def test_all_lowerings_have_the_same_variables(name):
    # So that a checkpoint, or what PyTorch trained, does not depend on the lowering.
    xla, *others = (
        jax.eval_shape(_model(name, lowering=lowering).init, jax.random.key(0)) for lowering in LOWERINGS
    )
    assert all(other == xla for other in others)


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_jit_equals_eager(name):
    model = _model(name)
    variables = _variables(model)
    eager = _step(model, variables, _images())
    _assert_trees_near_in_norm(_compiled_step(name, "patches")(variables, _images()), eager, 1e-4)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_jit_equals_eager_on_a_resnet_block(lowering):
    block = BasicBlock(8, 2, halve_shortcut=False, norm="batch", lowering=lowering, dtype=jnp.float32)
    images = layout_of(lowering).arrange(_images(image_shape=(8, 8, 4)))
    variables = block.init(jax.random.key(0), images, train=True)
    apply = functools.partial(block.apply, train=True, mutable=["batch_stats"])
    _assert_trees_near_in_norm(jax.jit(apply)(variables, images), apply(variables, images), 1e-5)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_vmap_over_stacked_models_equals_a_loop(name, lowering):
    models = [_variables(_model(name), seed) for seed in range(3)]
    images = [_images(seed=seed) for seed in range(3)]
    step = _compiled_step(name, lowering)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    got = jax.vmap(step)(stacked, jnp.stack(images))
    for k in range(3):
        _assert_trees_near_in_norm(_at(got, k), step(models[k], images[k]), 1e-3)


def test_vmap_of_init_stacks_what_single_keys_draw():
    model = _model("cnn")
    keys = jax.random.split(jax.random.key(3), 2)
    stacked = jax.vmap(model.init)(keys)
    for k in range(2):
        _assert_trees_close(_at(stacked, k), model.init(keys[k]), rtol=1e-5, atol=1e-6)
    kernels = stacked["params"]["conv2"]["kernel"]
    assert not jnp.allclose(kernels[0], kernels[1])


def test_resnet_starts_with_fresh_norms_and_no_layer_like_another():
    variables = _model("resnet18").init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    blocks = [variables["params"][f"stage1_block{block}"] for block in range(2)]
    kernels = [np.asarray(block[name]["kernel"]) for block in blocks for name in ("conv1", "conv2")]
    assert len({kernel.tobytes() for kernel in kernels}) == 4
    for collection, leaf, value in [
        ("params", "scale", 1),
        ("params", "bias", 0),
        ("batch_stats", "mean", 0),
        ("batch_stats", "var", 1),
    ]:
        assert jnp.all(variables[collection]["stage2_block0"]["shortcut_norm"][leaf] == value)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_bfloat16_computes_in_bfloat16_and_keeps_the_rest_in_float32(name, lowering):
    full, half = (_model(name, lowering=lowering, dtype=dtype) for dtype in ("float32", "bfloat16"))
    variables, images = _variables(full), _images()
    for shapes in (
        jax.eval_shape(half.init, jax.random.key(0)),
        jax.eval_shape(lambda variables: _step(half, variables, images), variables),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    logits, expected = (_evaluate(model, variables, images) for model in (half, full))
    error = jnp.linalg.norm(logits - expected) / jnp.linalg.norm(expected)
    assert 1e-5 < error < 5e-2  # an error of zero would mean that nothing ran in bfloat16


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_evaluation_neither_moves_statistics_nor_mixes_examples(name):
    model = _model(name)
    variables, images = _variables(model), _images()
    apply = jax.jit(model.apply, static_argnames="train", compiler_options=QUICK)
    logits, batch_stats = apply(variables, images, train=False)
    _assert_trees_close(batch_stats, variables["batch_stats"], rtol=0, atol=0)
    replaced, _ = apply(variables, images.at[:2].set(7.0), train=False)
    np.testing.assert_allclose(replaced[2:], logits[2:], rtol=1e-5, atol=1e-6)
    assert not jnp.allclose(replaced[:2], logits[:2])


def test_training_moves_every_running_statistic():
    variables = _variables(_model("resnet18"))
    _, (_, moved) = _compiled_step("resnet18", "patches")(variables, _images())
    changed = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), moved, variables["batch_stats"])
    assert all(jax.tree.leaves(changed))


def test_halving_scales_the_sum_of_projected_blocks():
    plain, halved = (_model("resnet18", halve_shortcut=halve) for halve in (False, True))
    variables = _variables(plain, fresh_norms=True)
    logits, got = (_evaluate(model, variables, _images()) for model in (plain, halved))
    # With fresh statistics every layer is homogeneous, so three halvings scale the features by one eighth.
    bias = variables["params"]["head"]["bias"]
    np.testing.assert_allclose(got - bias, (logits - bias) / 8, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_resnet_step_exports_for_every_backend(lowering):
    model = _model("resnet18", lowering=lowering, dtype="bfloat16")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((6, *GRAY), jnp.float32)
    step = jax.jit(lambda variables, images: _step(model, variables, images))
    exported = jax.export.export(step, platforms=("cpu", "cuda", "tpu"))(shapes, images)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_the_overrides_replace_the_config():
    config = ModelConfig(name="cnn", width=4, convolution="auto")
    overridden = build_model(
        config, num_classes=3, image_shape=GRAY, convolution="patches", compute_dtype="bfloat16"
    )
    half, full = (_model("cnn", width=4, num_classes=3, dtype=dtype) for dtype in ("bfloat16", "float32"))
    variables = _variables(full)
    got, expected, other = (_evaluate(model, variables, _images()) for model in (overridden, half, full))
    np.testing.assert_array_equal(got, expected)
    assert not jnp.array_equal(got, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"convolution": None}, "choose_lowering"),
        ({"convolution": "winograd_9"}, "'winograd_9', but expected one of xla, patches, winograd"),
        ({"compute_dtype": "float16"}, "'float16', but expected one of float32, bfloat16"),
        ({"num_classes": 1}, "num_classes is 1"),
        ({"image_shape": (7, 32, 3)}, "7×32 pixels, but ResNet-18 needs at least 8×8"),
        ({"image_shape": (8, 8, 0)}, "three positive numbers"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    settings = {"num_classes": 10, "image_shape": GRAY, "convolution": "xla", **changes}
    with pytest.raises(InputError, match=message):
        build_model(ModelConfig(), **settings)


def test_the_cnn_needs_a_window_to_pool():
    with pytest.raises(InputError, match="1×8 pixels, but the small CNN needs at least 2×2"):
        build_model(
            dataclasses.replace(ModelConfig(), name="cnn", convolution="xla"),
            num_classes=10,
            image_shape=(1, 8, 1),
        )


def test_images_of_another_shape_are_refused():
    model = _model("mlp")
    with pytest.raises(InputError, match=r"shape \(2, 9, 8, 1\), but this model was built for"):
        model.apply(_variables(model), jnp.zeros((2, 9, 8, 1)), train=False)


def test_bytes_instead_of_normalised_images_are_refused():
    model = _model("mlp")
    # Under the type checker of the test run its own error comes first.
    with pytest.raises(Exception, match="images are uint8|[Tt]ype"):
        model.apply(_variables(model), jnp.zeros((2, *GRAY), jnp.uint8), train=False)
