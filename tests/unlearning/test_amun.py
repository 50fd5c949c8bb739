"""AMUN: what it visits and how, its steps by hand on a linear model, and what it claims on a small trained one."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mu_jax.adversarial.stored import StoredAdversarialSet, variables_sha256
from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.config.methods import NEIGHBOURS, AmunConfig, MethodsConfig, NeighboursConfig, SalunConfig
from mu_jax.models.mlp import mlp_model
from mu_jax.models.model import Model
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.state import state_from_variables
from mu_jax.training.step import Recipe, make_step
from mu_jax.unlearning import Task, carry_out, retrain, salun, training_run
from mu_jax.unlearning.amun import amun, besides, draw_third_labels, shift_at_random
from mu_jax.unlearning.methods import EXAMPLE_METHODS, METHODS, make_plan, neighbours_config
from mu_jax.unlearning.neighbours import adversarial_neighbours

SHAPE, CLASSES, N, T = (6, 6, 1), 4, 160, 300
# Not in order, so that a row and its place in the set are two numbers. The last T rows are test images.
ROWS = np.random.default_rng(9).permutation(N)
FORGET, RETAIN, TEST = ROWS[:32], ROWS[32:], np.arange(N, N + T)
LINEAR, SMALL = mlp_model((), CLASSES, SHAPE), mlp_model((32,), CLASSES, SHAPE)
OPTIMIZATION = OptimizationConfig(epochs=2.0, batch_size=32, learning_rate=0.05, schedule="constant")


def carried(plan, task, **extra):
    return carry_out(plan, task, chunk_steps=100, **extra).variables


def make_task(model):
    """Classes that overlap, so that a model knows what it was trained on better than what it was not."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, N + T).astype(np.int32)
    prototypes = rng.integers(78, 178, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + rng.normal(0, 70, (N + T, *SHAPE)), 0, 255).astype(np.uint8)
    task = Task(
        model=model, images=jnp.asarray(images), labels=labels, num_classes=CLASSES, retain=RETAIN,
        forget=FORGET, data=DataConfig(), seed=0,
    )  # fmt: skip
    return dataclasses.replace(task, original=model.init(jax.random.key(0)))


def set_by_hand(task, **changes):
    """Neighbours of all but three of the forget set, in an order of their own, and nothing that an attack found."""
    rng = np.random.default_rng(3)
    rows = rng.permutation(FORGET[3:])
    labels, shape = task.labels[rows], (len(rows), *SHAPE)
    moved = np.asarray(task.images)[rows] + rng.integers(-9, 10, shape)
    fields = {
        "norm": "l2",
        "model_sha256": variables_sha256(task.original),
        "images": np.clip(moved, 0, 255).astype(np.uint8),
        "labels": labels,
        "adversarial_labels": ((labels + rng.integers(1, CLASSES, len(rows))) % CLASSES).astype(np.int32),
        "epsilon": np.full(len(rows), 0.5, np.float32),
        "distance": rng.uniform(0.2, 0.5, len(rows)).astype(np.float32),
        "index": rows,
        "not_flipped": FORGET[:3],
        "flipped_back": FORGET[:0],
    }
    return StoredAdversarialSet(**(fields | changes))


@pytest.fixture(scope="module", name="linear")
def linear_fixture():
    return make_task(LINEAR)


@pytest.fixture(scope="module", name="by_hand")
def by_hand_fixture(linear):
    return set_by_hand(linear)


@pytest.fixture(scope="module", name="trained")
def trained_fixture():
    """A task whose original has learned all N by heart, and the weights of a retrained model."""
    task = make_task(SMALL)
    base = dataclasses.replace(OPTIMIZATION, epochs=60.0, learning_rate=0.1, schedule="cosine")
    original = carried(retrain(dataclasses.replace(task, retain=ROWS), base, name="original"), task)
    return dataclasses.replace(task, original=original), carried(retrain(task, base), task)


SEARCH = NeighboursConfig(steps=10, batch_size=16)


@pytest.fixture(scope="module", name="found")
def found_fixture(trained):
    return adversarial_neighbours(trained[0], SEARCH)


def bits(tree):
    return [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(tree)]


def pixels(images):
    return (np.asarray(images).reshape(len(images), -1) / 255.0 - 0.5) / 0.25


def head_of(params):
    return tuple(np.asarray(params["head"][name], np.float64) for name in ("kernel", "bias"))


def logits_of(variables, images):
    x, params = pixels(images), variables["params"]
    if "hidden1" in params:
        x = np.maximum(x @ np.asarray(params["hidden1"]["kernel"]) + np.asarray(params["hidden1"]["bias"]), 0)
    kernel, bias = head_of(params)
    return x @ kernel + bias


# --- what is visited ---


@pytest.mark.parametrize("retain", [True, False])
@pytest.mark.parametrize("forget", [True, False])
def test_an_epoch_visits_each_example_of_the_setting_once_and_each_neighbour(linear, by_hand, retain, forget):
    task = linear if retain else dataclasses.replace(linear, retain=RETAIN[:0])
    plan = amun(task, AmunConfig(OPTIMIZATION, retain=retain, forget=forget), by_hand)
    assert (plan.name, plan.start, plan.passes) == ("amun", "original", ())
    more = N + T + np.arange(len(by_hand.index))
    wanted = [*(RETAIN if retain else []), *(FORGET if forget else []), *more]
    assert sorted(plan.index) == sorted(wanted)
    run = training_run(plan, task)
    shown = run.inputs(0, run.steps, run.steps).index.ravel()
    assert sorted(shown[: len(wanted)]) == sorted(wanted)
    # All in one mix: the first batch is of more than one part, where there is more than one.
    parts = [set(RETAIN), set(FORGET), set(more)]
    assert sum(not part.isdisjoint(shown[:32]) for part in parts) == retain + forget + 1
    examples = plan.examples
    np.testing.assert_array_equal(examples.images[: N + T], linear.images)
    np.testing.assert_array_equal(examples.targets[: N + T], np.eye(CLASSES)[linear.labels])
    np.testing.assert_array_equal(examples.images[more], by_hand.images)
    np.testing.assert_array_equal(examples.targets[more], np.eye(CLASSES)[by_hand.adversarial_labels])
    np.testing.assert_array_equal(examples.weights, np.ones(N + T + len(more)))


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_each_ablation_has_its_images_and_its_labels(linear, by_hand, kind):
    plan = amun(linear, AmunConfig(OPTIMIZATION, neighbours=kind), by_hand, f"of_{kind}")
    images, targets = np.asarray(plan.examples.images)[N + T :], np.asarray(plan.examples.targets)[N + T :]
    assert len(images) == len(by_hand.index) and plan.name == f"of_{kind}"
    itself = np.asarray(linear.images)[by_hand.index]
    if kind in ("adversarial", "random_label"):
        np.testing.assert_array_equal(images, by_hand.images)
    elif kind == "random_shift":
        moved = (images - itself.astype(float)).reshape(len(images), -1) / 255
        # Clipping brings a point nearer; rounding moves each of 36 pixels by half a level at most.
        assert np.all(np.linalg.norm(moved, axis=1) <= by_hand.distance + 0.5 / 255 * 6)
        assert np.all(np.linalg.norm(moved, axis=1) >= 0.6 * by_hand.distance)
        assert np.all(np.any(images != by_hand.images, axis=(1, 2, 3)))
    else:
        np.testing.assert_array_equal(images, itself)
    assert np.all(np.sort(targets, axis=1) == [0, 0, 0, 1])
    labels, adversarial = by_hand.labels, by_hand.adversarial_labels
    got = targets.argmax(axis=1)
    if kind in ("adversarial", "random_shift", "original_adversarial"):
        np.testing.assert_array_equal(got, adversarial)
    elif kind == "original":
        np.testing.assert_array_equal(got, labels)
    else:
        assert np.all((got != labels) & (got != adversarial))


@pytest.mark.parametrize("kind", ["random_shift", "random_label", "original_random"])
def test_what_is_drawn_follows_the_seed_and_the_name(linear, by_hand, kind):
    def drawn(name, seed=0):
        images, labels = besides(dataclasses.replace(linear, seed=seed), kind, by_hand, name)
        return images.tobytes() + labels.astype(np.int64).tobytes()

    assert drawn("a") == drawn("a") != drawn("b")
    assert drawn("a") != drawn("a", seed=1)


def test_third_labels_are_even_over_what_is_left():
    labels, adversarial = (np.repeat(x, 400) for x in np.divmod(np.arange(25), 5))
    drawn = np.stack([draw_third_labels(labels, adversarial, 5, np.random.default_rng(s)) for s in range(4)])
    for label in range(5):
        for other in range(5):
            here = drawn[:, (labels == label) & (adversarial == other)]
            share = np.bincount(here.ravel(), minlength=5) / here.size
            left = ~np.isin(np.arange(5), [label, other])
            # Of 1600 draws; 5 standard deviations. A neighbour with its own label takes one class away, not two.
            assert np.all(share[~left] == 0)
            assert np.all(np.abs(share[left] - 1 / left.sum()) < 5 * math.sqrt(0.25 / here.size))


def test_of_three_classes_the_third_is_left_and_of_two_none():
    labels, adversarial = np.array([0, 0, 1, 1, 2, 2]), np.array([1, 2, 0, 2, 0, 1])
    drawn = draw_third_labels(labels, adversarial, 3, np.random.default_rng(0))
    assert drawn.tolist() == [2, 1, 2, 0, 1, 0]
    with pytest.raises(InputError, match="There are 2 classes, but .* needs at least 3; choose other"):
        draw_third_labels(np.array([0]), np.array([1]), 2, np.random.default_rng(0))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_random_shift_has_the_distance_and_no_direction(norm):
    number = 4000
    x = np.full((number, 2, 3, 1), 0.5, np.float32)
    distance = np.linspace(0, 0.4, number).astype(np.float32)
    shifted = shift_at_random(x, distance, norm, np.random.default_rng(1))
    assert shifted.dtype == np.float32
    delta = (shifted.astype(float) - x).reshape(number, -1)
    if norm == "l2":
        np.testing.assert_allclose(np.linalg.norm(delta, axis=1), distance, atol=1e-6)
    else:
        np.testing.assert_allclose(np.abs(delta), np.repeat(distance[:, None], 6, axis=1), atol=1e-6)
    # Mean 0, and the same variance along every axis: of 4000 directions.
    direction = delta[1:] / np.linalg.norm(delta[1:], axis=1, keepdims=True)
    assert np.abs(direction.mean(axis=0)).max() < 5 / math.sqrt(6 * number)
    np.testing.assert_allclose(direction.T @ direction / (number - 1), np.eye(6) / 6, atol=0.02)


def test_a_random_shift_stays_an_image():
    white = np.ones((50, 2, 2, 1), np.float32)
    shifted = shift_at_random(white, np.full(50, 0.5, np.float32), "l2", np.random.default_rng(0))
    assert shifted.max() == 1 and 0 <= shifted.min() < 1


# --- crops and mirroring ---


# Its running statistics are what it is shown.
SPY = Model(
    init=lambda key: {"params": {"w": jnp.zeros((36, CLASSES))}, "batch_stats": {"seen": jnp.zeros(())}},
    apply=lambda variables, images, *, train: (
        images.reshape(len(images), -1) @ variables["params"]["w"],
        {"seen": images},
    ),
)


def test_neighbours_are_shown_as_they_are_and_the_others_augmented(linear, by_hand):
    optimization = dataclasses.replace(OPTIMIZATION, batch_size=64, crop_padding=1, flip=True)
    recipe, seen = Recipe.of(SPY, linear.data, optimization), {}
    step = jax.jit(make_step(recipe))
    state = state_from_variables(SPY.init(jax.random.key(0)), recipe.make_optimizer())
    scalars = Hyperparameters(jnp.float32(0.9), jnp.float32(0.0))
    for too in (False, True):
        plan = amun(linear, AmunConfig(optimization, augment_neighbours=too), by_hand)
        inputs = training_run(plan, linear).inputs(0, 1, 1)
        batch = plan.examples.batch(inputs, jnp.int32(0))
        after, _ = step(state, batch, jax.random.key(5), scalars)
        levels = (np.asarray(after.batch_stats["seen"], np.float64) * 0.25 + 0.5) * 255
        assert np.abs(levels - np.round(levels)).max() < 1e-3  # they were bytes
        seen[too] = np.round(levels)
    plain, added = np.asarray(batch.images), inputs.index[0] >= N + T
    assert 5 < added.sum() < 59
    np.testing.assert_array_equal(seen[False][added], plain[added])
    np.testing.assert_array_equal(seen[True][~added], seen[False][~added])
    for now in (seen[False][~added] != plain[~added], seen[True][added] != plain[added]):
        assert np.mean(np.any(now, axis=(1, 2, 3))) > 0.7  # one draw in 18 leaves an image as it is


# --- steps ---


def gradient_of(params, images, targets):
    """Of the mean cross-entropy, in float64."""
    error = (softmax(logits_of({"params": params}, images), axis=1) - targets) / len(images)
    return pixels(images).T @ error, error.sum(0)


def test_a_full_step_follows_the_gradient_over_all_three_sets_and_l1(linear, by_hand):
    number, l1 = N + len(by_hand.index), 0.01
    optimization = dataclasses.replace(OPTIMIZATION, batch_size=number, epochs=1.0, weight_decay=0.1)
    plan, reports = amun(linear, AmunConfig(optimization, l1=l1), by_hand), []
    after = carried(plan, linear, on_chunk=reports.append)["params"]
    images = np.concatenate([np.asarray(linear.images)[ROWS], by_hand.images])
    targets = np.eye(CLASSES)[np.concatenate([linear.labels[ROWS], by_hand.adversarial_labels])]
    before = linear.original["params"]
    for old, new, gradient in zip(
        head_of(before), head_of(after), gradient_of(before, images, targets), strict=True
    ):
        wanted = old - 0.05 * (gradient + 0.1 * old + l1 * np.sign(old))
        np.testing.assert_allclose(new, wanted, rtol=1e-4, atol=1e-6)
    entropy = -(targets * log_softmax(logits_of(linear.original, images), axis=1)).sum(axis=1).mean()
    assert reports[0].loss == pytest.approx(
        entropy + l1 * sum(np.abs(part).sum() for part in head_of(before)), rel=1e-5
    )


@pytest.mark.parametrize("extra", [{}, {"saliency_share": 0.4}])
def test_a_chunk_is_a_plain_loop_of_steps(linear, by_hand, extra):
    settings = AmunConfig(dataclasses.replace(OPTIMIZATION, weight_decay=0.01), **extra)
    plan = amun(linear, settings, by_hand)
    run = training_run(plan, linear)
    inputs = run.inputs(0, run.steps, run.steps)
    images, targets = np.asarray(plan.examples.images), np.asarray(plan.examples.targets)
    masks = (1.0, 1.0) if plan.gradient_mask is None else head_of(plan.gradient_mask)
    parts, velocity = list(head_of(linear.original["params"])), [0.0, 0.0]
    for rows in inputs.index:
        now = {"head": {"kernel": parts[0], "bias": parts[1]}}
        for i, gradient in enumerate(gradient_of(now, images[rows], targets[rows])):
            velocity[i] = 0.9 * velocity[i] + gradient + 0.01 * parts[i]
            parts[i] = parts[i] - 0.05 * masks[i] * velocity[i]
    assert run.steps == math.ceil(2 * (N + len(by_hand.index)) / 32)
    for got, wanted in zip(head_of(carried(plan, linear)["params"]), parts, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_coefficient_of_l1_is_constant_and_no_part_of_the_program(linear, by_hand):
    runs = [training_run(amun(linear, AmunConfig(OPTIMIZATION, l1=l1), by_hand), linear) for l1 in (0.5, 2.0)]
    assert runs[0].recipe == runs[1].recipe
    np.testing.assert_array_equal([run.inputs(0, 5, 5).progress for run in runs], [[0.5] * 5, [2.0] * 5])


def test_what_the_saliency_mask_holds_keeps_its_bits(linear, by_hand):
    optimization = dataclasses.replace(OPTIMIZATION, weight_decay=0.1)
    plan = amun(linear, AmunConfig(optimization, saliency_share=0.3), by_hand)
    masks = [np.asarray(leaf) == 1 for leaf in jax.tree.leaves(plan.gradient_mask)]
    assert sum(mask.sum() for mask in masks) == int(0.3 * sum(mask.size for mask in masks))
    of_salun = salun(linear, SalunConfig(optimization, share=0.3)).gradient_mask
    for mask, other in zip(masks, jax.tree.leaves(of_salun), strict=True):
        np.testing.assert_array_equal(mask, np.asarray(other) == 1)
    moved = 0
    for old, new, mask in zip(
        bits(linear.original["params"]), bits(carried(plan, linear)["params"]), masks, strict=True
    ):
        np.testing.assert_array_equal(new[~mask], old[~mask])
        moved += np.sum(new[mask] != old[mask])
    assert moved > 0.95 * sum(mask.sum() for mask in masks)
    free = amun(linear, AmunConfig(optimization, saliency_share=1.0), by_hand)
    assert free.gradient_mask is None


def test_many_settings_side_by_side_are_each_run_alone(linear, by_hand):
    def plan_of(rate):
        optimization = dataclasses.replace(OPTIMIZATION, learning_rate=rate)
        return amun(linear, AmunConfig(optimization, saliency_share=0.4), by_hand)

    plans = [plan_of(rate) for rate in (0.01, 0.05)]
    mask = plans[0].gradient_mask
    runs = [training_run(dataclasses.replace(plan, gradient_mask=mask), linear) for plan in plans]
    trainer = ParallelTrainer(
        runs[0].recipe, plans[0].examples, Placement("map", 1, 2), batch_size=32, chunk_steps=100,
        from_variables=True, gradient_mask=mask,
    )  # fmt: skip
    group = trainer.train(runs, variables=[linear.original] * 2)
    for i, plan in enumerate(plans):
        alone, together = carried(plan, linear)["params"], group.of(i)["params"]
        for new, old, wanted, held in zip(
            *map(jax.tree.leaves, (together, linear.original["params"], alone, mask)), strict=True
        ):
            np.testing.assert_allclose(new, wanted, rtol=1e-4, atol=1e-6)
            held = np.asarray(held) == 0
            np.testing.assert_array_equal(bits(new)[0][held], bits(old)[0][held])


# --- the adversarial set ---


def test_neighbours_have_the_label_that_the_original_gives_them(trained, found):
    task = trained[0]
    assert sorted(found.index) == sorted(FORGET) and found.images.dtype == np.uint8
    assert len(found.not_flipped) == len(found.flipped_back) == 0
    np.testing.assert_array_equal(found.labels, task.labels[found.index])
    logits = logits_of(task.original, found.images)
    of = np.arange(len(logits))
    assert np.all(found.adversarial_labels != found.labels)
    # To rounding: they lie just beyond the boundary.
    assert np.all(logits[of, found.adversarial_labels] >= logits.max(axis=1) - 1e-4)
    assert np.all(logits[of, found.labels] < logits.max(axis=1) + 1e-4)
    delta = (found.images.astype(float) - np.asarray(task.images)[found.index]).reshape(len(of), -1) / 255
    np.testing.assert_allclose(np.linalg.norm(delta, axis=1), found.distance, rtol=1e-4)
    # Near: of the same distance a random direction flips few.
    noise = shift_at_random(
        np.asarray(task.images)[found.index] / np.float32(255), found.distance, "l2", np.random.default_rng(0)
    )
    says = logits_of(task.original, np.round(noise * 255)).argmax(axis=1)
    assert np.mean(says != found.labels) < 0.2
    assert found.model_sha256 == variables_sha256(task.original)


def test_misclassified_examples_stay_and_what_does_not_flip_is_left_out(trained, found):
    task = trained[0]
    labels = task.labels.copy()
    wrong = FORGET[[3, 17]]
    labels[wrong] = (labels[wrong] + 1) % CLASSES
    task = dataclasses.replace(task, labels=labels)
    epsilon = float(np.median(found.distance)) / 2
    progress = []
    few = adversarial_neighbours(
        task,
        dataclasses.replace(SEARCH, epsilon=epsilon, max_epsilon=epsilon),
        lambda finished, number: progress.append((finished, number)),
    )
    assert progress[-1] == (len(FORGET), len(FORGET))
    assert 0 < len(few.not_flipped) < len(FORGET)
    assert sorted([*few.index, *few.not_flipped]) == sorted(FORGET)
    at = np.flatnonzero(np.isin(few.index, wrong))
    assert len(at) == 2 and np.all(few.distance[at] == 0) and np.all(few.epsilon[at] == 0)
    np.testing.assert_array_equal(few.images[at], np.asarray(task.images)[few.index[at]])
    np.testing.assert_array_equal(few.adversarial_labels[at], trained[0].labels[few.index[at]])
    others = np.setdiff1d(np.arange(len(few.index)), at)
    assert np.all((few.distance[others] > 0) & (few.epsilon[others] == np.float32(epsilon)))
    plan = amun(task, AmunConfig(OPTIMIZATION), few)
    assert set(few.not_flipped) < set(plan.index)
    assert len(plan.index) == N + len(few.index) and len(plan.examples.images) == N + T + len(few.index)


def test_what_the_reader_sees_otherwise_than_the_attacked_is_counted_named_and_left_out(trained, found):
    """The reader's logits are coarser: where the two best are one to it, the first class wins, be it the true one."""
    task = trained[0]

    def rounded(variables, images, *, train):
        logits, statistics = SMALL.apply(variables, images, train=train)
        return jnp.round(logits * 2) / 2, statistics

    reader = SMALL._replace(apply=rounded)
    apart = dataclasses.replace(task, query_model=reader, attack_model=SMALL)
    assert apart.attacked is SMALL and apart.reader is reader
    few = adversarial_neighbours(apart, SEARCH)
    # The attack is the same; which of its images flip back, the reader's logits say.
    logits = np.round(logits_of(task.original, found.images) * 2) / 2
    back = found.index[logits.argmax(axis=1) == found.labels]
    assert 0 < len(back) < len(FORGET)
    np.testing.assert_array_equal(np.sort(few.flipped_back), np.sort(back))
    assert len(few.not_flipped) == 0 and sorted([*few.index, *few.flipped_back]) == sorted(FORGET)
    np.testing.assert_array_equal(few.images, found.images[np.isin(found.index, few.index)])
    assert np.all(few.adversarial_labels != few.labels)
    plan = amun(apart, AmunConfig(OPTIMIZATION), few)
    assert set(back) < set(plan.index)  # still to be forgotten, as itself alone
    assert len(plan.index) == N + len(FORGET) - len(back)


def test_a_first_radius_is_doubled_as_far_as_there_is_unless_a_largest_is_set(trained, found):
    far = adversarial_neighbours(trained[0], dataclasses.replace(SEARCH, epsilon=0.02))
    assert len(far.not_flipped) == 0 and sorted(far.index) == sorted(FORGET)
    assert np.all(np.isin(far.epsilon, np.float32(0.02) * 2 ** np.arange(8, dtype=np.float32)))
    assert far.epsilon.max() > 0.02


@pytest.mark.parametrize(
    "settings",
    [{"attack": "fgsm"}, {"norm": "linf"}, {"norm": "linf", "epsilon": 1 / 255, "max_epsilon": 0.4}],
)
def test_other_attacks_find_neighbours_within_their_radius(trained, settings):
    task = trained[0]
    made = adversarial_neighbours(task, dataclasses.replace(SEARCH, **settings))
    assert made.norm == "linf" and len(made.index) > 0.8 * len(FORGET)
    delta = made.images.astype(int) - np.asarray(task.images)[made.index]
    size = np.abs(delta).reshape(len(delta), -1)
    np.testing.assert_allclose(size.max(axis=1), 255 * made.distance, rtol=1e-4)
    assert np.all(size.max(axis=1) <= 255 * made.epsilon + 0.51)
    logits = logits_of(task.original, made.images)
    assert np.all(logits[np.arange(len(delta)), made.adversarial_labels] >= logits.max(axis=1) - 1e-4)
    if settings.get("attack") == "fgsm":
        # One step: every pixel moves by all of ε, unless it is clamped.
        clamped = (made.images == 0) | (made.images == 255)
        level = np.broadcast_to(np.round(255 * made.epsilon)[:, None, None, None], clamped.shape)
        assert np.all((np.abs(np.abs(delta) - level) <= 1) | clamped | (delta == 0))
        assert np.mean(delta == 0) < 0.05
    plan = amun(task, AmunConfig(OPTIMIZATION, neighbours="random_shift"), made)
    shifted = np.asarray(plan.examples.images)[N + T :].astype(int) - np.asarray(task.images)[made.index]
    assert np.all(np.abs(shifted).max(axis=(1, 2, 3)) <= 255 * made.distance + 0.51)


def test_the_attack_reads_the_original_with_the_network_for_reading(trained, found):
    def broken(variables, images, *, train):
        raise AssertionError("this network is for training")

    task = dataclasses.replace(trained[0], model=Model(SMALL.init, broken), query_model=SMALL)
    again = adversarial_neighbours(task, SEARCH)
    np.testing.assert_array_equal(again.images, found.images)


# --- what it claims ---


@pytest.fixture(scope="module", name="outcomes")
def outcomes_fixture(trained, found):
    """Confidence in the true label and accuracy of each model, by part of the data."""
    task, retrained = trained
    optimization = dataclasses.replace(OPTIMIZATION, epochs=20.0, learning_rate=0.1)
    models = {"original": task.original, "retrain": retrained}
    for name, alone in (("with_retain", False), ("alone", True)):
        for kind in ("adversarial", "random_label", "original"):
            settings = AmunConfig(optimization, retain=not alone, forget=False, neighbours=kind)
            models[f"{kind}_{name}"] = carried(amun(task, settings, found), task)
    outcomes = {}
    for name, variables in models.items():
        p = softmax(logits_of(variables, np.asarray(task.images)), axis=1)
        for part, rows in (("forget", FORGET), ("retain", RETAIN), ("test", TEST)):
            confidence, hit = p[rows, task.labels[rows]].mean(), p[rows].argmax(axis=1) == task.labels[rows]
            outcomes[name, part] = (float(confidence), float(hit.mean()))
    return outcomes


def test_amun_forgets_as_a_retrained_model_has_and_keeps_the_rest(outcomes):
    confidence = {key: value[0] for key, value in outcomes.items()}
    accuracy = {key: value[1] for key, value in outcomes.items()}
    # There is something to forget.
    target = confidence["retrain", "forget"]
    assert confidence["original", "forget"] > target + 0.1
    distance = {
        name: abs(confidence[name, "forget"] - target)
        for name in ("original", "adversarial_with_retain", "random_label_with_retain")
    }
    assert distance["adversarial_with_retain"] < 0.5 * distance["original"]
    assert accuracy["adversarial_with_retain", "retain"] > 0.98
    assert accuracy["adversarial_with_retain", "test"] > accuracy["retrain", "test"] - 0.08
    # With a random third label the model unlearns far more than a retrained one does, here and on test images.
    assert distance["random_label_with_retain"] > 2 * distance["adversarial_with_retain"]
    gaps = {
        kind: accuracy["original", "test"] - accuracy[f"{kind}_with_retain", "test"]
        for kind in ("adversarial", "random_label")
    }
    assert gaps["adversarial"] < gaps["random_label"] - 0.02


def test_without_other_data_only_the_originals_labels_keep_the_model_whole(outcomes):
    assert (
        outcomes["adversarial_alone", "retain"][1] > 0.9 > 0.5 > outcomes["random_label_alone", "retain"][1]
    )
    assert outcomes["adversarial_alone", "forget"][0] < outcomes["original", "forget"][0] - 0.2


def test_more_of_the_examples_to_forget_forgets_nothing(outcomes):
    for name in ("original_with_retain", "original_alone"):
        assert outcomes[name, "forget"][0] > outcomes["original", "forget"][0] - 0.01


# --- by name ---


def test_every_method_makes_its_plan(linear, by_hand):
    other = make_task(LINEAR)
    other = dataclasses.replace(other, original=LINEAR.init(jax.random.key(1)))
    methods = MethodsConfig()
    for name in EXAMPLE_METHODS:
        method = METHODS[name]
        settings = method.settings_of(methods)
        given = {"": None, "transferred": set_by_hand(other)}.get(method.neighbours, by_hand)
        plan = make_plan(name, linear, settings, neighbours=given)
        assert plan.name == name and len(plan.index) > 0
        assert (len(plan.examples.images) > N + T) == (given is not None)
        assert make_plan(name, linear, settings, neighbours=given, name="mine").name == "mine"
        if method.neighbours:
            with pytest.raises(ValueError, match=f"{name!r} needs an adversarial set, but got none"):
                make_plan(name, linear, settings)
    with pytest.raises(InputError, match=r"method is 'amum', .*did you mean 'amun'\?"):
        make_plan("amum", linear, methods.amun, neighbours=by_hand)


def test_variants_are_what_they_are_called(linear, by_hand):
    def plan_of(name, **settings):
        methods = MethodsConfig()
        ours = dataclasses.replace(METHODS[name].settings_of(methods), **settings)
        return make_plan(name, linear, ours, neighbours=by_hand)

    assert set(plan_of("amun_advonly").index).isdisjoint(FORGET)
    assert set(FORGET) < set(plan_of("amun").index)
    assert plan_of("amun_l1").penalty is not None and plan_of("amun").penalty is None
    mask = jax.tree.leaves(plan_of("amun_salun").gradient_mask)
    assert sum(np.sum(leaf) for leaf in mask) == sum(leaf.size for leaf in mask) // 2
    kinds = {name: METHODS[f"amun_{name}"].settings_of(MethodsConfig()).neighbours for name in NEIGHBOURS[1:]}
    assert kinds == {name: name for name in NEIGHBOURS[1:]}
    # What a config says of AMUN holds for its variants, but for what makes them variants.
    methods = dataclasses.replace(MethodsConfig(), amun=AmunConfig(OPTIMIZATION, retain=False))
    for name in METHODS:
        if name.startswith("amun_") and name != "amun_salun":
            settings = METHODS[name].settings_of(methods)
            assert settings.optimization == OPTIMIZATION and not settings.retain


def test_the_set_of_the_fgsm_variant_has_no_radius_of_another_norm():
    l2 = NeighboursConfig(epsilon=0.16, max_epsilon=5.12, batch_size=7)
    assert neighbours_config("amun", l2) == neighbours_config("amun_l1", l2) == l2
    assert neighbours_config("amun_fgsm", l2) == NeighboursConfig(attack="fgsm", batch_size=7)
    for ours in ({"norm": "linf"}, {"attack": "fgsm"}):
        config = dataclasses.replace(l2, epsilon=0.02, max_epsilon=0.4, **ours)
        assert neighbours_config("amun_fgsm", config) == dataclasses.replace(config, attack="fgsm")


# --- what is refused ---


def test_a_set_of_other_weights_is_refused_unless_it_is_to_be_transferred(linear, by_hand):
    task = dataclasses.replace(linear, original=LINEAR.init(jax.random.key(1)))
    settings = AmunConfig(OPTIMIZATION)
    with pytest.raises(InputError, match="of 'amun' were made on a model with SHA-256 .* not on this one"):
        amun(task, settings, by_hand)
    for plan in (
        amun(task, settings, by_hand, transferred=True),
        make_plan("amun_transferred", task, settings, neighbours=by_hand),
    ):
        np.testing.assert_array_equal(
            np.asarray(plan.examples.targets)[N + T :].argmax(axis=1), by_hand.adversarial_labels
        )
    for name in ("amun", "amun_fgsm", "amun_salun"):
        with pytest.raises(InputError, match="not on this one"):
            make_plan(name, task, settings, neighbours=by_hand)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda found: {"index": np.concatenate([RETAIN[:2], found.index[2:]])},
            rf"hold 2 examples that are not to be forgotten, the first of them {min(RETAIN[:2])}; make",
        ),
        (
            lambda found: {"images": found.images / np.float32(255)},
            r"are float32 of shape \(6, 6, 1\), but expected uint8 .* with dtype uint8",
        ),
        (
            lambda found: {"images": found.images[:, :5]},
            r"uint8 of shape \(5, 6, 1\), but expected uint8 of shape \(6, 6, 1\)",
        ),
        (lambda found: {"labels": (found.labels + 1) % CLASSES}, "made with other labels than the task has"),
    ],
)
def test_a_set_of_other_data_is_refused(linear, by_hand, changes, message):
    made = dataclasses.replace(by_hand, **changes(by_hand))
    for transferred in (False, True):
        with pytest.raises(InputError, match=message):
            amun(linear, AmunConfig(OPTIMIZATION), made, transferred=transferred)


def test_a_task_without_what_amun_needs_is_refused(linear, by_hand):
    unmade = dataclasses.replace(linear, original=None)
    with pytest.raises(InputError, match="'amun' reads the original model, but the task holds none"):
        amun(unmade, AmunConfig(OPTIMIZATION), by_hand)
    with pytest.raises(InputError, match="'amun' reads the original model, but the task holds none"):
        adversarial_neighbours(unmade, SEARCH)
    with pytest.raises(InputError, match="'mine' got no example to retain"):
        amun(dataclasses.replace(linear, retain=RETAIN[:0]), AmunConfig(OPTIMIZATION), by_hand, "mine")
    empty = dataclasses.replace(linear, forget=FORGET[:0])
    with pytest.raises(InputError, match="'amun' got no example to forget"):
        adversarial_neighbours(empty, SEARCH)
    with pytest.raises(InputError, match="'amun' got no example to forget"):
        amun(empty, AmunConfig(OPTIMIZATION), by_hand)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AmunConfig(neighbours="adversary"),
            "neighbours is 'adversary', .*did you mean 'adversarial'",
        ),
        (lambda: AmunConfig(saliency_share=0.0), "saliency_share is 0.0"),
        (lambda: AmunConfig(l1=-1.0), "l1 is -1.0"),
        (lambda: NeighboursConfig(attack="cw"), "attack is 'cw', but expected one of pgd, fgsm"),
        (lambda: NeighboursConfig(norm="l1"), "norm is 'l1', but expected one of l2, linf"),
        (lambda: NeighboursConfig(epsilon=-0.1), "epsilon is -0.1"),
        (lambda: NeighboursConfig(max_epsilon=-0.1), "max_epsilon is -0.1"),
        (lambda: NeighboursConfig(steps=0), "steps is 0"),
        (lambda: NeighboursConfig(step_ratio=0.0), "step_ratio is 0.0"),
        (lambda: NeighboursConfig(batch_size=0), "batch_size is 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
