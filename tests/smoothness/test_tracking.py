"""Norms followed and clipped while a small network with batch-norm trains, alone and side by side."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.config.smoothness import ClippingConfig
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.model import from_module
from mu_jax.ops import layout_of
from mu_jax.smoothness import tracking
from mu_jax.smoothness.model import measure_layers
from mu_jax.smoothness.tracking import initial_extra, make_post_step, tracked_names
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun, train
from mu_jax.training.optimizers import Hyperparameters
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Batch, Recipe, make_step

SHAPE, CLASSES, N, LOWERING = (4, 6, 1), 3, 24, "patches"
DATA = DataConfig()
OPTIMIZATION = OptimizationConfig(
    epochs=5.0, batch_size=8, learning_rate=0.05, weight_decay=0.0, crop_padding=0, flip=False
)
QUICK = {"xla_backend_optimization_level": 0}
NAMES = ["conv", "head", "conv+norm"]


class SmallNet(nn.Module):
    """A ResNet in small: convolution, batch-norm, head."""

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of(LOWERING)
        shared = {"lowering": LOWERING, "dtype": jnp.float32}
        x = Convolution(3, 3, 1, 1, **shared, name="conv")(layout.arrange(images))
        x = nn.relu(batch_norm(train=train, **shared, name="norm")(x))
        return Linear(CLASSES, name="head")(layout.restore(x)[:, ::2, ::2].reshape(len(images), -1))


@functools.cache
def small():
    return from_module(SmallNet(), SHAPE)


@functools.cache
def examples():
    images = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    return Examples(images, label_targets(np.arange(N) % CLASSES, CLASSES), np.ones(N, np.float32))


def schedule(**changes):
    return ClippingConfig(**({"every": 5, "composed_every": 7, "first_iterations": 30} | changes))


def post_step_of(clipping, record_every=1):
    return make_post_step(small().layers(), clipping, LOWERING, record_every)


def extra_of(clipping, clip, rows=20, seed=0):
    layers = small().layers()
    return initial_extra(layers, clipping, LOWERING, clip=clip, rows=rows, key=jax.random.key(seed))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def start(clipping, clip, **options):
    recipe = Recipe.of(small(), DATA, OPTIMIZATION)
    state = initial_state(
        small(), recipe.make_optimizer(), jax.random.key(1), extra_of(clipping, clip, **options)
    )
    # Larger than any start, so that there is something to clip.
    return state.replace(params={**state.params, "conv": {"kernel": 2 * state.params["conv"]["kernel"]}})


@functools.cache
def stepper(clipping, record_every=1):
    """(state, learning rate, number of steps) -> state, all on one batch."""
    recipe = Recipe.of(small(), DATA, OPTIMIZATION, post_step=post_step_of(clipping, record_every))
    step, data = make_step(recipe), jax.tree.map(lambda leaf: jnp.asarray(leaf[:8]), examples())

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(state, rate, count):
        batch = Batch(data.images, data.targets, data.weights, rate, jnp.zeros(()))
        none = Hyperparameters(jnp.float32(0.9), jnp.float32(0.0))
        return jax.lax.fori_loop(
            0, count, lambda _, state: step(state, batch, jax.random.key(0), none)[0], state
        )

    return lambda state, rate, count=1: run(state, jnp.float32(rate), count)


def test_tracked_norms_of_weights_that_stand_still_become_the_measured_ones():
    clipping = schedule()
    assert tracked_names(small().layers(), clipping) == NAMES
    assert tracked_names(small().layers(), schedule(composed_every=0)) == NAMES[:2]
    run = stepper(clipping)
    first = run(start(clipping, np.inf), 0.0)
    state = run(first, 0.0, 149)
    assert int(state.step) == 150
    measured = measure_layers(jax.tree.map(np.asarray, variables_of(state)), small().layers(), LOWERING)
    true = np.array([*[found.norm for found in measured.values()], measured["conv"].composed])
    np.testing.assert_allclose(state.extra["norms"], true, rtol=1e-4)
    # The first step takes `first_iterations`; the running statistics, and with them the last norm, move on.
    np.testing.assert_allclose(first.extra["norms"][:2], true[:2], rtol=0.05)
    assert np.all(np.asarray(first.extra["norms"][:2]) <= true[:2] * (1 + 1e-6))
    for vector in state.extra["vectors"].values():
        assert np.linalg.norm(vector) == pytest.approx(1.0, rel=1e-5)


def moved_at(clipping, clip, steps=15, rate=0.0):
    """Step -> the parameters that it moved, at learning rate zero: by clipping alone."""
    run, state, found = stepper(clipping), start(clipping, clip), {}
    for step in range(1, steps + 1):
        before = jax.tree_util.tree_leaves_with_path(state.params)
        state = run(state, rate)
        after = jax.tree.leaves(state.params)
        found[step] = {
            "/".join(key.key for key in path)
            for (path, old), new in zip(before, after, strict=True)
            if not np.array_equal(old, new)
        }
    return {step: names for step, names in found.items() if names}, state


KERNELS = {"conv/kernel", "head/kernel"}


def test_layers_are_clipped_at_the_steps_that_are_due_and_composed_ones_by_their_kernel():
    clip = 0.3
    moved, state = moved_at(schedule(), clip)
    assert set(moved) == {5, 7, 10, 14, 15}
    assert moved[5] == KERNELS
    assert moved[7] == moved[14] == {"conv/kernel"}
    history = np.asarray(state.extra["history"])
    plain = history[1:16, :2]
    assert np.all(plain[3] > clip) and np.all(plain[4] < plain[3])  # step 5 is row 5
    np.testing.assert_allclose(plain[3], plain[0], rtol=0.05)


def test_layers_composed_with_batch_norm_are_clipped_by_its_scale():
    clip = 0.3
    moved, state = moved_at(schedule(composed_by="scale", every=0), clip)
    assert moved == {7: {"norm/scale"}}  # and is within the norm at step 14
    history = np.asarray(state.extra["history"])
    assert history[6, 2] > 1.2 * clip
    assert history[7, 2] == pytest.approx(clip, rel=1e-3)
    np.testing.assert_allclose(history[7, :2], history[6, :2], rtol=0.05)


@pytest.mark.parametrize("clip", [np.inf, 100.0])
def test_nothing_is_clipped_where_no_norm_is_above_the_clip(clip):
    assert moved_at(schedule(), clip)[0] == {}


def test_clipped_norms_come_down_to_the_clip_and_stay_there_in_training():
    clipping = schedule(composed_every=0, steps=10, step_size=0.0)
    run, clip = stepper(clipping), 0.5
    norms = {}
    for value in (clip, np.inf):
        state = run(start(clipping, value), 0.01, 200)
        measured = measure_layers(jax.tree.map(np.asarray, variables_of(state)), small().layers(), LOWERING)
        norms[value] = np.array([found.norm for found in measured.values()])
    # One singular vector every five steps: near the clip, not within it.
    assert np.all(norms[clip] < 1.3 * clip)
    assert np.all(norms[np.inf] > 2 * clip)


def test_without_a_schedule_nothing_is_clipped_and_rows_are_those_of_the_last_step_within_them():
    clipping = schedule(every=0, composed_every=0)
    state, run, rows = start(clipping, 0.3, rows=3), stepper(clipping, 4), {}
    params = bits(state.params)
    for step in range(1, 15):
        state = run(state, 0.05 if step > 7 else 0.0)
        rows[min(step // 4, 2)] = np.asarray(state.extra["norms"])
        expected = [rows.get(row, np.zeros(2)) for row in range(3)]
        np.testing.assert_array_equal(state.extra["history"], expected)
        assert (bits(state.params) == params) == (step <= 7)
    assert len({row.tobytes() for row in rows.values()}) == 3


def run_of(clip, clipping, seed=0, **changes):
    optimization = dataclasses.replace(OPTIMIZATION, **changes)
    recipe = Recipe.of(small(), DATA, optimization, post_step=post_step_of(clipping))
    return TrainingRun(
        f"clip_{clip}", seed, np.arange(N), optimization, recipe, extra=extra_of(clipping, clip, seed=seed)
    )


CLIPS = (np.inf, 1.0, 0.5)


def trainer_of(mapping, clipping):
    run = run_of(1.0, clipping)
    placement = Placement(mapping, 1, len(CLIPS))
    return ParallelTrainer(run.recipe, examples(), placement, batch_size=8, chunk_steps=4, extra=run.extra)


@pytest.mark.parametrize("mapping", [pytest.param("map", marks=pytest.mark.slow), "vmap"])
def test_models_of_different_clips_train_side_by_side_as_each_alone(mapping):
    clipping = schedule()
    trainer = trainer_of(mapping, clipping)
    runs = [run_of(clip, clipping) for clip in CLIPS]
    group = trainer.train(runs)
    assert group.diverged_step.tolist() == [-1] * 3
    for i, run in enumerate(runs):
        assert bits(trainer.train([run]).state_of(0)) == bits(group.state_of(i))
        state = group.state_of(i)
        assert state.extra["clip"] == np.float32(CLIPS[i])
        assert np.all(state.extra["history"][1 : run.steps + 1] > 0)
        assert not state.extra["history"][run.steps + 1 :].any()
        # Each in a program of its own, to rounding.
        alone = train(
            run,
            initial_state(small(), run.recipe.make_optimizer(), run.keys()[0], run.extra),
            jax.tree.map(jnp.asarray, examples()),
            chunk_steps=4,
        )
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=2e-2, atol=2e-3)
    norms = [group.state_of(i).extra["norms"][:2] for i in range(3)]
    assert np.all(norms[0] > norms[2])


def test_a_model_that_is_not_clipped_is_as_if_it_were_not_followed():
    clipping = schedule()
    run = run_of(np.inf, clipping)
    plain = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, post_step=None), extra={})
    followed, alone = (
        train(
            one,
            initial_state(small(), one.recipe.make_optimizer(), one.keys()[0], one.extra),
            jax.tree.map(jnp.asarray, examples()),
            chunk_steps=4,
        )
        for one in (run, plain)
    )
    assert bits(variables_of(followed)) == bits(variables_of(alone))


class Interrupted(Exception):
    pass


def test_a_resumed_training_is_the_undisturbed_one_vectors_and_all(tmp_path):
    run = run_of(0.5, schedule())

    def trained(folder, on_chunk=lambda report: None):
        state = initial_state(small(), run.recipe.make_optimizer(), run.keys()[0], run.extra)
        data = jax.tree.map(jnp.asarray, examples())
        return train(
            run, state, data, chunk_steps=4, checkpoints=Checkpoints(tmp_path / folder), on_chunk=on_chunk
        )

    def interrupt(report):
        if report.step == 12:  # eight steps are saved
            raise Interrupted

    with pytest.raises(Interrupted):
        trained("cut", interrupt)
    assert Checkpoints(tmp_path / "cut").latest_step() == 8
    assert bits(trained("cut")) == bits(trained("whole"))


def test_a_step_at_which_no_model_is_due_clips_none(monkeypatch):
    # Under `vmap` a `cond` would compute both branches at every step; a loop of no rounds computes nothing.
    due, clip_step = [], tracking.clip_step

    def counted(*arguments, **keywords):
        jax.debug.callback(lambda: due.append(True))
        return clip_step(*arguments, **keywords)

    monkeypatch.setattr(tracking, "clip_step", counted)
    clipping = schedule(first_iterations=3, iterations=3)  # a post_step that no other test has traced
    batch, key = Batch(*[jnp.zeros(())] * 5), jax.random.key(0)  # neither is read
    function = post_step_of(clipping)
    post_step = jax.jit(jax.vmap(lambda state: function(state, batch, key)), compiler_options=QUICK)

    def clipped_at(clips):
        states = [start(clipping, clip) for clip in clips]
        stacked, found = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states), []
        for step in range(1, 11):
            stacked = post_step(stacked.replace(step=jnp.full(len(clips), step)))
            jax.block_until_ready(stacked)
            jax.effects_barrier()
            if due:
                found.append(step)
                due.clear()
        return found

    assert clipped_at([np.inf, 0.5]) == [5, 7, 10]
    assert clipped_at([np.inf, np.inf]) == []


@pytest.mark.parametrize("clip", [0.0, -1.0, float("nan")])
def test_a_norm_that_is_not_positive_is_refused(clip):
    with pytest.raises(InputError, match="The norm to clip at is"):
        extra_of(schedule(), clip)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"every": -1}, "clipping.every"),
        ({"composed_every": -1}, "clipping.composed_every"),
        ({"composed_by": "gamma"}, "kernel, scale"),
        ({"steps": 0}, "clipping.steps"),
        ({"step_size": -0.1}, "clipping.step_size"),
        ({"first_iterations": 0}, "clipping.first_iterations"),
    ],
)
def test_bad_schedules_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        schedule(**changes)


def test_recipes_of_one_schedule_are_equal():
    # Or each trainer would compile anew.
    assert run_of(1.0, schedule()).recipe == run_of(0.5, schedule()).recipe
    assert run_of(1.0, schedule()).recipe != run_of(1.0, schedule(every=6)).recipe
