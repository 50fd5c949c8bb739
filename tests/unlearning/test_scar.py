"""SCAR: Gaussians of features and their distances against slow twins, the loss by hand, and where features go."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mu_jax.config import InputError, OptimizationConfig
from mu_jax.config.class_methods import ScarConfig
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.model import from_module
from mu_jax.training.chunk import make_run_chunk
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.unlearning.feature_distance import (
    class_gaussians,
    make_feature_query,
    raised,
    shrunk,
    squared_distances,
    with_distances,
)
from mu_jax.unlearning.plan import carry_out, finished, start_of, training_run
from mu_jax.unlearning.scar import scar, scar_loss

CLASSES, FORGOTTEN = 5, 2
OPTIMIZATION = OptimizationConfig(
    epochs=12.0, batch_size=32, optimizer="adam", learning_rate=3e-3, weight_decay=0.0, schedule="constant"
)
SETTINGS = ScarConfig(OPTIMIZATION, teacher_weight=1.0)


def some_gaussians(seed=0):
    generator = np.random.default_rng(seed)
    features = np.abs(generator.normal(size=(60, 4))).astype(np.float32)
    labels = generator.integers(0, 3, 60).astype(np.int32)
    return features, labels, class_gaussians(features, labels, [0, 2], 3, power=0.5, shrinkage=(3.0, 3.0))


# --- distances ---


def test_shrinkage_by_hand():
    got = shrunk(np.array([[1.0, 0.5], [0.5, 3.0]]), 3.0, 2.0)  # V₁ = 2, V₂ = ½
    np.testing.assert_allclose(got, [[7, 1.5], [1.5, 9]])
    np.testing.assert_allclose(shrunk(np.array([[2.0]]), 3.0, 3.0), [[8]])


def test_the_power_keeps_signs_and_has_a_finite_slope_at_zero():
    z = np.array([4.0, 0.0, -9.0, 1e-12])
    np.testing.assert_allclose(raised(z, 0.5), [2, 0, -3, 0], atol=0.011)
    np.testing.assert_allclose(raised(z, 1.0), z, atol=1e-6)
    assert np.isfinite(
        jax.grad(lambda x: jnp.sum(raised(jax.nn.relu(x), 0.5)))(jnp.array([0.0, -1.0, 1.0]))
    ).all()


def test_gaussians_and_distances_are_those_of_a_plain_loop():
    features, labels, gaussians = some_gaussians()
    got = squared_distances(jnp.asarray(features), gaussians)
    moved = np.sqrt(features.astype(np.float64) + 1e-4) - 0.01
    for label in (0, 2):
        own = moved[labels == label]
        centre, covariance = own.mean(0), np.cov(own, rowvar=False)
        off = ~np.eye(4, dtype=bool)
        covariance = (
            covariance + 3 * np.eye(4) * np.diag(covariance).mean() + 3 * off * covariance[off].mean()
        )
        deviation = np.sqrt(np.diag(covariance))
        inverse = np.linalg.inv(covariance / deviation[:, None] / deviation)
        for row in (0, 17, 59):
            away = moved[row] / np.linalg.norm(moved[row]) - centre / np.linalg.norm(centre)
            assert got[row, label] == pytest.approx(away @ inverse @ away, rel=1e-3, abs=1e-5)
    np.testing.assert_array_equal(got[:, 1], 0)  # a class without a Gaussian


def test_distances_jitted_and_mapped_are_the_same():
    features, _, gaussians = some_gaussians()
    others = some_gaussians(5)[2]
    features = jnp.asarray(features)
    np.testing.assert_allclose(
        jax.jit(squared_distances)(features, gaussians),
        squared_distances(features, gaussians),
        rtol=1e-4,
        atol=1e-6,
    )
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), gaussians, others)
    many = jax.vmap(squared_distances, in_axes=(None, 0))(features, both)
    for got, one in zip(many, (gaussians, others), strict=True):
        np.testing.assert_allclose(got, squared_distances(features, one), rtol=1e-4, atol=1e-6)


def test_dead_features_and_few_examples_leave_everything_finite():
    features = np.zeros((6, 5), np.float32)
    features[:, 0] = [1, 2, 3, 1, 2, 3]
    labels = np.repeat([0, 1], 3).astype(np.int32)
    for shrinkage in ((3.0, 3.0), (0.0, 0.0)):
        gaussians = class_gaussians(features, labels, [0, 1], 2, power=0.5, shrinkage=shrinkage)
        x = jnp.asarray(np.concatenate([features, np.zeros((1, 5), np.float32)]))
        distances, back = jax.vjp(lambda x, g=gaussians: squared_distances(x, g), x)
        assert np.isfinite(distances).all() and np.isfinite(back(jnp.ones_like(distances))[0]).all()


# --- the loss ---


def test_the_loss_is_that_of_a_plain_loop():
    generator = np.random.default_rng(0)
    outputs = generator.normal(size=(4, 6)).astype(np.float32)
    targets = np.zeros((4, 9), np.float32)
    targets[:2, :3] = softmax(generator.normal(size=(2, 3)), axis=1)
    targets[:2, 7] = 0.1
    targets[2, 4] = targets[3, 5] = 1
    targets[2:, 6] = 1.5
    targets[:, 8] = 2.0
    got = scar_loss(jnp.asarray(outputs), jnp.asarray(targets))
    for row in range(2):
        teacher = targets[row, :3].astype(np.float64)
        divergence = np.sum(
            teacher * (np.log(teacher) - log_softmax(outputs[row, :3].astype(np.float64) / 2))
        )
        assert got[row] == pytest.approx(0.1 * 4 * divergence, rel=1e-4)
    np.testing.assert_allclose(got[2:], [1.5 * outputs[2, 4], 1.5 * outputs[3, 5]], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(scar_loss)(outputs, targets), got, rtol=1e-5)


# --- the plan ---


def test_targets_hold_the_teacher_and_the_nearest_wrong_class(mlp_task):
    settings = dataclasses.replace(SETTINGS, distance_weight=0.7, teacher_weight=0.3)
    plan = scar(mlp_task, settings)
    targets, weights = np.asarray(plan.examples.targets), np.asarray(plan.examples.weights)
    assert targets.shape == (360, 13)
    logits = mlp_task.original_logits("test").astype(np.float64)
    logits[:, FORGOTTEN] = logits.min(axis=1)
    retain, forget = mlp_task.retain, mlp_task.forget
    np.testing.assert_allclose(targets[retain, :5], softmax(logits[retain] / 2, axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(targets[retain, 5:11], 0)
    np.testing.assert_allclose(targets[retain, 11:], np.tile([0.3, 2.0], (len(retain), 1)))
    np.testing.assert_array_equal(targets[forget, :5], 0)
    np.testing.assert_allclose(targets[forget, 10:], np.tile([0.7, 0.0, 2.0], (len(forget), 1)))
    query = make_feature_query(mlp_task.reader, (0.5,), (0.25,), 50)
    of_query, features = query(mlp_task.original, mlp_task.images[forget])
    np.testing.assert_allclose(of_query, mlp_task.original_logits("test")[forget], rtol=1e-4, atol=1e-4)
    distances = np.array(squared_distances(features, plan.variables["batch_stats"]["classes"]))
    distances[:, FORGOTTEN] = np.inf
    np.testing.assert_array_equal(np.argmax(targets[forget, 5:10], axis=1), np.argmin(distances, axis=1))
    assert len(np.unique(np.argmin(distances, axis=1))) > 1
    np.testing.assert_allclose(weights[np.concatenate([retain, forget])], 2)


def test_epochs_draw_as_many_retained_examples_as_asked(mlp_task):
    settings = dataclasses.replace(SETTINGS, retained_per_deleted=2.0)
    plan, number = scar(mlp_task, settings), len(mlp_task.forget)
    drawn = []
    assert len(plan.passes) == 12
    for (part,) in plan.passes:
        assert len(np.unique(part.index)) == len(part.index) == 3 * number
        assert np.isin(mlp_task.forget, part.index).all()
        drawn.append(np.setdiff1d(part.index, mlp_task.forget))
        assert np.isin(drawn[-1], mlp_task.retain).all()
    assert np.any(drawn[0] != drawn[1])
    # The batch's mean is the mean over deleted examples plus that over retained ones.
    weights = np.asarray(plan.examples.weights)
    rows = plan.passes[0][0].index
    assert weights[mlp_task.forget].sum() / len(rows) == pytest.approx(1)
    assert weights[drawn[0]].sum() / len(rows) == pytest.approx(1)
    everything = scar(mlp_task, dataclasses.replace(SETTINGS, retained_per_deleted=1e6))
    assert len(everything.passes[0][0].index) == len(mlp_task.retain) + number


def test_features_move_to_the_nearest_wrong_class_and_the_others_stay(mlp_task, accuracies):
    before = accuracies(mlp_task, mlp_task.original)
    plan, reports = scar(mlp_task, SETTINGS), []
    after = carry_out(plan, mlp_task, chunk_steps=24, on_chunk=reports.append).variables
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, dict(mlp_task.original))
    assert np.isfinite(reports[-1].loss)
    query = make_feature_query(mlp_task.reader, (0.5,), (0.25,), 50)
    gaussians = plan.variables["batch_stats"]["classes"]
    chosen = np.argmax(np.asarray(plan.examples.targets)[mlp_task.forget, 5:10], axis=1)
    old, new = (
        np.asarray(squared_distances(query(v, mlp_task.images[mlp_task.forget])[1], gaussians))
        for v in (mlp_task.original, after)
    )
    rows = np.arange(len(chosen))
    assert np.mean(new[rows, chosen]) < 0.5 * np.mean(old[rows, chosen])
    forget, retain, test = accuracies(mlp_task, after)
    assert before[0] > 0.8 and forget < 0.15
    assert retain > before[1] - 0.05 and test > before[2] - 0.08


@pytest.mark.slow
def test_without_weight_on_the_distance_nothing_pulls_at_the_deleted_examples(mlp_task):
    # The teacher never names the class, so that it fades; but features do not move to another class.
    plan = scar(mlp_task, dataclasses.replace(SETTINGS, distance_weight=0.0))
    after = carry_out(plan, mlp_task, chunk_steps=24).variables
    query = make_feature_query(mlp_task.reader, (0.5,), (0.25,), 50)
    gaussians = plan.variables["batch_stats"]["classes"]
    chosen = np.argmax(np.asarray(plan.examples.targets)[mlp_task.forget, 5:10], axis=1)
    old, new = (
        np.asarray(squared_distances(query(v, mlp_task.images[mlp_task.forget])[1], gaussians))
        for v in (mlp_task.original, after)
    )
    rows = np.arange(len(chosen))
    assert np.mean(new[rows, chosen]) > 0.5 * np.mean(old[rows, chosen])


@pytest.mark.slow
def test_single_examples_are_moved_away_from_their_own_class(mlp_task):
    rows = np.concatenate([mlp_task.retain, mlp_task.forget])
    task = dataclasses.replace(mlp_task, retain=rows[:200], forget=rows[200:], forget_classes=())
    targets = np.asarray(scar(task, SETTINGS).examples.targets)
    chosen = np.argmax(targets[task.forget, 5:10], axis=1)
    assert np.all(chosen != task.labels[task.forget]) and np.all(targets[task.forget, 5:10].sum(axis=1) == 1)


# --- the network with distances ---


class NormNet(nn.Module):
    """conv3×3(6) – batch-norm – relu – mean over pixels – dense(3)."""

    @nn.compact
    def __call__(self, images, *, train):
        x = Convolution(6, 3, 1, 1, name="conv")(images)
        x = nn.relu(batch_norm(train=train, lowering="xla", dtype=jnp.float32, name="norm")(x))
        return Linear(3, name="head")(jnp.mean(x, axis=(1, 2)))


def test_the_network_with_distances_is_the_network_and_its_distances():
    model = from_module(NormNet(), (4, 4, 1))
    wider = with_distances(model)
    assert with_distances(model) is wider
    variables, like = model.init(jax.random.key(0)), wider.init(jax.random.key(0))
    generator = np.random.default_rng(0)
    features = np.abs(generator.normal(size=(30, 6))).astype(np.float32)
    gaussians = class_gaussians(
        features, np.arange(30, dtype=np.int32) % 3, [0, 1, 2], 3, power=0.5, shrinkage=(3.0, 3.0)
    )
    carried = {
        "params": variables["params"],
        "batch_stats": {"network": variables["batch_stats"], "classes": gaussians},
    }
    assert jax.tree.map(jnp.shape, carried) == jax.tree.map(jnp.shape, like)
    images = jnp.asarray(generator.normal(size=(7, 4, 4, 1)), jnp.float32)
    for train in (False, True):
        outputs, stats = wider.apply(carried, images, train=train)
        logits, own, inputs = model.inputs(variables, images, train=train)
        np.testing.assert_allclose(outputs[:, :3], logits, atol=1e-6)
        np.testing.assert_allclose(outputs[:, 3:], squared_distances(inputs["head"], gaussians), rtol=1e-5)
        np.testing.assert_allclose(stats["network"]["norm"]["mean"], own["norm"]["mean"], atol=1e-6)
        assert stats["classes"] is gaussians
    assert np.any(own["norm"]["mean"] != variables["batch_stats"]["norm"]["mean"])
    jitted, _ = jax.jit(wider.apply, static_argnames="train")(carried, images, train=True)
    np.testing.assert_allclose(jitted, outputs, rtol=1e-4, atol=1e-5)


def test_runs_of_several_originals_and_settings_share_a_program(mlp_task):
    other = dataclasses.replace(mlp_task, original=mlp_task.model.init(jax.random.key(9)), seed=3)
    plans = [
        (scar(task, settings), task)
        for task, settings in (
            (mlp_task, SETTINGS),
            (other, dataclasses.replace(SETTINGS, distance_weight=3.0, temperature=1.0, power=0.25)),
        )
    ]
    runs = [training_run(plan, task) for plan, task in plans]
    assert runs[0].recipe == runs[1].recipe
    assert make_run_chunk(runs[0].recipe) is make_run_chunk(runs[1].recipe)
    network = finished(plans[1][0], plans[1][0].variables)
    for got, wanted in zip(jax.tree.leaves(network), jax.tree.leaves(dict(other.original)), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_models_with_gaussians_of_their_own_train_side_by_side(mlp_task):
    short = dataclasses.replace(SETTINGS, optimization=dataclasses.replace(OPTIMIZATION, epochs=2.0))
    other = dataclasses.replace(mlp_task, original=mlp_task.model.init(jax.random.key(9)))
    first, second = scar(mlp_task, short, "a"), scar(other, short, "b")
    second = dataclasses.replace(second, examples=first.examples)
    pairs = ((first, mlp_task), (second, other))
    runs = [training_run(*pair) for pair in pairs]
    trainer = ParallelTrainer(
        runs[0].recipe,
        first.examples,
        Placement("map", 1, 2),
        batch_size=32,
        chunk_steps=4,
        from_variables=True,
    )
    trainer.compile()
    trained = trainer.train(runs, variables=[start_of(*pair) for pair in pairs])
    for i, (plan, task) in enumerate(pairs):
        got = finished(plan, trained.of(i))
        alone = carry_out(plan, task, chunk_steps=4).variables
        assert np.any(alone["params"]["head"]["kernel"] != task.original["params"]["head"]["kernel"])
        for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=2e-4)


def test_bad_input_is_refused(mlp_task):
    with pytest.raises(InputError, match="shrinkage is .* but expected two numbers"):
        ScarConfig(shrinkage=(1.0, 2.0))
    with pytest.raises(InputError, match=r"power is 0\.0, but expected an exponent"):
        ScarConfig(power=0.0)
    with pytest.raises(InputError, match=r"retained_per_deleted is 0\.0, but expected a positive number"):
        ScarConfig(retained_per_deleted=0.0)
    with pytest.raises(InputError, match="Class 1 has 1 examples to keep, but a covariance needs two"):
        class_gaussians(
            np.ones((3, 2), np.float32), np.array([0, 0, 1]), [0, 1], 2, power=0.5, shrinkage=(3.0, 3.0)
        )
    own = mlp_task.retain[mlp_task.labels[mlp_task.retain] == 0]
    with pytest.raises(InputError, match="only their own has examples to keep"):
        scar(dataclasses.replace(mlp_task, retain=own[5:], forget=own[:5], forget_classes=()), SETTINGS)
    with pytest.raises(InputError, match="'scar' got no example to retain"):
        scar(dataclasses.replace(mlp_task, retain=own[:0]), SETTINGS)
