"""The affine layers of a network: what the network itself says of them, and that they are its layers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import ModelConfig
from mu_jax.models import build_model
from mu_jax.models.affine import AffineLayer, affine_layers
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.resnet import BasicBlock, resnet18_model
from mu_jax.ops import LOWERINGS, layout_of
from mu_jax.smoothness.layers import input_shape, kernel_fn, kernel_of

QUICK = {"xla_backend_optimization_level": 0}
SHAPE = (9, 8, 3)
"""Neither square nor even, so that no two axes can be mixed up."""


def build(name, *, norm="batch", lowering="xla", width=4, image_shape=SHAPE):
    config = ModelConfig(name=name, width=width, norm=norm, convolution=lowering)
    return build_model(config, num_classes=10, image_shape=image_shape)


def resnet_layers(with_norm):
    """ResNet-18 of width 4 on 9×8 images, by hand."""

    def conv(name, before, after, sizes, size=3, stride=1):
        (height, width), (new_height, new_width) = sizes
        head, _, part = name.rpartition("/")
        norm = {"conv1": "norm1", "conv2": "norm2", "shortcut": "shortcut_norm", "stem": "stem_norm"}[part]
        return AffineLayer(
            path=tuple(name.split("/")),
            kind="conv",
            input_shape=(height, width, before),
            output_shape=(new_height, new_width, after),
            kernel_shape=(size, size, before, after),
            stride=stride,
            padding=size // 2,
            norm=(*([head] if head else []), norm) if with_norm else None,
        )

    sizes = {1: (9, 8), 2: (5, 4), 3: (3, 2), 4: (2, 1)}
    found = [conv("stem", 3, 4, (sizes[1], sizes[1]))]
    for stage in (1, 2, 3, 4):
        width, here = 4 * 2 ** (stage - 1), sizes[stage]
        before, there = (width, here) if stage == 1 else (width // 2, sizes[stage - 1])
        stride = 1 if stage == 1 else 2
        found.append(conv(f"stage{stage}_block0/conv1", before, width, (there, here), stride=stride))
        found.append(conv(f"stage{stage}_block0/conv2", width, width, (here, here)))
        if stage > 1:
            name = f"stage{stage}_block0/shortcut"
            found.append(conv(name, before, width, (there, here), size=1, stride=2))
        found += [conv(f"stage{stage}_block1/conv{i}", width, width, (here, here)) for i in (1, 2)]
    return (*found, AffineLayer(("head",), "dense", (32,), (10,), (32, 10)))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_layers_of_resnet18(norm, lowering):
    layers = build("resnet18", norm=norm, lowering=lowering).layers()
    assert layers == resnet_layers(norm == "batch")
    assert layers[6].name == "stage2_block0/conv2"


@pytest.mark.parametrize("lowering", ["xla", "patches"])
def test_layers_of_the_small_cnn(lowering):
    assert build("cnn", lowering=lowering).layers() == (
        AffineLayer(("conv1",), "conv", (9, 8, 3), (9, 8, 4), (3, 3, 3, 4), 1, 1),
        AffineLayer(("conv2",), "conv", (9, 8, 4), (9, 8, 8), (3, 3, 4, 8), 1, 1),
        AffineLayer(("hidden",), "dense", (128,), (128,), (128, 128)),
        AffineLayer(("head",), "dense", (128,), (10,), (128, 10)),
    )


def test_layers_of_the_mlp_and_their_shapes():
    layers = build("mlp").layers()
    assert layers == (
        AffineLayer(("hidden1",), "dense", (216,), (4,), (216, 4)),
        AffineLayer(("hidden2",), "dense", (4,), (4,), (4, 4)),
        AffineLayer(("head",), "dense", (4,), (10,), (4, 10)),
    )
    assert layers[1].shape == AffineLayer(("other",), "dense", (4,), (4,), (4, 4), norm=("n",)).shape
    assert len({layer.shape for layer in layers}) == 3


class OddNet(nn.Module):
    """All kinds of layers: stride, no padding, a bias, batch-norm behind an activation (which is not the layer's)."""

    lowering: str

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of(self.lowering)
        shared = {"lowering": self.lowering}
        x = layout.arrange(images)
        x = Convolution(4, 3, 2, 1, **shared, use_bias=True, name="strided")(x)
        x = batch_norm(train=train, **shared, dtype=jnp.float32, name="norm")(x)
        x = Convolution(5, 3, **shared, name="bare")(nn.relu(x))
        x = batch_norm(train=train, **shared, dtype=jnp.float32, name="late_norm")(nn.relu(x))
        x = Convolution(6, 1, 2, **shared, use_bias=True, name="shortcut")(x)
        return Linear(3, name="head")(layout.restore(x).reshape(len(images), -1))


def assert_layers_are_what_apply_computes(module, lowering):
    """Each layer's output, less its bias, is its kernel's map of its input, example by example."""
    layers = {layer.path: layer for layer in affine_layers(module, SHAPE)}
    layout = layout_of(lowering)

    def run(key, images):
        variables, called = module.init(key, images, train=False), {}
        params = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf + 0.1 if path[-1].key == "bias" else leaf, variables["params"]
        )

        def watch(call, arguments, keywords, context):
            result = call(*arguments, **keywords)
            if isinstance(context.module, Convolution | Linear):
                called["/".join(context.module.path)] = arguments[0], result
            return result

        with nn.intercept_methods(watch):
            module.apply({**variables, "params": params}, images, train=False)
        return params, called

    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, *SHAPE)), jnp.float32)
    params, called = jax.jit(run, compiler_options=QUICK)(jax.random.key(0), images)
    assert sorted(called) == sorted(layer.name for layer in layers.values())

    @jax.jit
    def recompute(params, called):
        found = {}
        for layer in layers.values():
            x, y = called[layer.name]
            at = params
            for name in layer.path:
                at = at[name]
            first = (0, 0) if layer.kind == "dense" else (layout.batch, layout.batch)
            x, y = (jnp.moveaxis(a, axis, 0) for a, axis in zip((x, y), first, strict=True))
            if layer.kind == "conv" and layout.channels == 3:
                y = jnp.moveaxis(y, -1, 1)  # responses are [E,H',W']
            bias = at.get("bias", jnp.zeros(y.shape[1]))
            expected = y - (bias if layer.kind == "dense" else bias[:, None, None])
            apply, kernel = kernel_fn(layer, lowering), kernel_of(params, layer)
            found[layer.name] = jnp.stack([apply(kernel, one) for one in x]), expected, x[0]
        return found

    for layer in layers.values():
        ours, expected, one = recompute(params, called)[layer.name]
        assert one.shape == input_shape(layer, lowering)
        assert ours.shape[1:] == (
            layer.output_shape if layer.kind == "dense" else (layer.output_shape[2], *layer.output_shape[:2])
        )
        np.testing.assert_allclose(ours, expected, atol=1e-5, err_msg=layer.name)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_the_linear_part_is_the_layer_without_its_bias(lowering):
    assert_layers_are_what_apply_computes(OddNet(lowering), lowering)


def block(norm):
    return BasicBlock(8, 2, False, norm, "xla", jnp.dtype("float32"))


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_the_linear_part_is_the_layer_in_a_residual_block(norm):
    assert_layers_are_what_apply_computes(block(norm), "xla")


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_a_norm_belongs_to_the_layer_whose_very_output_it_is_given(lowering):
    layers = affine_layers(OddNet(lowering), SHAPE)
    assert [(layer.name, layer.norm) for layer in layers] == [
        ("strided", ("norm",)),
        ("bare", None),
        ("shortcut", None),
        ("head", None),
    ]
    assert [(layer.stride, layer.padding) for layer in layers] == [(2, 1), (1, 0), (2, 0), (1, 0)]


def names(tree):
    return {"/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def test_a_resnet_without_norm_has_biases_and_no_statistics():
    with_norm, without = (
        jax.eval_shape(resnet18_model(64, 10, (32, 32, 3), norm=norm).init, jax.random.key(0))
        for norm in ("batch", "none")
    )
    kernels = {name for name in names(with_norm["params"]) if name.endswith("kernel")}
    assert len(kernels) == 21
    assert without["batch_stats"] == {}
    assert names(without["params"]) == kernels | {name.replace("kernel", "bias") for name in kernels}
    # With norm, nothing but the head has a bias beside γ and β, and all is as published.
    norms = {name for name in names(with_norm["params"]) if "norm" in name}
    assert names(with_norm["params"]) == kernels | norms | {"head/bias"}
    assert len(norms) == 40
    assert sum(leaf.size for leaf in jax.tree.leaves(with_norm["params"])) == 11_173_962
    # 4,800 channels lose γ and β and gain a bias.
    assert sum(leaf.size for leaf in jax.tree.leaves(without["params"])) == 11_173_962 - 4800


def test_initial_kernels_are_the_same_bits_with_and_without_norm():
    with_norm, without = (
        block(norm).init(jax.random.key(7), jnp.zeros((1, *SHAPE)), train=False) for norm in ("batch", "none")
    )
    for layer in affine_layers(block("batch"), SHAPE):
        ours, theirs = (kernel_of(variables["params"], layer) for variables in (with_norm, without))
        np.testing.assert_array_equal(ours, theirs, err_msg=layer.name)
        assert np.std(ours) > 0.1
