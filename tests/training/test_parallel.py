import dataclasses
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, OptimizationConfig
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.mlp import mlp_model
from mu_jax.models.model import Model, from_module
from mu_jax.ops import LOWERINGS, conv, layout_of
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.cpu_threads import usable_cores
from mu_jax.training.loop import DivergenceError, TrainingRun, train
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.query import logits_of, make_query
from mu_jax.training.state import initial_state, state_from_variables, variables_of
from mu_jax.training.step import Recipe

SHAPE, CLASSES, N = (8, 8, 1), 3, 40
DATA = DataConfig()
OPTIMIZATION = OptimizationConfig(epochs=3.0, batch_size=8, learning_rate=0.05, crop_padding=1, flip=True)
PLACEMENTS = [
    ("one", 1, 1),
    ("one", 2, 1),
    ("map", 1, 3),
    ("map", 2, 2),
    ("vmap", 1, 3),
    ("vmap", 2, 2),
]


class SmallNet(nn.Module):
    """A ResNet in small: convolution, batch-norm, head."""

    lowering: str

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of(self.lowering)
        shared = {"lowering": self.lowering, "dtype": jnp.float32}
        x = Convolution(8, 3, 1, 1, **shared, name="conv")(layout.arrange(images))
        x = nn.relu(batch_norm(train=train, **shared, name="norm")(x))
        return Linear(CLASSES, name="head")(layout.restore(x)[:, ::2, ::2].reshape(len(images), -1))


@pytest.fixture(scope="module", name="model")
def model_fixture():
    return from_module(SmallNet("winograd"), SHAPE)


def data(noise_outside=None):
    rng = np.random.default_rng(0)
    labels = np.arange(N) % CLASSES
    images = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    if noise_outside is not None:
        outside = np.setdiff1d(np.arange(N), noise_outside)
        images[outside] = np.random.default_rng(9).integers(0, 256, (len(outside), *SHAPE), dtype=np.uint8)
    return Examples(images, label_targets(labels, CLASSES), np.ones(N, np.float32))


def run_of(model, k, size=None, **changes):
    """Runs differ in seed, number of examples, learning rate and weight decay."""
    changes = {"learning_rate": 0.02 * (k + 1), "weight_decay": 1e-3 * k} | changes
    optimization = dataclasses.replace(OPTIMIZATION, **changes)
    index = np.sort(np.random.default_rng(k).permutation(N)[: size or 14 + 3 * k])
    return TrainingRun(f"shadow_{k}", k // 2, index, optimization, Recipe.of(model, DATA, optimization))


def query_fn(variables, data):
    weights = jax.tree.leaves(variables["params"])
    return {"sum": sum(jnp.sum(leaf) for leaf in weights), "first": data[:2]}


def trainer_of(model, placement, examples=None, chunk_steps=4, **options):
    recipe = Recipe.of(model, DATA, OPTIMIZATION)
    examples = data() if examples is None else examples
    return ParallelTrainer(
        recipe, examples, Placement(*placement), batch_size=8, chunk_steps=chunk_steps, **options
    )


@pytest.fixture(scope="module", name="trainer", params=PLACEMENTS, ids=lambda p: f"{p[0]}-{p[1]}x{p[2]}")
def trainer_fixture(request, model):
    return trainer_of(model, request.param, query_fn=query_fn, query_data=np.arange(5.0, dtype=np.float32))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def in_groups(trainer, runs):
    """Variables by the name of the run, of all runs in groups as wide as the trainer's."""
    width, found = trainer.placement.width, {}
    for first in range(0, len(runs), width):
        group = trainer.train(runs[first : first + width])
        found |= {run.name: group.of(i) for i, run in enumerate(runs[first : first + width])}
    return found


def alone(run, examples, variables=None):
    """The same run by the loop for one model."""
    optimizer = run.recipe.make_optimizer()
    if variables is None:
        state = initial_state(run.recipe.model, optimizer, run.keys()[0])
    else:
        state = state_from_variables(variables, optimizer)
    examples = jax.tree.map(jnp.asarray, examples)
    return variables_of(train(run, state, examples, chunk_steps=4))


def test_the_same_run_has_the_same_bits_whatever_its_companions_its_slot_and_its_group(trainer, model):
    runs = [run_of(model, k) for k in range(5)]
    others = [run_of(model, k, size=31 - k, learning_rate=0.2) for k in range(10, 13)]
    first = in_groups(trainer, runs)
    # Another order, other companions of other lengths, and a group that is not full.
    second = in_groups(trainer, [others[0], *runs[::-1], *others[1:]])
    for run in runs:
        assert bits(first[run.name]) == bits(second[run.name])
        assert bits(first[run.name]) == bits(trainer.train([run]).of(0))
    assert bits(first["shadow_0"]) != bits(first["shadow_1"])


@pytest.mark.parametrize("lowering", ["patches", "xla"])
@pytest.mark.parametrize("placement", [("map", 2, 2), ("vmap", 1, 3)], ids=lambda p: p[0])
def test_companions_change_no_bits_under_other_lowerings_either(placement, lowering):
    model = from_module(SmallNet(lowering), SHAPE)
    trainer = trainer_of(model, placement)
    run, others = run_of(model, 1), [run_of(model, k, size=31 - k, learning_rate=0.2) for k in (10, 11)]
    expected = bits(trainer.train([run]).of(0))
    assert bits(trainer.train([*others, run]).of(2)) == expected
    assert bits(trainer.train([others[1], run]).of(1)) == expected


def test_compilation_happens_once_for_all_groups(trainer, model):
    compiled = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    runs = [run_of(model, k) for k in range(trainer.placement.width)]
    trainer.train(runs)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        trainer.train([run_of(model, k, size=20 + k) for k in range(20, 20 + trainer.placement.width)])
        assert not compiled
        jax.jit(lambda x: x * 3 + len(compiled))(jnp.arange(7.0))
        assert compiled  # the event is still called so
    finally:
        jax.monitoring.clear_event_listeners()


def test_nothing_travels_between_models(trainer):
    text = trainer.compiled_text()
    assert "fusion" in text or "custom-call" in text  # it is a program
    names = "all-reduce|all-gather|all-to-all|collective|reduce-scatter|send|recv"
    assert not re.search(rf"\b({names})[\w-]*\(", text)


def test_the_collectives_would_be_found():
    summed = jax.pmap(lambda x: jax.lax.psum(x, "models"), axis_name="models")
    assert re.search(r"\ball-reduce[\w-]*\(", summed.lower(jnp.zeros(2)).compile().as_text())


@pytest.mark.skipif(usable_cores() < 2, reason="one core: nothing is shared out")
@pytest.mark.parametrize(("devices", "threads", "shared"), [(1, "2", True), (2, "2", False), (2, "3", True)])
def test_operations_are_shared_out_only_where_a_thread_is_left_over(
    model, devices, threads, shared, monkeypatch
):
    # `training.cpu_threads` says what goes wrong otherwise.
    monkeypatch.setenv("NPROC", threads)
    recipe = Recipe.of(model, DATA, OPTIMIZATION)
    trainer = ParallelTrainer(recipe, data(), Placement("one", devices, 1), batch_size=2048, chunk_steps=2)
    parts = r'"outer_dimension_partitions":\["'  # an empty list stands at some that are not
    assert bool(re.search(parts, trainer.compiled_text())) == shared


def test_the_programs_export_for_accelerators(trainer):
    programs = {
        "start": trainer.programs.start,
        "chunk": trainer.programs.chunk,
        "finish": trainer.programs.finish,
    }
    for name, arguments in trainer.arguments().items():
        exported = jax.export.export(programs[name], platforms=("cuda", "tpu"))(*arguments)
        assert exported.platforms == ("cuda", "tpu")
        assert exported.nr_devices == trainer.placement.devices


def test_a_model_that_diverges_is_marked_and_frozen_and_the_others_go_on(trainer, model):
    width = trainer.placement.width
    sound = [run_of(model, k) for k in range(width)]
    wild = run_of(model, width - 1, learning_rate=1e30)
    with pytest.raises(DivergenceError, match=r"not finite at step \d+") as error:
        alone(wild, data())
    group = trainer.train([*sound[:-1], wild])
    assert group.diverged_step[-1] == int(re.search(r"at step (\d+)", str(error.value))[1])
    assert np.isnan(group.loss[-1])
    undisturbed = trainer.train(sound)
    np.testing.assert_array_equal(group.diverged_step[:-1], -1)
    for i in range(width - 1):
        assert np.isfinite(group.loss[i])
        assert bits(group.of(i)) == bits(undisturbed.of(i))


def test_a_frozen_model_is_bitwise_as_it_was_before_the_chunk_that_broke_it(trainer, model):
    jump = {"schedule": "step", "step_epochs": 2.0, "step_factor": 1e30}
    run = run_of(model, 1, size=16, epochs=3.8, **jump)  # 2 steps an epoch, 4 a chunk
    group = trainer.train([run])
    assert 4 < group.diverged_step[0] < run.steps
    expected = trainer.train([run_of(model, 1, size=16, epochs=2.0, **jump)])
    assert expected.diverged_step[0] == -1
    assert bits(group.of(0)) == bits(expected.of(0))


def test_a_model_that_breaks_in_its_first_chunk_is_left_with_its_fresh_weights(trainer, model):
    run = run_of(model, 1, learning_rate=1e30)
    group = trainer.train([run])
    assert 0 <= group.diverged_step[0] < 4
    fresh = variables_of(initial_state(run.recipe.model, run.recipe.make_optimizer(), run.keys()[0]))
    for ours, theirs in zip(jax.tree.leaves(group.of(0)), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)


def test_images_of_a_diverged_model_are_not_counted(model):
    trainer = trainer_of(model, ("map", 1, 2))
    reports = []
    group = trainer.train([run_of(model, 0), run_of(model, 1, learning_rate=1e30)], on_chunk=reports.append)
    steps = run_of(model, 0).steps + int(group.diverged_step[1])
    assert sum(report.images for report in reports) == 8 * steps


def test_weights_that_overflow_in_the_last_step_are_marked_too(model):
    trainer = trainer_of(model, ("map", 1, 2))
    # One step, whose loss and gradient are finite; the update is not.
    run = run_of(model, 1, epochs=0.4, learning_rate=3e38, weight_decay=1e30)
    assert run.steps == 1
    assert trainer.train([run]).diverged_step.tolist() == [1]


def test_images_of_non_members_leave_no_trace(model):
    run, companion = run_of(model, 1), run_of(model, 3)
    clean, noisy = (
        trainer_of(model, ("map", 2, 1), examples).train([run, companion]).of(0)
        for examples in (data(), data(noise_outside=run.index))
    )
    assert bits(clean) == bits(noisy)


def test_signals_are_those_of_each_run_in_order(trainer, model):
    runs = [run_of(model, k) for k in range(trainer.placement.width)]
    group = trainer.train(runs)
    for i in range(len(runs)):
        expected = query_fn(jax.tree.map(jnp.asarray, group.of(i)), np.arange(5.0))
        np.testing.assert_allclose(group.signals["sum"][i], expected["sum"], rtol=1e-4)
        np.testing.assert_array_equal(group.signals["first"][i], [0.0, 1.0])


def test_logits_of_a_query_equal_those_of_the_single_model(model):
    def logits(variables, data):
        return {"logits": logits_of(model, variables, data, (0.5,), (0.25,))}

    examples = data()
    trainer = trainer_of(model, ("map", 2, 2), examples, query_fn=logits, query_data=examples.images)
    group = trainer.train([run_of(model, k) for k in range(3)])
    query = make_query(model, (0.5,), (0.25,), N)
    for i in range(3):
        np.testing.assert_allclose(
            group.signals["logits"][i], query(group.of(i), jnp.asarray(examples.images)), rtol=1e-4, atol=1e-5
        )


def test_arrays_that_examples_and_query_share_lie_on_a_device_once(model):
    examples = data()
    trainer = trainer_of(
        model, ("map", 1, 1), examples, query_fn=query_fn, query_data=(examples.images, np.arange(3))
    )
    assert trainer._query_data[0] is trainer._examples.images


def test_reports_count_images_and_steps(trainer, model):
    runs = [run_of(model, k) for k in range(trainer.placement.width)]
    reports = []
    trainer.train(runs, on_chunk=reports.append)
    assert sum(report.images for report in reports) == sum(run.trained_samples for run in runs)
    longest = runs[-1]
    assert [report.step for report in reports] == [*range(4, longest.steps, 4), longest.steps]
    assert reports[-1].steps == longest.steps
    assert reports[-1].epoch == pytest.approx(longest.steps * 8 / len(longest.index))
    for report in reports:
        assert report.loss_low <= report.loss <= report.loss_high
        assert 0 <= report.accuracy <= 1
        assert report.seconds > 0


@pytest.fixture(name="float64")
def float64_fixture():
    with jax.enable_x64(True):
        yield


def float64_model(lowering="winograd"):
    """A convolution, a dense layer and batch statistics in float64, so that many steps stay comparable."""
    layout = layout_of(lowering)

    def init(key):
        first, second, third = jax.random.split(key, 3)
        params = {
            "conv": jax.random.normal(third, (3, 3, 1, 4), jnp.float64) / 3,
            "kernel": jax.random.normal(first, (256, 8), jnp.float64) / 16,
            "head": jax.random.normal(second, (8, CLASSES), jnp.float64),
        }
        return {"params": params, "batch_stats": {"mean": jnp.zeros(8, jnp.float64)}}

    def apply(variables, images, *, train):
        params, stats = variables["params"], variables["batch_stats"]
        x = layout.arrange(images.astype(jnp.float64))
        x = layout.restore(jnp.tanh(conv(x, params["conv"], padding=1, lowering=lowering)))
        x = x.reshape(len(images), -1) @ params["kernel"]
        mean = x.mean(0) if train else stats["mean"]
        logits = jnp.tanh(x - mean) @ params["head"]
        return logits, ({"mean": 0.9 * stats["mean"] + 0.1 * mean} if train else stats)

    return Model(init, apply)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_placement_trains_the_models_that_the_single_loop_trains(float64, lowering):
    model = float64_model(lowering)
    runs = [run_of(model, k) for k in range(4)]
    examples = data()
    expected = {run.name: alone(run, examples) for run in runs}
    for placement in PLACEMENTS if lowering == "winograd" else PLACEMENTS[-2:]:
        trainer = trainer_of(model, placement, examples)
        for name, variables in in_groups(trainer, runs).items():
            for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(expected[name]), strict=True):
                assert ours.dtype == np.float64
                np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11, err_msg=f"{placement} {name}")


def test_models_may_start_from_given_weights(float64):
    model, examples = float64_model(), data()
    runs = [run_of(model, k) for k in range(3)]
    starts = [model.init(jax.random.key(100 + k)) for k in range(3)]
    trainer = trainer_of(model, ("map", 2, 2), examples, from_variables=True)
    group = trainer.train(runs, variables=starts)
    for i, (run, start) in enumerate(zip(runs, starts, strict=True)):
        expected = alone(run, examples, start)
        for ours, theirs in zip(jax.tree.leaves(group.of(i)), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def float64_linear():
    def init(key):
        weights = {"head": jax.random.normal(key, (64, CLASSES), jnp.float64), "bias": jnp.ones(CLASSES)}
        return {"params": weights, "batch_stats": {}}

    def apply(variables, images, *, train):
        params = variables["params"]
        return images.astype(jnp.float64).reshape(len(images), -1) @ params["head"] + params["bias"], {}

    return Model(init, apply)


def test_a_shared_mask_and_marked_images_are_those_of_the_single_loop(float64):
    model, examples = float64_linear(), data()
    marked = dataclasses.replace(examples, augmented=np.arange(N) % 2 == 0)
    starts = [model.init(jax.random.key(100 + k)) for k in range(3)]
    # Float32, as every mask is.
    mask = jax.tree.map(
        lambda leaf: (np.arange(leaf.size).reshape(leaf.shape) % 3 == 0).astype(np.float32),
        starts[0]["params"],
    )
    runs = [dataclasses.replace(run_of(model, k, weight_decay=0.01), gradient_mask=mask) for k in range(3)]
    expected = [alone(run, marked, start)["params"] for run, start in zip(runs, starts, strict=True)]
    others = dataclasses.replace(examples, augmented=~marked.augmented)
    assert np.abs(alone(runs[0], others, starts[0])["params"]["head"] - expected[0]["head"]).max() > 1e-6
    for placement in (("map", 1, 3), ("vmap", 1, 3)):
        trainer = trainer_of(model, placement, marked, from_variables=True, gradient_mask=mask)
        group = trainer.train(runs, variables=starts)
        for i in range(3):
            for new, old, wanted, free in zip(
                *map(jax.tree.leaves, (group.of(i)["params"], starts[i]["params"], expected[i], mask)),
                strict=True,
            ):
                assert new.dtype == np.float64
                np.testing.assert_allclose(new, wanted, rtol=1e-9, atol=1e-11)
                np.testing.assert_array_equal(new[free == 0], np.asarray(old)[free == 0])
                assert np.all(new[free == 1] != np.asarray(old)[free == 1])
    for other in (None, jax.tree.map(np.copy, mask)):
        with pytest.raises(ValueError, match="another gradient mask than the trainer"):
            trainer.train([dataclasses.replace(runs[0], gradient_mask=other)], variables=starts[:1])


def test_each_run_may_have_a_mask_and_targets_of_its_own(float64):
    model, examples = float64_linear(), data()
    starts = [model.init(jax.random.key(100 + k)) for k in range(3)]
    # Model k has targets of its own: those of block k, whose images lie on the device once.
    targets = [np.roll(examples.targets, k, axis=1) for k in range(3)]
    together = Examples(
        examples.images,
        np.concatenate(targets),
        np.concatenate([(k + 1) * examples.weights for k in range(3)]),
        source=np.tile(np.arange(N, dtype=np.int32), 3),
    )
    masks = [
        jax.tree.map(
            lambda leaf, k=k: (np.arange(leaf.size).reshape(leaf.shape) % 3 == k).astype(np.float32),
            starts[0]["params"],
        )
        for k in range(3)
    ]
    runs, expected = [], []
    for k in range(3):
        run = dataclasses.replace(run_of(model, k, flip=False, crop_padding=0), gradient_mask=masks[k])
        own = Examples(examples.images, targets[k], (k + 1) * examples.weights)
        expected.append(alone(run, own, starts[k])["params"])
        runs.append(dataclasses.replace(run, index=run.index + k * N))
    for placement in (("one", 2, 1), ("map", 1, 3), ("vmap", 1, 3)):
        trainer = ParallelTrainer(
            runs[0].recipe, together, Placement(*placement), batch_size=8, chunk_steps=4,
            from_variables=True, own_masks=True,
        )  # fmt: skip
        width = trainer.placement.width
        for first in range(0, 3, width):
            group = trainer.train(runs[first : first + width], variables=starts[first : first + width])
            for i, k in enumerate(range(first, min(first + width, 3))):
                for new, old, wanted, free in zip(
                    *map(
                        jax.tree.leaves, (group.of(i)["params"], starts[k]["params"], expected[k], masks[k])
                    ),
                    strict=True,
                ):
                    np.testing.assert_allclose(new, wanted, rtol=1e-9, atol=1e-11)
                    np.testing.assert_array_equal(new[free == 0], np.asarray(old)[free == 0])
                    assert np.all(new[free == 1] != np.asarray(old)[free == 1])
    with pytest.raises(
        ValueError, match="'shadow_0' has no gradient mask, but the trainer expects each run's own"
    ):
        trainer.train([dataclasses.replace(runs[0], gradient_mask=None)], variables=starts[:1])


def test_a_run_may_go_on_from_anothers_state_optimizer_and_all(float64):
    model, examples = float64_model(), data()
    # The same rows, rate and streams: 4 steps and then the rest are one run of all, cut in two.
    whole = [run_of(model, k, size=16, epochs=4.0, schedule="constant") for k in range(3)]
    half = [
        dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, epochs=2.0))
        for run in whole
    ]
    start = trainer_of(model, ("map", 2, 2), examples).train(half)
    states = [start.state_of(i) for i in range(3)]
    assert [int(state.step) for state in states] == [4, 4, 4]
    trainer = trainer_of(model, ("map", 2, 2), examples, from_states=True)

    class Rest(TrainingRun):
        """The steps after the first four."""

        def inputs(self, first, count, chunk_steps):
            return super().inputs(first + 4, count, chunk_steps)

    rest = [
        Rest(**{field.name: getattr(run, field.name) for field in dataclasses.fields(run)}) for run in half
    ]
    group = trainer.train(rest, states=states)
    undisturbed = trainer_of(model, ("map", 2, 2), examples).train(whole)
    for i in range(3):
        assert bits(group.state_of(i)) == bits(undisturbed.state_of(i))
    with pytest.raises(ValueError, match="from_states=True, but got no states"):
        trainer.train(rest)
    with pytest.raises(ValueError, match="from_variables=False, but got 3 variables"):
        trainer.train(rest, states=states, variables=states)


def test_the_same_models_come_out_of_any_chunk_length(float64):
    model = float64_model()
    runs = [run_of(model, k) for k in range(2)]
    groups = [trainer_of(model, ("map", 1, 2), chunk_steps=steps).train(runs) for steps in (1, 3, 100)]
    for group in groups[1:]:
        for ours, theirs in zip(jax.tree.leaves(group.of(1)), jax.tree.leaves(groups[0].of(1)), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-11)


def test_what_a_group_cannot_train_is_refused(model):
    trainer = trainer_of(model, ("map", 1, 2))
    run = run_of(model, 0)
    with pytest.raises(ValueError, match="got 3 runs, but has 2 slots"):
        trainer.train([run_of(model, k) for k in range(3)])
    with pytest.raises(ValueError, match="got 0 runs"):
        trainer.train([])
    with pytest.raises(ValueError, match="another recipe or batch size"):
        trainer.train([run_of(model, 0, batch_size=4)])
    with pytest.raises(ValueError, match="another recipe or batch size"):
        trainer.train([run_of(model, 0, flip=False)])
    with pytest.raises(
        ValueError, match="'shadow_0' has another gradient mask than the trainer, but a group shares"
    ):
        trainer.train([dataclasses.replace(run, gradient_mask={})])
    with pytest.raises(ValueError, match="no example"):
        trainer.train([dataclasses.replace(run, index=np.empty(0, int))])
    with pytest.raises(ValueError, match="from_variables=False, but got 1 variables"):
        trainer.train([run], variables=[{}])


def count_up(state, batch, key):
    return state.replace(extra={"sum": state.extra["sum"] + state.extra["by"], "by": state.extra["by"]})


def test_each_run_brings_its_own_extra_of_one_shape():
    model = mlp_model((), CLASSES, SHAPE)
    run = run_of(model, 0)
    recipe = dataclasses.replace(run.recipe, post_step=count_up)
    run = dataclasses.replace(run, recipe=recipe)

    def with_extra(by, total=0.0):
        return dataclasses.replace(run, extra={"sum": np.float32(total), "by": np.float32(by)})

    trainer = ParallelTrainer(
        recipe, data(), Placement("map", 1, 2), batch_size=8, chunk_steps=4, extra=with_extra(1.0).extra
    )
    group = trainer.train([with_extra(1.0), with_extra(3.0, 10.0)])
    assert group.state_of(0).extra["sum"] == run.steps
    assert group.state_of(1).extra["sum"] == 10 + 3 * run.steps
    for extra in (
        {},
        {"sum": np.float32(0)},
        {"sum": np.zeros(2, np.float32), "by": np.float32(1)},
        {"sum": np.int32(0), "by": np.float32(1)},
    ):
        with pytest.raises(
            ValueError, match="'shadow_0' has an extra of .*, but the trainer expects .*; make"
        ):
            trainer.train([dataclasses.replace(run, extra=extra)])
    with pytest.raises(ValueError, match="'shadow_0' has an extra of"):
        trainer_of(model, ("map", 1, 2)).train(
            [dataclasses.replace(run_of(model, 0), extra=with_extra(1.0).extra)]
        )


@pytest.mark.parametrize(
    "placement, message",
    [
        (("pmap", 1, 1), "'pmap', but expected one of one, map, vmap"),
        (("map", 3, 1), "take 3 devices, but this process has 2"),
        (("map", 0, 1), "take 0 devices"),
        (("map", 1, 0), "take 0 models under the mapping 'map', but expected at least 1"),
        (("one", 1, 2), "take 2 models under the mapping 'one', but expected exactly 1"),
    ],
)
def test_bad_placements_are_refused(placement, message):
    with pytest.raises(InputError, match=message):
        Placement(*placement)
