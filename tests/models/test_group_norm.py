"""Group-norm by hand and against flax's own, what it must not do, and who refuses it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError, ModelConfig
from mu_jax.models import build_model
from mu_jax.models.layers import GroupNorm, group_count
from mu_jax.models.resnet import BasicBlock
from mu_jax.ops import layout_of
from mu_jax.smoothness.layers import groups
from mu_jax.smoothness.model import measure_layers

ONE_OF_EACH_LAYOUT = ("xla", "patches")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_groups_by_hand():
    assert [group_count(channels) for channels in (1, 2, 7, 8, 12, 24, 64, 128, 512)] == [
        1, 1, 1, 2, 3, 6, 16, 16, 16,
    ]  # fmt: skip


def test_groups_divide_the_channels_and_are_neither_many_nor_small():
    for channels in range(1, 300):
        count = group_count(channels)
        assert channels % count == 0
        assert count <= 16
        assert count == 1 or channels // count >= 4


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_group_norm_by_hand_and_against_flax(lowering):
    images, layout = normal(3, 4, 5, 12) * 2 + 5, layout_of(lowering)
    params = {"scale": jnp.asarray(normal(12, seed=1)), "bias": jnp.asarray(normal(12, seed=2))}
    apply = jax.jit(GroupNorm(lowering).apply)
    got = layout.restore(apply({"params": params}, layout.arrange(jnp.asarray(images))))

    expected = np.empty(images.shape)
    for image in range(3):
        for group in range(3):  # of four channels
            part = np.s_[image, :, :, 4 * group : 4 * group + 4]
            values = images[part].astype(np.float64)
            expected[part] = (values - values.mean()) / np.sqrt(values.var() + 1e-5)
    expected = expected * np.asarray(params["scale"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    theirs = nn.GroupNorm(num_groups=3, epsilon=1e-5, use_fast_variance=False)
    np.testing.assert_allclose(got, theirs.apply({"params": params}, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lowering", ONE_OF_EACH_LAYOUT)
def test_no_image_depends_on_the_others(lowering):
    layout, layer = layout_of(lowering), GroupNorm(lowering)
    images = normal(4, 3, 3, 8)
    other = images.copy()
    other[1:] = 100 * normal(3, 3, 3, 8, seed=1)
    params = layer.init(jax.random.key(0), layout.arrange(jnp.asarray(images)))
    first, second = (
        np.asarray(layout.restore(layer.apply(params, layout.arrange(jnp.asarray(x)))))
        for x in (images, other)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1:] - second[1:]).max() > 0.1


def test_moments_of_a_bfloat16_image_are_taken_in_float32():
    # In bfloat16 neighbours of 300 are 2 apart: the mean of the deviations would be off by their size.
    images = jnp.asarray(300 + normal(1, 8, 8, 4), jnp.bfloat16)
    layer = GroupNorm("xla", jnp.bfloat16)
    got = layer.apply(layer.init(jax.random.key(0), images), images)
    assert got.dtype == jnp.bfloat16
    exact = np.asarray(images, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    np.testing.assert_allclose(np.asarray(got, np.float64), exact, atol=0.02)


def test_a_block_is_the_same_under_either_layout():
    images = normal(2, 6, 6, 8)
    results = []
    for lowering in ONE_OF_EACH_LAYOUT:
        layout = layout_of(lowering)
        block = BasicBlock(8, 2, halve_shortcut=False, norm="group", lowering=lowering, dtype=jnp.float32)
        x = layout.arrange(jnp.asarray(images))
        variables = block.init(jax.random.key(0), x, train=False)
        assert set(variables) == {"params"}
        results.append(layout.restore(block.apply(variables, x, train=True)))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4, atol=1e-4)


def shapes_of(norm):
    config = ModelConfig(name="resnet18", width=8, norm=norm, convolution="patches")
    model = build_model(config, num_classes=10, image_shape=(8, 8, 3))
    return model, jax.eval_shape(model.init, jax.random.key(0))


def test_resnet_with_group_norm_has_the_parameters_of_one_with_batch_norm_and_no_statistics():
    (_, with_group), (_, with_batch) = shapes_of("group"), shapes_of("batch")
    assert jax.tree.leaves(with_group["batch_stats"]) == []
    assert with_group["params"] == with_batch["params"]


def test_layers_say_that_group_norm_follows_and_fastclip_refuses_them():
    (model, shapes), (plain, _) = shapes_of("group"), shapes_of("none")
    layers = model.layers()
    assert [layer.group_norm for layer in layers] == [layer.kind == "conv" for layer in layers]
    assert all(layer.norm is None for layer in layers)
    assert not any(layer.group_norm for layer in plain.layers())
    groups(plain.layers())
    sentence = "The layer stem has group-norm behind it, which is no linear map"
    with pytest.raises(InputError, match=sentence):
        groups(layers)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with pytest.raises(InputError, match=sentence):
        measure_layers(variables, layers, "patches")


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match="model.norm is 'groups'"):
        ModelConfig(norm="groups")
