"""Boundary expanding: a network of one more class, trained on it, and pruned of it again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.class_methods import BoundaryExpandingConfig
from mu_jax.models import build_model
from mu_jax.training.chunk import make_run_chunk
from mu_jax.unlearning.boundary_expanding import boundary_expanding, widened_model, with_new_output
from mu_jax.unlearning.plan import carry_out, finished, start_of, training_run

CLASSES, FORGOTTEN = 5, 2
OPTIMIZATION = OptimizationConfig(
    epochs=6.0, batch_size=24, learning_rate=0.03, weight_decay=0.0, schedule="constant"
)
SETTINGS = BoundaryExpandingConfig(OPTIMIZATION)


def normalised(images):
    return jnp.asarray((np.asarray(images) / 255.0 - 0.5) / 0.25, jnp.float32)


def test_the_network_gets_one_output_more_and_is_otherwise_the_original(mlp_task):
    plan = boundary_expanding(mlp_task, SETTINGS)
    start, original = start_of(plan, mlp_task)["params"], mlp_task.original["params"]
    assert start["head"]["kernel"].shape == (8, CLASSES + 1)
    np.testing.assert_array_equal(start["head"]["kernel"][:, :CLASSES], original["head"]["kernel"])
    np.testing.assert_array_equal(start["head"]["bias"][:CLASSES], original["head"]["bias"])
    np.testing.assert_array_equal(start["hidden1"]["kernel"], original["hidden1"]["kernel"])
    images = normalised(mlp_task.images[:20])
    wide, _ = plan.model.apply(start_of(plan, mlp_task), images, train=False)
    narrow, _ = mlp_task.model.apply(mlp_task.original, images, train=False)
    assert wide.shape == (20, CLASSES + 1)
    np.testing.assert_allclose(wide[:, :CLASSES], narrow, atol=1e-5)


def test_the_new_output_starts_as_a_fresh_layer_s_by_seed_and_name(mlp_task):
    def new(task, name):
        head = boundary_expanding(task, SETTINGS, name).variables["params"]["head"]
        return np.append(head["kernel"][:, -1], head["bias"][-1])

    first = new(mlp_task, "a")
    assert np.abs(first).max() <= 8**-0.5 and first.std() > 0.05
    np.testing.assert_array_equal(first, new(mlp_task, "a"))
    assert np.any(first != new(mlp_task, "b"))
    assert np.any(first != new(dataclasses.replace(mlp_task, seed=1), "a"))
    # Uniform: mean 0 and variance bound²/3.
    kernel, _ = with_new_output(np.zeros((4000, 1)), np.zeros(1), np.random.default_rng(0))
    assert kernel[:, 1].var() == pytest.approx(4000**-1 / 3, rel=0.05)


def test_targets_are_the_new_class_for_deleted_examples_alone(mlp_task):
    targets = np.asarray(boundary_expanding(mlp_task, SETTINGS).examples.targets)
    wanted = np.eye(CLASSES + 1)[mlp_task.labels]
    wanted[mlp_task.forget] = np.eye(CLASSES + 1)[CLASSES]
    np.testing.assert_array_equal(targets, wanted)
    smooth = dataclasses.replace(OPTIMIZATION, label_smoothing=0.1)
    targets = np.asarray(boundary_expanding(mlp_task, BoundaryExpandingConfig(smooth)).examples.targets)
    np.testing.assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(targets[mlp_task.retain, CLASSES], 0)


def test_epochs_visit_the_deleted_examples_and_then_if_asked_the_others(mlp_task):
    alone = boundary_expanding(mlp_task, SETTINGS)
    assert sorted(alone.index) == sorted(mlp_task.forget) and alone.passes == ()
    both = boundary_expanding(mlp_task, dataclasses.replace(SETTINGS, retain=True))
    assert [len(epoch) for epoch in both.passes] == [2] * 6
    np.testing.assert_array_equal(both.passes[5][0].index, mlp_task.forget)
    np.testing.assert_array_equal(both.passes[5][1].index, mlp_task.retain)


def test_a_run_is_a_plain_loop_of_steps_in_float64(mlp_task):
    plan = boundary_expanding(mlp_task, SETTINGS)
    run = training_run(plan, mlp_task)
    index = run.inputs(0, run.steps, run.steps).index
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), dict(plan.variables["params"]))
    names = ("hidden1", "hidden2", "head")
    velocity = {name: {"kernel": 0.0, "bias": 0.0} for name in names}
    pixels = np.asarray(normalised(mlp_task.images), np.float64).reshape(len(mlp_task.labels), -1)
    for rows in index:
        inputs, outputs = [], pixels[rows]
        for name in names:
            inputs.append(outputs)
            outputs = outputs @ params[name]["kernel"] + params[name]["bias"]
            outputs = np.maximum(outputs, 0) if name != "head" else outputs
        error = (softmax(outputs, axis=1) - np.eye(CLASSES + 1)[CLASSES]) / len(rows)
        for name, x in zip(names[::-1], inputs[::-1], strict=True):
            gradient = {"kernel": x.T @ error, "bias": error.sum(0)}
            error = (error @ params[name]["kernel"].T) * (x > 0)
            for part, value in gradient.items():
                velocity[name][part] = 0.9 * velocity[name][part] + value
                params[name] = {**params[name], part: params[name][part] - 0.03 * velocity[name][part]}
    after = carry_out(plan, mlp_task, chunk_steps=12).variables["params"]
    for name in names:
        for part in ("kernel", "bias"):
            wanted = params[name][part][..., :CLASSES] if name == "head" else params[name][part]
            np.testing.assert_allclose(after[name][part], wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("retain", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_deleted_examples_leave_their_class_and_the_others_stay(mlp_task, accuracies, retain):
    before = accuracies(mlp_task, mlp_task.original)
    plan = boundary_expanding(mlp_task, dataclasses.replace(SETTINGS, retain=retain))
    after = carry_out(plan, mlp_task, chunk_steps=24).variables
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, dict(mlp_task.original))
    forget, kept, test = accuracies(mlp_task, after)
    assert before[0] > 0.8 and before[1] > 0.9
    assert forget < 0.1
    assert kept > before[1] - 0.02 and test > before[2] - 0.04


def test_pruning_takes_the_new_logit_away_and_nothing_else(mlp_task):
    plan = boundary_expanding(mlp_task, SETTINGS)
    images = normalised(mlp_task.images[:20])
    wide, _ = plan.model.apply(plan.variables, images, train=False)
    narrow, _ = mlp_task.model.apply(finished(plan, plan.variables), images, train=False)
    np.testing.assert_allclose(narrow, wide[:, :CLASSES], atol=1e-6)


def test_runs_of_several_originals_share_a_program(mlp_task):
    other = dataclasses.replace(mlp_task, original=mlp_task.model.init(jax.random.key(9)), seed=3)
    runs = [training_run(boundary_expanding(task, SETTINGS), task) for task in (mlp_task, other)]
    assert runs[0].recipe == runs[1].recipe
    assert make_run_chunk(runs[0].recipe) is make_run_chunk(runs[1].recipe)
    assert training_run(boundary_expanding(mlp_task, SETTINGS), mlp_task).recipe.model.init is (
        widened_model(mlp_task.architecture, 6, (8, 8, 1), "xla").init
    )


def test_the_wider_network_has_the_task_s_lowering(cnn_task):
    patches = dataclasses.replace(
        cnn_task,
        lowering="patches",
        model=build_model(
            cnn_task.architecture, num_classes=CLASSES, image_shape=(8, 8, 1), convolution="patches"
        ),
    )
    plan = boundary_expanding(patches, SETTINGS)
    images = normalised(patches.images[:4])
    wide, _ = plan.model.apply(plan.variables, images, train=False)
    narrow, _ = patches.model.apply(patches.original, images, train=False)
    np.testing.assert_allclose(wide[:, :CLASSES], narrow, atol=1e-5)
    assert plan.model is not boundary_expanding(cnn_task, SETTINGS).model


def test_bad_input_is_refused(mlp_task):
    with pytest.raises(InputError, match="does not say what it was built from; give Task.architecture"):
        boundary_expanding(dataclasses.replace(mlp_task, architecture=None), SETTINGS)
    with pytest.raises(InputError, match="'boundary_expanding' got no example to forget"):
        boundary_expanding(dataclasses.replace(mlp_task, forget=mlp_task.forget[:0]), SETTINGS)
    with pytest.raises(InputError, match="got no example to retain"):
        empty = dataclasses.replace(mlp_task, retain=mlp_task.retain[:0])
        boundary_expanding(empty, dataclasses.replace(SETTINGS, retain=True))
    assert boundary_expanding(empty, SETTINGS).name == "boundary_expanding"
