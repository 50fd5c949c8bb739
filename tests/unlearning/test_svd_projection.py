"""SVD projection: its closed form against singular vectors, its sums against plain loops, and what it forgets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.config.class_methods import SvdProjectionConfig
from mu_jax.models import build_model
from mu_jax.models.affine import AffineLayer
from mu_jax.ops import conv
from mu_jax.smoothness.layers import kernel_of
from mu_jax.unlearning.plan import carry_out
from mu_jax.unlearning.svd_projection import (
    make_input_grams,
    scaled_projection,
    svd_projection,
    windows,
    without_deleted,
)

SETTINGS = SvdProjectionConfig()


def importance_by_svd(x, alpha):
    """M of inputs [rows, D], as the paper has it."""
    left, values, _ = np.linalg.svd(x.T, full_matrices=False)
    share = values**2 / np.sum(values**2)
    return (left * (alpha * share / ((alpha - 1) * share + 1))) @ left.T


def some_inputs(rows, width, seed):
    generator = np.random.default_rng(seed)
    return (
        generator.normal(size=(rows, width))
        * np.geomspace(1, 1e-3, width)
        @ generator.normal(size=(width, width))
    )


def test_by_hand():
    # Retained inputs lie along the first axis, deleted ones along the second: that one is projected out.
    weights = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    retained, deleted = np.diag([9.0, 0.0, 0.0]), np.diag([0.0, 4.0, 0.0])
    got = without_deleted(weights, retained, deleted, 100.0, 3.0)
    np.testing.assert_allclose(got, [[1, 2], [0, 0], [5, 6]], atol=1e-12)
    # Half the energy each: 3·½/(2·½ + 1) = ¾ of both is deleted, but for what the retained ones use of the first.
    deleted = np.diag([4.0, 4.0, 0.0])
    got = without_deleted(weights, retained, deleted, 100.0, 3.0)
    np.testing.assert_allclose(got, [[1, 2], [0.75, 1], [5, 6]], atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("rows", [4, 40])
def test_no_singular_vector_is_needed(alpha, rows):
    x, weights = some_inputs(rows, 9, rows), np.random.default_rng(1).normal(size=(9, 4))
    got = scaled_projection(x.T @ x, alpha, weights)
    np.testing.assert_allclose(got, importance_by_svd(x, alpha) @ weights, rtol=1e-8, atol=1e-10)


def test_the_factors_are_in_the_authors_order():
    retained, deleted = some_inputs(30, 6, 0), some_inputs(20, 6, 1)
    kept, gone = importance_by_svd(retained, 100.0), importance_by_svd(deleted, 3.0)
    projection = np.eye(6) - gone + gone @ kept
    assert np.abs(gone @ kept - kept @ gone).max() > 0.01
    theirs = np.random.default_rng(2).normal(size=(4, 6))  # [outputs, inputs], as theirs are
    got = without_deleted(theirs.T, retained.T @ retained, deleted.T @ deleted, 100.0, 3.0)
    np.testing.assert_allclose(got.T, theirs @ projection.T, rtol=1e-8, atol=1e-10)


def test_nothing_to_delete_changes_nothing():
    weights = np.random.default_rng(3).normal(size=(6, 4))
    grams = [x.T @ x for x in (some_inputs(30, 6, 0), some_inputs(20, 6, 1))]
    np.testing.assert_array_equal(without_deleted(weights, grams[0], np.zeros((6, 6)), 100.0, 3.0), weights)
    np.testing.assert_allclose(without_deleted(weights, *grams, 100.0, 1e-9), weights, atol=1e-6)
    # Directions that the retained examples use in full are theirs.
    np.testing.assert_allclose(without_deleted(weights, np.eye(6), grams[1], 1e9, 3.0), weights, atol=1e-6)
    assert np.abs(without_deleted(weights, *grams, 100.0, 3.0) - weights).max() > 0.1


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (1, 2, 0), (2, 1, 0)])
def test_windows_times_the_kernel_are_the_convolution(size, stride, padding):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 9, 8, 3)), jnp.float32)
    kernel = jnp.asarray(generator.normal(size=(size, size, 3, 5)), jnp.float32)
    wanted = conv(x, kernel, stride=stride, padding=padding, lowering="xla")
    layer = AffineLayer(("c",), "conv", (9, 8, 3), wanted.shape[1:], kernel.shape, stride, padding)
    rows = windows(x, layer)
    np.testing.assert_allclose(rows @ kernel.reshape(-1, 5), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(jax.jit(windows, static_argnums=1)(x, layer), rows)


def test_grams_are_sums_over_the_samples_and_fillers_count_for_nothing(cnn_task):
    grams_of = make_input_grams(cnn_task.reader, (0.5,), (0.25,))
    rows = np.array([[3, 8, 40], [5, 3, 3]], np.int32)
    weights = np.array([[1, 1, 1], [1, 0, 0]], np.float32)
    got = grams_of(cnn_task.original, cnn_task.images, rows, weights)
    images = (np.asarray(cnn_task.images)[[3, 8, 40, 5]] / 255.0 - 0.5) / 0.25
    _, _, inputs = cnn_task.reader.inputs(cnn_task.original, jnp.asarray(images, jnp.float32), train=False)
    assert sorted(got) == ["conv1", "conv2", "head", "hidden"]
    for layer in cnn_task.reader.layers():
        x = np.asarray(inputs[layer.name], np.float64)
        if layer.kind == "conv":
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = np.array(
                [
                    padded[i, a : a + 3, b : b + 3].ravel()
                    for i in range(4)
                    for a in range(8)
                    for b in range(8)
                ]
            )
        np.testing.assert_allclose(got[layer.name], x.T @ x, rtol=1e-4, atol=1e-3, err_msg=layer.name)


def test_the_class_is_forgotten_and_the_others_stay(cnn_task, accuracies):
    before = accuracies(cnn_task, cnn_task.original)
    edit = svd_projection(cnn_task, SETTINGS)
    after = carry_out(edit, cnn_task, chunk_steps=1).variables
    forget, retain, test = accuracies(cnn_task, after)
    assert before[0] > 0.8 and before[1] > 0.9
    assert forget < 0.3 * before[0]
    assert retain > before[1] - 0.05 and test > before[2] - 0.05
    # All there are, for want of 900.
    assert edit.read_samples == len(cnn_task.retain) + len(cnn_task.forget)
    for layer in cnn_task.model.layers():
        old, new = (kernel_of(v["params"], layer) for v in (cnn_task.original, after))
        assert old.shape == new.shape and old.dtype == new.dtype and np.any(old != new)
        bias = [v["params"][layer.path[0]]["bias"] for v in (cnn_task.original, after)]
        np.testing.assert_array_equal(bias[0], bias[1])


def test_every_layer_is_projected_by_its_inputs_in_the_original(mlp_task):
    edit = svd_projection(mlp_task, SETTINGS)
    images = jnp.asarray((np.asarray(mlp_task.images) / 255.0 - 0.5) / 0.25, jnp.float32)
    _, _, inputs = mlp_task.model.inputs(mlp_task.original, images, train=False)
    for name in ("hidden1", "hidden2", "head"):
        x = np.asarray(inputs[name], np.float64)
        kept = importance_by_svd(x[mlp_task.retain], 100.0)
        gone = importance_by_svd(x[mlp_task.forget], 3.0)
        kernel = np.asarray(mlp_task.original["params"][name]["kernel"], np.float64)
        wanted = (np.eye(len(gone)) - gone + gone @ kept) @ kernel
        np.testing.assert_allclose(edit.variables["params"][name]["kernel"], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_other_lowerings_make_the_same_edit(cnn_task):
    patches = build_model(cnn_task.architecture, num_classes=5, image_shape=(8, 8, 1), convolution="patches")
    edits = [
        svd_projection(dataclasses.replace(cnn_task, model=model), SETTINGS)
        for model in (cnn_task.model, patches)
    ]
    for one, other in zip(*(jax.tree.leaves(edit.variables) for edit in edits), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def test_samples_are_drawn_by_seed_and_name(mlp_task):
    few = SvdProjectionConfig(samples=20)
    kernels = [
        np.asarray(svd_projection(task, few, name).variables["params"]["hidden1"]["kernel"])
        for task, name in (
            (mlp_task, "a"),
            (mlp_task, "a"),
            (mlp_task, "b"),
            (dataclasses.replace(mlp_task, seed=1), "a"),
        )
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.any(kernels[0] != kernels[2]) and np.any(kernels[0] != kernels[3])
    assert svd_projection(mlp_task, few).read_samples == 40


def test_bad_input_is_refused(mlp_task):
    with pytest.raises(InputError, match="samples is 0, but expected a positive number"):
        SvdProjectionConfig(samples=0)
    with pytest.raises(InputError, match=r"alpha_forget is 0\.0, but expected a positive number"):
        SvdProjectionConfig(alpha_forget=0.0)
    with pytest.raises(InputError, match="'svd_projection' got no example to retain"):
        svd_projection(dataclasses.replace(mlp_task, retain=mlp_task.retain[:0]), SETTINGS)
    with pytest.raises(InputError, match="reads the original model"):
        svd_projection(dataclasses.replace(mlp_task, original=None), SETTINGS)
