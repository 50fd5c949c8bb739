"""Each baseline against the property it claims: closed forms on a linear model, bits where bits are promised."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.config.methods import (
    BoundaryShrinkConfig,
    GradientAscentConfig,
    L1SparseConfig,
    NegativeGradientPlusConfig,
    RandomLabelsConfig,
    SalunConfig,
    ScrubConfig,
)
from mu_jax.data.random_streams import host_stream
from mu_jax.models.mlp import mlp_model
from mu_jax.training.chunk import make_run_chunk
from mu_jax.unlearning import (
    Pass,
    Plan,
    Task,
    boundary_shrink,
    carry_out,
    finetune,
    gradient_ascent,
    l1_sparse,
    negative_gradient_plus,
    random_labels,
    retrain,
    salun,
    scrub,
    training_run,
)
from mu_jax.unlearning.random_labels import draw_wrong_labels
from mu_jax.unlearning.salun import make_summed_gradient, saliency_mask
from mu_jax.unlearning.scrub import scrub_loss

SHAPE, CLASSES, N = (4, 4, 1), 3, 60
# Not in order, so that a row and its place in the set are two numbers.
ROWS = np.random.default_rng(9).permutation(N)
RETAIN, FORGET = ROWS[:45], ROWS[45:]
# One batch is the whole forget set, so that a step has a closed form.
OPTIMIZATION = OptimizationConfig(
    epochs=2.0, batch_size=15, learning_rate=0.05, weight_decay=0.0, schedule="constant"
)
LINEAR, SMALL = mlp_model((), CLASSES, SHAPE), mlp_model((8,), CLASSES, SHAPE)


def carried(plan, task, **extra):
    return carry_out(plan, task, chunk_steps=12, **extra).variables["params"]


def make_task(model):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    prototypes = rng.integers(90, 166, (CLASSES, *SHAPE))
    images = np.clip(prototypes[labels] + rng.normal(0, 60, (N, *SHAPE)), 0, 255).astype(np.uint8)
    task = Task(
        model=model, images=jnp.asarray(images), labels=labels, num_classes=CLASSES, retain=RETAIN,
        forget=FORGET, data=DataConfig(), seed=0,
    )  # fmt: skip
    return dataclasses.replace(task, original=model.init(jax.random.key(0)))


@pytest.fixture(scope="module", name="linear")
def linear_fixture():
    task = make_task(LINEAR)
    everything = dataclasses.replace(task, retain=np.arange(N))
    plan = retrain(everything, dataclasses.replace(OPTIMIZATION, epochs=3.0), name="original")
    return dataclasses.replace(task, original=carry_out(plan, task, chunk_steps=12).variables)


@pytest.fixture(scope="module", name="small")
def small_fixture():
    return make_task(SMALL)


def pixels(task, rows):
    return (np.asarray(task.images)[rows].reshape(len(rows), -1) / 255.0 - 0.5) / 0.25


def head_of(params):
    (head,) = params.values()  # of the linear model
    return np.asarray(head["kernel"], np.float64), np.asarray(head["bias"], np.float64)


def losses(params, task, rows):
    kernel, bias = head_of(params)
    return -log_softmax(pixels(task, rows) @ kernel + bias, axis=1)[np.arange(len(rows)), task.labels[rows]]


def mean_gradient(params, task, rows):
    kernel, bias = head_of(params)
    x = pixels(task, rows)
    error = (softmax(x @ kernel + bias, axis=1) - np.eye(CLASSES)[task.labels[rows]]) / len(rows)
    return x.T @ error, error.sum(0)


def bits(tree):
    return [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(tree)]


def test_gradient_ascent_steps_along_the_gradient_and_raises_the_loss(linear):
    settings = GradientAscentConfig(dataclasses.replace(OPTIMIZATION, epochs=1.0))
    before = linear.original["params"]
    after = carried(gradient_ascent(linear, settings), linear)
    for old, new, gradient in zip(
        head_of(before), head_of(after), mean_gradient(before, linear, FORGET), strict=True
    ):
        np.testing.assert_allclose(new, old + 0.05 * gradient, rtol=1e-4, atol=1e-6)
    assert losses(after, linear, FORGET).mean() > losses(before, linear, FORGET).mean() + 1e-3


def test_gradient_ascent_alternates_with_descent_in_passes_of_their_own(linear):
    plan = gradient_ascent(linear, GradientAscentConfig(OPTIMIZATION, retain=True))
    weights = np.asarray(plan.examples.weights)
    assert np.all(weights[FORGET] == -1) and np.all(weights[RETAIN] == 1)
    run = training_run(plan, linear)
    assert run.steps == 8 and run.trained_samples == 120
    index = run.inputs(0, 8, 12).index
    for first in (0, 4):
        assert sorted(index[first : first + 3].ravel()) == sorted(RETAIN)
        assert sorted(index[first + 3]) == sorted(FORGET)
    assert np.any(index[:3] != index[4:7]) and np.any(index[3] != index[7])
    # However the run is cut into chunks.
    pieces = [run.inputs(first, count, 5).index[:count] for first, count in ((0, 2), (2, 5), (7, 1), (3, 0))]
    np.testing.assert_array_equal(np.concatenate(pieces), index[:8])
    reports = []
    after = carried(plan, linear, on_chunk=reports.append)
    assert reports[-1].epoch == 2.0
    assert losses(after, linear, RETAIN).mean() < losses(linear.original["params"], linear, RETAIN).mean()


def test_passes_of_uneven_epochs_fill_batches_and_follow_the_schedule(linear):
    optimization = dataclasses.replace(
        OPTIMIZATION, epochs=2.5, batch_size=8, schedule="step", step_epochs=1.0, learning_rate=1.0
    )
    long, short = (Pass(FORGET[:6], 4), Pass(RETAIN[:20])), (Pass(RETAIN[:20]),)
    plan = Plan("p", "original", linear.examples(), ROWS, optimization, passes=(long, short, short))
    run = training_run(plan, linear)
    assert run.steps == 5 + 3 + 2
    inputs = run.inputs(0, 10, 10)
    np.testing.assert_allclose(inputs.learning_rate, [1.0] * 5 + [0.1] * 3 + [0.01] * 2, rtol=1e-6)
    # Two batches of 4 of 6 rows, each row twice in its step: six once, two of them again.
    steps = inputs.index[:2].reshape(2, 4, 2)
    assert np.all(steps[..., 0] == steps[..., 1])
    seen = steps[..., 0].ravel()
    assert sorted(seen[:6]) == sorted(FORGET[:6]) and set(seen[6:]) < set(FORGET[:6])
    assert sorted(inputs.index[2:5].ravel()[:20]) == sorted(RETAIN[:20])
    assert run.epoch_at(5) == 1.0 and run.epoch_at(8) == 2.0 and run.epoch_at(10) == pytest.approx(8 / 3)


def test_random_labels_are_never_true(linear):
    true = np.eye(CLASSES, dtype=bool)[linear.labels]
    for redraw in (True, False):
        plan = random_labels(linear, RandomLabelsConfig(OPTIMIZATION, redraw=redraw))
        targets = np.asarray(plan.examples.targets)
        assert np.all(targets[FORGET][true[FORGET]] == 0)
        np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
        np.testing.assert_array_equal(targets[RETAIN], true[RETAIN])
        assert sorted(plan.index) == list(range(N))
        # Redrawn: the mean over draws. Drawn once: one class.
        assert np.all(targets[FORGET].max(1) == (0.5 if redraw else 1))
    drawn = [
        np.asarray(random_labels(task, RandomLabelsConfig(OPTIMIZATION, redraw=False), name).examples.targets)
        for task, name in (
            (linear, "a"), (linear, "a"), (linear, "b"), (dataclasses.replace(linear, seed=1), "a")
        )
    ]  # fmt: skip
    assert np.all(drawn[0] == drawn[1]) and np.any(drawn[0] != drawn[2]) and np.any(drawn[0] != drawn[3])
    many = draw_wrong_labels(np.full(30000, 2), 5, host_stream(0, "test"))
    assert np.all(np.abs(np.bincount(many, minlength=5) / 30000 - [0.25, 0.25, 0, 0.25, 0.25]) < 0.01)
    alone = random_labels(linear, RandomLabelsConfig(OPTIMIZATION, retain=False))
    np.testing.assert_array_equal(alone.index, FORGET)


def test_boundary_shrink_finds_the_nearest_other_class(linear):
    # Each class sums pixels of its own, so all boundaries of a class are as steep as one another, and the nearest
    # other class is the one with the second largest logit.
    kernel = np.zeros((16, CLASSES), np.float32)
    for c in range(CLASSES):
        kernel[5 * c : 5 * c + 5, c] = 0.3
    (name,) = linear.original["params"]
    params = {name: {"kernel": jnp.asarray(kernel), "bias": jnp.zeros(CLASSES)}}
    images = jnp.clip(linear.images, 60, 190)  # no pixel is clamped
    kernel64 = kernel.astype(np.float64)
    said = np.argmax(pixels(dataclasses.replace(linear, images=images), np.arange(N)) @ kernel64, axis=1)
    task = dataclasses.replace(
        linear, images=images, labels=said.astype(np.int32), original={"params": params, "batch_stats": {}}
    )
    plan = boundary_shrink(task, BoundaryShrinkConfig(OPTIMIZATION, epsilon=0.2))
    logits = pixels(task, FORGET) @ kernel64
    np.testing.assert_array_equal(np.argsort(logits, axis=1)[:, -1], said[FORGET])
    targets = np.asarray(plan.examples.targets)
    np.testing.assert_array_equal(targets[FORGET], np.eye(CLASSES)[np.argsort(logits, axis=1)[:, -2]])
    np.testing.assert_array_equal(targets[RETAIN], np.eye(CLASSES)[said[RETAIN]])
    assert len(set(np.argmax(targets[FORGET], axis=1))) > 1
    # Each epoch: what is deleted, then what is kept.
    index = training_run(plan, task).inputs(0, 8, 8).index
    assert sorted(index[4]) == sorted(FORGET) and sorted(index[5:].ravel()) == sorted(RETAIN)


@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.6])
def test_boundary_shrink_equals_a_slow_twin(linear, epsilon):
    kernel, bias = head_of(linear.original["params"])
    # Blocks of 4, the last one overlapping: the answers do not depend on it.
    optimization = dataclasses.replace(OPTIMIZATION, batch_size=4)
    plan = boundary_shrink(linear, BoundaryShrinkConfig(optimization, retain=False, epsilon=epsilon))
    for row in FORGET:
        x = np.asarray(linear.images)[row].ravel().astype(float)
        error = softmax((x / 255 - 0.5) / 0.25 @ kernel + bias) - np.eye(CLASSES)[linear.labels[row]]
        moved = np.clip(np.round(x + 255 * np.float32(epsilon) * np.sign(kernel @ error)), 0, 255)
        logits = (moved / 255 - 0.5) / 0.25 @ kernel + bias
        logits[linear.labels[row]] = -np.inf
        assert np.argmax(plan.examples.targets[row]) == np.argmax(logits)


def test_l1_drives_weights_to_zero_and_its_coefficient_is_an_input(linear):
    optimization = dataclasses.replace(OPTIMIZATION, epochs=60.0, learning_rate=1e-3, momentum=0.0)
    before = np.abs(head_of(linear.original["params"])[0])
    after, runs = {}, {}
    for alpha in (0.0, 20.0):
        plan = l1_sparse(linear, L1SparseConfig(optimization, alpha=alpha))
        runs[alpha] = training_run(plan, linear)
        after[alpha] = np.abs(head_of(carried(plan, linear))[0])
    assert after[0.0].mean() > 0.8 * before.mean()
    # A step cannot stop nearer to zero than its own length, 0.02 at first.
    assert after[20.0].max() < 0.02 < 0.1 * before.max()
    assert runs[0.0].recipe == runs[20.0].recipe
    assert make_run_chunk(runs[0.0].recipe)._cache_size() == 1
    strength = runs[20.0].inputs(90, 3, 3).progress
    np.testing.assert_allclose(strength, 20 * (1 - np.array([90, 91, 92]) / 180), rtol=1e-6)
    constant = training_run(l1_sparse(linear, L1SparseConfig(optimization, alpha=0.5, decay=False)), linear)
    assert np.all(constant.inputs(90, 3, 3).progress == np.float32(0.5))


def test_the_l1_penalty_enters_the_loss(linear):
    reports = []
    optimization = dataclasses.replace(OPTIMIZATION, epochs=1 / 3, learning_rate=1e-12)
    plan = l1_sparse(linear, L1SparseConfig(optimization, alpha=0.7))
    carried(plan, linear, on_chunk=reports.append)
    rows = training_run(plan, linear).inputs(0, 1, 1).index[0]
    norm = sum(np.abs(part).sum() for part in head_of(linear.original["params"]))
    params = linear.original["params"]
    assert reports[0].loss == pytest.approx(losses(params, linear, rows).mean() + 0.7 * norm, rel=1e-5)


def test_the_saliency_mask_keeps_the_largest_gradients(linear):
    gradient = mean_gradient(linear.original["params"], linear, FORGET)
    (head,) = salun(linear, SalunConfig(OPTIMIZATION, share=0.4)).gradient_mask.values()
    size = np.abs(np.concatenate([gradient[0].ravel(), gradient[1]]))
    wanted = size >= np.sort(size)[-int(0.4 * size.size)]
    got = np.concatenate([np.asarray(head["kernel"]).ravel(), np.asarray(head["bias"])])
    np.testing.assert_array_equal(got, wanted)
    # Whole, or in blocks of which the last is not full.
    whole, blocks = (
        make_summed_gradient(LINEAR, (0.5,), (0.25,), size)(
            linear.original, linear.images[FORGET], jnp.asarray(linear.labels[FORGET])
        )
        for size in (15, 4)
    )
    for a, b, c in zip(head_of(whole), head_of(blocks), gradient, strict=True):
        np.testing.assert_allclose(a, 15 * c, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5)


def test_a_mask_counts_exactly_and_takes_ties_in_order():
    gradient = {"a": np.array([[0.0, -3.0], [0.0, 1.0]], np.float32), "b": np.zeros(4, np.float32)}
    mask = saliency_mask(gradient, 0.5)
    assert mask["a"].tolist() == [[1, 1], [1, 1]] and mask["b"].tolist() == [0, 0, 0, 0]
    assert saliency_mask(gradient, 0.13)["a"].tolist() == [[0, 1], [0, 0]]
    assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(saliency_mask(gradient, 1.0)))
    with pytest.raises(InputError, match="A share of 0.1 of 8 weights is none"):
        saliency_mask(gradient, 0.1)
    with pytest.raises(InputError, match=r"The share is 1.5, but expected .* in \(0, 1\]"):
        saliency_mask(gradient, 1.5)
    with pytest.raises(InputError, match="not finite"):
        saliency_mask({"a": np.array([np.nan], np.float32)}, 1.0)


def test_what_salun_masks_keeps_its_bits(small):
    optimization = dataclasses.replace(OPTIMIZATION, epochs=10.0, weight_decay=0.1, learning_rate=0.01)
    assert optimization.momentum == 0.9
    plan = salun(small, SalunConfig(optimization))
    after = carried(plan, small)
    masks = [np.asarray(leaf) == 1 for leaf in jax.tree.leaves(plan.gradient_mask)]
    assert sum(mask.sum() for mask in masks) == sum(mask.size for mask in masks) // 2
    moved = 0
    for old, new, mask in zip(bits(small.original["params"]), bits(after), masks, strict=True):
        np.testing.assert_array_equal(new[~mask], old[~mask])
        moved += np.sum(new[mask] != old[mask])
    assert moved > 0.95 * sum(mask.sum() for mask in masks)


def test_negative_gradient_plus_has_its_loss(linear):
    optimization = dataclasses.replace(OPTIMIZATION, batch_size=N, epochs=1.0, momentum=0.0)
    reports, alpha = [], 0.8
    plan = negative_gradient_plus(linear, NegativeGradientPlusConfig(optimization, alpha=alpha))
    after = carried(plan, linear, on_chunk=reports.append)
    before = linear.original["params"]
    kept, gone = (losses(before, linear, rows).mean() for rows in (RETAIN, FORGET))
    assert reports[0].loss == pytest.approx(alpha * kept - (1 - alpha) * gone, rel=1e-5)
    gradients = zip(*(mean_gradient(before, linear, rows) for rows in (RETAIN, FORGET)), strict=True)
    for old, new, (down, up) in zip(head_of(before), head_of(after), gradients, strict=True):
        np.testing.assert_allclose(new, old - 0.05 * (alpha * down - (1 - alpha) * up), rtol=1e-4, atol=1e-6)


def test_the_scrub_loss_by_hand():
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(0, 3, (2, 4, CLASSES))
    labels, temperature = np.eye(CLASSES)[[0, 1, 2, 1]], 4.0
    p, log_q = softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    kl = np.array([sum(p[i, c] * (np.log(p[i, c]) - log_q[i, c]) for c in range(CLASSES)) for i in range(4)])
    ce = -(labels * log_softmax(student, axis=1)).sum(1)
    a, b = np.array([0.99, 0.0, 1.0, 0.5]), np.array([0.001, 1.0, 0.0, 0.5])
    targets = np.concatenate([labels, p, np.stack([a, b, np.full(4, temperature)], axis=1)], axis=1)
    loss = jax.jit(scrub_loss)
    got = loss(jnp.float32(student), jnp.float32(targets))
    np.testing.assert_allclose(got, a * ce + b * temperature**2 * kl, rtol=1e-4, atol=1e-5)
    # Where student and teacher agree the divergence is 0, and so is its gradient; a posterior of 0 does no harm.
    agree = np.concatenate([labels, p, [[0.0, 1.0, temperature]] * 4], axis=1)
    assert np.all(np.abs(loss(jnp.float32(teacher), jnp.float32(agree))) < 1e-4)
    gradient = jax.jit(jax.grad(lambda z, t: scrub_loss(z, t).sum()))(
        jnp.float32(teacher), jnp.float32(agree)
    )
    assert np.all(np.abs(gradient) < 1e-4)
    certain = np.concatenate([labels, labels, [[0.0, 1.0, 1.0]] * 4], axis=1)
    np.testing.assert_allclose(loss(jnp.float32(student), jnp.float32(certain)), ce, rtol=1e-4, atol=1e-5)


def test_scrub_leaves_the_teacher_on_what_it_forgets(linear):
    optimization = dataclasses.replace(OPTIMIZATION, epochs=3.0, learning_rate=0.1)
    settings = ScrubConfig(optimization, ascent_epochs=2, forget_batch=5, teacher_weight=0.1)
    plan = scrub(linear, settings)
    targets, weights = np.asarray(plan.examples.targets), np.asarray(plan.examples.weights)
    teacher = pixels(linear, ROWS) @ head_of(linear.original["params"])[0]
    teacher = teacher + head_of(linear.original["params"])[1]
    np.testing.assert_allclose(targets[ROWS, 3:6], softmax(teacher / 4, axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(targets[:, :3], np.eye(CLASSES)[linear.labels])
    np.testing.assert_allclose(targets[RETAIN, 6:], [[0.99, 0.1, 4.0]] * 45, rtol=1e-6)
    assert np.all(targets[FORGET, 6:] == [0, 1, 4])
    assert np.all(weights[FORGET] == -1) and np.all(weights[RETAIN] == 1)
    run = training_run(plan, linear)
    assert run.steps == (3 + 3) + (3 + 3) + 3
    index = run.inputs(0, 15, 15).index
    for step, row in enumerate(index):
        assert set(row) <= set(FORGET if step in (0, 1, 2, 6, 7, 8) else RETAIN)
        assert len(set(row)) == (5 if set(row) <= set(FORGET) else 15)

    def divergence(params):
        kernel, bias = head_of(params)
        x, p = pixels(linear, FORGET) @ kernel + bias, targets[FORGET, 3:6]
        return np.mean(np.sum(p * (np.log(p) - log_softmax(x / 4, axis=1)), axis=1))

    calm = scrub(linear, dataclasses.replace(settings, ascent_epochs=0))
    assert calm.passes and set(calm.index) == set(RETAIN)
    reports = []
    assert (
        divergence(carried(plan, linear, on_chunk=reports.append))
        > 1.5 * divergence(carried(calm, linear))
        > 0
    )
    assert reports[-1].epoch == 3.0 and reports[-1].accuracy > 0.5


def test_methods_of_one_shape_share_one_program(linear):
    plans = [
        finetune(linear, OPTIMIZATION),
        gradient_ascent(linear, GradientAscentConfig(OPTIMIZATION, retain=True)),
        random_labels(linear, RandomLabelsConfig(OPTIMIZATION)),
        boundary_shrink(linear, BoundaryShrinkConfig(OPTIMIZATION)),
        negative_gradient_plus(linear, NegativeGradientPlusConfig(OPTIMIZATION)),
    ]
    run_chunk = make_run_chunk(training_run(plans[0], linear).recipe)
    carried(plans[0], linear)
    before = run_chunk._cache_size()
    for plan in plans[1:]:
        carried(plan, linear)
        assert make_run_chunk(training_run(plan, linear).recipe) is run_chunk
    assert run_chunk._cache_size() == before


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_what_reads_the_original_exports_for_accelerators(small, platform):
    from mu_jax.unlearning.boundary_shrink import make_nearest_other_class

    images, labels = small.images[FORGET], jnp.asarray(small.labels[FORGET])
    constants = ((0.5,), (0.25,), 4)
    for function, more in ((make_nearest_other_class, (jnp.float32(0.1),)), (make_summed_gradient, ())):
        program = function(SMALL, *constants)
        exported = jax.export.export(program, platforms=[platform])(small.original, images, labels, *more)
        assert exported.platforms == (platform,)


def test_a_method_without_what_it_needs_is_one_clear_sentence(linear):
    unmade, nothing = (
        dataclasses.replace(linear, **change) for change in ({"original": None}, {"forget": ROWS[:0]})
    )
    methods = [
        (gradient_ascent, GradientAscentConfig), (random_labels, RandomLabelsConfig),
        (boundary_shrink, BoundaryShrinkConfig), (l1_sparse, L1SparseConfig), (salun, SalunConfig),
        (negative_gradient_plus, NegativeGradientPlusConfig), (scrub, ScrubConfig),
    ]  # fmt: skip
    for method, settings in methods:
        with pytest.raises(InputError, match=f"{method.__name__}' got no example to forget"):
            method(nothing, settings())
        if method in (l1_sparse, negative_gradient_plus, scrub, random_labels, salun, boundary_shrink):
            with pytest.raises(InputError, match="got no example to retain"):
                method(dataclasses.replace(linear, retain=ROWS[:0]), settings())
        if method in (boundary_shrink, salun, scrub):
            with pytest.raises(InputError, match="reads the original model, but the task holds none"):
                method(unmade, settings())
    with pytest.raises(InputError, match="There are 1 classes, but a wrong label needs at least 2"):
        draw_wrong_labels(np.zeros(3, int), 1, host_stream(0, "test"))


def test_bad_passes_are_refused(linear):
    def plan(*passes):
        return Plan("p", "original", linear.examples(), ROWS, OPTIMIZATION, passes=passes)

    with pytest.raises(InputError, match="what 1 epochs pass over, but its optimization.epochs is 2"):
        plan((Pass(ROWS),))
    with pytest.raises(InputError, match="a pass over no example"):
        plan((Pass(ROWS),), (Pass(ROWS[:0]),))
    with pytest.raises(InputError, match="batches of 4, but expected a divisor of .*, which is 15"):
        plan((Pass(ROWS),), (Pass(ROWS, 4),))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BoundaryShrinkConfig(epsilon=0.0), "epsilon is 0.0"),
        (lambda: L1SparseConfig(alpha=-1.0), "alpha is -1.0"),
        (lambda: SalunConfig(share=0.0), "share is 0.0"),
        (lambda: NegativeGradientPlusConfig(alpha=1.5), "alpha is 1.5"),
        (lambda: ScrubConfig(ascent_epochs=4), "ascent_epochs is 4, but expected 0 to .* which is 3"),
        (lambda: ScrubConfig(forget_batch=48), "forget_batch is 48, but expected a divisor of .* 128"),
        (lambda: ScrubConfig(temperature=0.0), "temperature is 0.0"),
        (lambda: ScrubConfig(label_weight=-0.1), "label_weight is -0.1"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_the_original_is_read_in_float32_where_the_task_has_such_a_network(linear):
    assert linear.reader is LINEAR
    assert dataclasses.replace(linear, query_model=SMALL).reader is SMALL
