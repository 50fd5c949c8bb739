"""All layers of a small network, measured and clipped, against the SVD of each layer's matrix written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.model import from_module
from mu_jax.ops import layout_of
from mu_jax.smoothness.layers import norm_scale
from mu_jax.smoothness.model import clip_layers, measure_layers

SHAPE, C = (5, 4, 2), 0.8
LOWERING = "patches"


class Net(nn.Module):
    """Two convolutions of one shape, one with a norm; a strided shortcut with a norm; a head."""

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of(LOWERING)
        shared = {"lowering": LOWERING, "dtype": jnp.float32}
        x = layout.arrange(images)
        x = Convolution(2, 3, 1, 1, **shared, name="conv1")(x)
        x = nn.relu(batch_norm(train=train, **shared, name="norm1")(x))
        x = nn.relu(Convolution(2, 3, 1, 1, **shared, use_bias=True, name="conv2")(x))
        x = Convolution(4, 1, 2, 0, **shared, name="shortcut")(x)
        x = batch_norm(train=train, **shared, name="shortcut_norm")(x)
        return Linear(3, name="head")(layout.restore(x).reshape(len(images), -1))


@pytest.fixture(scope="module", name="layers")
def layers_fixture():
    return from_module(Net(), SHAPE).layers()


@pytest.fixture(scope="module", name="variables")
def variables_fixture():
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(from_module(Net(), SHAPE).init, jax.random.key(0))

    def draw(path, leaf):
        positive = path[-1].key in ("var", "scale")
        return (rng.uniform(0.3, 2.0, leaf.shape) if positive else 0.7 * rng.normal(size=leaf.shape)).astype(
            np.float32
        )

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    variables["params"]["norm1"]["scale"] *= np.float32([-1, 3])
    return variables


def matrix_of(layer, kernel):
    """[outputs, inputs], by the definition of convolution."""
    if layer.kind == "dense":
        return kernel.T
    (height, width, depth), (rows, columns, features) = layer.input_shape, layer.output_shape
    matrix = np.zeros((rows, columns, features, height, width, depth))
    for i, j, u, v in np.ndindex(rows, columns, *kernel.shape[:2]):
        y, x = layer.stride * i + u - layer.padding, layer.stride * j + v - layer.padding
        if 0 <= y < height and 0 <= x < width:
            matrix[i, j, :, y, x] += kernel[u, v].T
    return matrix.reshape(rows * columns * features, -1)


def true_norms(variables, layers):
    """Name -> (the layer's norm, that with its batch-norm or None), float64."""
    found = {}
    for layer in layers:
        kernel = np.asarray(variables["params"][layer.name]["kernel"], np.float64)
        matrix, composed = matrix_of(layer, kernel), None
        if layer.norm:
            gamma = np.asarray(variables["params"][layer.norm[0]]["scale"], np.float64)
            scale = gamma / np.sqrt(variables["batch_stats"][layer.norm[0]]["var"].astype(np.float64) + 1e-5)
            composed = np.linalg.norm(np.tile(scale, len(matrix) // len(scale))[:, None] * matrix, 2)
        found[layer.name] = np.linalg.norm(matrix, 2), composed
    return found


def test_measured_norms_are_the_true_ones(variables, layers):
    measured, true = measure_layers(variables, layers, LOWERING), true_norms(variables, layers)
    assert list(measured) == ["conv1", "conv2", "shortcut", "head"]
    for name, found in measured.items():
        norm, composed = true[name]
        assert found.norm == pytest.approx(norm, rel=1e-5)
        # Where more values are equal than a block has vectors, as in the shortcut, the error is told with caution.
        assert 0 <= found.error <= (1e-4 if name == "shortcut" else 1e-6)
        if name in ("conv1", "shortcut"):
            assert found.composed == pytest.approx(composed, rel=1e-5)
            assert 0 <= found.composed_error <= 1e-4
        else:
            assert found.composed is found.composed_error is None


def test_the_scale_of_a_norm_is_that_of_eval_mode(variables, layers):
    model = from_module(Net(), SHAPE)
    norm = batch_norm(train=False, lowering="xla", dtype=jnp.float32, name="norm1")
    own = {"params": variables["params"]["norm1"], "batch_stats": variables["batch_stats"]["norm1"]}
    step = norm.apply(own, jnp.ones((1, 1, 1, 2))) - norm.apply(own, jnp.zeros((1, 1, 1, 2)))
    scale = norm_scale(variables["params"], variables["batch_stats"], model.layers()[0])
    np.testing.assert_allclose(scale, step.ravel(), rtol=1e-5)
    with pytest.raises(ValueError, match="conv2 has no batch-norm behind it"):
        norm_scale(variables["params"], variables["batch_stats"], model.layers()[1])


def moved_leaves(new, old):
    pairs = zip(
        jax.tree_util.tree_leaves_with_path(new["params"]), jax.tree.leaves(old["params"]), strict=True
    )
    return {"/".join(key.key for key in path) for (path, a), b in pairs if not np.array_equal(a, b)}


KERNELS = {"conv1/kernel", "conv2/kernel", "shortcut/kernel", "head/kernel"}


@pytest.mark.parametrize("composed", [None, "kernel", "scale"])
def test_clipped_layers_are_within_the_norm(variables, layers, composed):
    before = true_norms(variables, layers)
    assert min(norm for norm, _ in before.values()) > 1.1 * C
    clipped = clip_layers(variables, layers, C, LOWERING, composed=composed)
    after = true_norms(clipped.variables, layers)
    for norm, with_norm in after.values():
        assert norm <= 1.02 * C
        if composed and with_norm is not None:
            assert with_norm <= 1.02 * C
    if composed is None:
        assert after["conv1"][1] > 1.02 * C  # or the others would show nothing
    scales = {"norm1/scale", "shortcut_norm/scale"} if composed == "scale" else set()
    assert moved_leaves(clipped.variables, variables) == KERNELS | scales
    assert clipped.divided == ()
    assert clipped.rounds >= 1
    pairs = zip(
        jax.tree.leaves(clipped.variables["params"]), jax.tree.leaves(variables["params"]), strict=True
    )
    squares = [(np.sum((np.asarray(a) - b) ** 2), np.sum(b**2)) for a, b in pairs]
    assert clipped.moved == pytest.approx(np.sqrt(np.sum(squares, 0)[0] / np.sum(squares, 0)[1]), rel=1e-5)
    np.testing.assert_array_equal(
        clipped.variables["batch_stats"]["norm1"]["var"], variables["batch_stats"]["norm1"]["var"]
    )
    # What is within the norm stays as it is.
    again = clip_layers(clipped.variables, layers, C, LOWERING, composed=composed)
    assert again.moved == 0 and moved_leaves(again.variables, clipped.variables) == set()


def test_rounds_that_run_out_are_made_good_by_dividing(variables, layers):
    clipped = clip_layers(variables, layers, C, LOWERING, composed="kernel", max_rounds=0)
    assert set(clipped.divided) == {"conv1", "conv2", "shortcut", "head"}
    for norm, with_norm in true_norms(clipped.variables, layers).values():
        assert max(norm, with_norm or 0.0) == pytest.approx(C, rel=1e-5)


@pytest.mark.parametrize("c", [0.0, -0.5, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(variables, layers, c):
    with pytest.raises(InputError, match="The norm to clip at is"):
        clip_layers(variables, layers, c, LOWERING)


def test_an_unknown_way_to_clip_with_batch_norm_is_refused(variables, layers):
    with pytest.raises(ValueError, match="composed is 'kernels', but expected kernel, scale or None"):
        clip_layers(variables, layers, C, LOWERING, composed="kernels")
