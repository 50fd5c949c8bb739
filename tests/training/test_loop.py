import dataclasses
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.models import build_model
from mu_jax.models.layers import Convolution, Linear, batch_norm
from mu_jax.models.model import from_module
from mu_jax.ops import layout_of
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import DivergenceError, TrainingRun, train
from mu_jax.training.query import make_query
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Recipe

SHAPE, CLASSES, N = (8, 8, 1), 3, 30
OPTIMIZATION = OptimizationConfig(epochs=3.0, batch_size=8, learning_rate=0.05, crop_padding=1, flip=True)
STEPS = 12  # ⌈3 · 30 / 8⌉


class SmallNet(nn.Module):
    """A ResNet in small: convolution, batch-norm, head. Compiles in a tenth of the time."""

    @nn.compact
    def __call__(self, images, *, train):
        layout = layout_of("patches")
        x = Convolution(8, 3, 1, 1, lowering="patches", name="conv")(layout.arrange(images))
        x = nn.relu(batch_norm(train=train, lowering="patches", dtype=jnp.float32, name="norm")(x))
        return Linear(CLASSES, name="head")(layout.restore(x)[:, ::2, ::2].reshape(len(images), -1))


@pytest.fixture(scope="module", name="model")
def model_fixture():
    return from_module(SmallNet(), SHAPE)


def data(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(N) % CLASSES
    images = rng.integers(0, 256, (N, *SHAPE), dtype=np.uint8)
    return images, labels


def examples_of(images, labels):
    targets = jnp.asarray(label_targets(labels, CLASSES))
    return Examples(images=jnp.asarray(images), targets=targets, weights=jnp.ones(len(labels)))


def make_run(model, name="original", **changes):
    optimization = dataclasses.replace(OPTIMIZATION, **changes)
    recipe = Recipe.of(model, DataConfig(), optimization)
    return TrainingRun(name=name, seed=0, index=np.arange(N), optimization=optimization, recipe=recipe)


def fit(run, checkpoints=None, chunk_steps=5, on_chunk=lambda report: None, images=None):
    state = initial_state(run.recipe.model, run.recipe.make_optimizer(), run.keys()[0])
    pictures, labels = data()
    examples = examples_of(pictures if images is None else images, labels)
    return train(run, state, examples, chunk_steps=chunk_steps, checkpoints=checkpoints, on_chunk=on_chunk)


def assert_same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_training_lowers_the_loss_and_reports_every_chunk(model):
    reports = []
    run = make_run(model, epochs=20.0, crop_padding=0, flip=False)
    fit(run, chunk_steps=20, on_chunk=reports.append)
    assert [report.step for report in reports] == [20, 40, 60, 75]
    assert sum(report.images for report in reports) == run.trained_samples == 600
    assert reports[-1].loss < 0.5 * reports[0].loss
    assert reports[-1].epoch == pytest.approx(20.0)


class Killed(BaseException):
    pass


def test_a_run_killed_inside_a_save_ends_with_the_same_bits(model, tmp_path, monkeypatch):
    run = make_run(model)
    undisturbed = fit(run)
    rename = pathlib.Path.rename

    def dies_at_the_second_checkpoint(self, target):
        if pathlib.Path(target).name == "step_000000010":
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pathlib.Path, "rename", dies_at_the_second_checkpoint)
        fit(run, Checkpoints(tmp_path))
    assert Checkpoints(tmp_path).latest_step() == 5
    assert (tmp_path / "partial").exists()
    resumed = fit(run, Checkpoints(tmp_path))
    assert_same_bits(resumed, undisturbed)
    assert jax.tree.leaves(resumed.batch_stats)
    assert not (tmp_path / "partial").exists()


@pytest.mark.parametrize("killed_after", [5, 10])
def test_a_run_killed_between_chunks_ends_with_the_same_bits(model, tmp_path, killed_after):
    run = make_run(model)
    undisturbed = fit(run)

    class DiesAfterSaving(Checkpoints):
        def save(self, step, state):
            super().save(step, state)
            if step == killed_after:
                raise Killed

    with pytest.raises(Killed):
        fit(run, DiesAfterSaving(tmp_path))
    reports = []
    resumed = fit(run, Checkpoints(tmp_path), on_chunk=reports.append)
    assert reports[0].step == min(killed_after + 5, STEPS)
    assert_same_bits(resumed, undisturbed)
    # Started once more, it has nothing to do and gives the same.
    reports.clear()
    assert_same_bits(fit(run, Checkpoints(tmp_path), on_chunk=reports.append), undisturbed)
    assert reports == []


def test_the_name_and_the_seed_draw_the_model(model):
    first = fit(make_run(model, "retrain")).params
    again = fit(make_run(model, "retrain_again")).params
    other = fit(dataclasses.replace(make_run(model, "retrain"), seed=1)).params
    for pair in ((first, again), (first, other)):
        assert any(
            np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, pair), strict=True)
        )


def test_divergence_names_step_and_rate_and_keeps_what_was_saved(model, tmp_path):
    run = make_run(model, epochs=8.0, schedule="constant")
    fit(
        dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, epochs=1.0)),
        Checkpoints(tmp_path),
    )
    saved = Checkpoints(tmp_path).latest_step()
    assert saved == 4
    wild = dataclasses.replace(run, optimization=dataclasses.replace(run.optimization, learning_rate=1e30))
    with pytest.raises(DivergenceError, match=r"not finite at step \d+ of 30 \(learning rate 1e\+30\)"):
        fit(wild, Checkpoints(tmp_path))
    assert Checkpoints(tmp_path).latest_step() == saved


def test_weights_that_overflow_in_the_last_step_are_not_saved(model, tmp_path):
    # One step: its loss and gradient are finite, what it makes of the weights is not.
    run = make_run(model, epochs=0.25, learning_rate=3e38, momentum=0.0, weight_decay=1e6)
    with pytest.raises(DivergenceError, match="not finite at step 0 of 1"):
        fit(run, Checkpoints(tmp_path))
    assert Checkpoints(tmp_path).latest_step() is None


def test_a_checkpoint_that_cannot_be_written_is_one_clear_sentence(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp, "save", full_disk)
    with pytest.raises(InputError, match="cannot be written .*No space left"):
        Checkpoints(tmp_path).save(1, {"w": jnp.zeros(2)})


def test_checkpoints_keep_the_newest_and_clear_leftovers(tmp_path):
    checkpoints, state = Checkpoints(tmp_path / "model"), {"w": jnp.arange(3.0), "step": jnp.int32(7)}
    assert checkpoints.latest_step() is None
    (tmp_path / "model" / "partial.tmp").mkdir(parents=True)
    checkpoints.save(1, state)
    checkpoints.save(2, {"w": state["w"] + 1, "step": jnp.int32(8)})
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["step_000000002"]
    restored = checkpoints.restore(2, state)
    np.testing.assert_array_equal(restored["w"], [1.0, 2.0, 3.0])
    assert restored["step"].dtype == jnp.int32


def test_a_damaged_checkpoint_is_one_clear_sentence(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), {"w": jnp.arange(3.0)}
    checkpoints.save(1, state)
    for path in (tmp_path / "step_000000001").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(InputError, match="cannot be read .* delete this folder"):
        checkpoints.restore(1, state)


def test_query_is_exact_for_any_block_size_and_leaves_statistics_alone(model):
    images, _ = data()
    run = make_run(model)
    variables = variables_of(fit(run))
    normal = (jnp.asarray(images, jnp.float32) / 255.0 - 0.5) / 0.25
    wanted, _ = model.apply(variables, normal, train=False)
    for block in (7, 30, 1000):
        logits = make_query(model, (0.5,), (0.25,), block)(variables, jnp.asarray(images))
        np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-5)
        assert logits.dtype == jnp.float32


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_the_chunk_exports_for_accelerators(platform):
    from mu_jax.training.chunk import make_run_chunk
    from mu_jax.training.optimizers import Hyperparameters

    config = ModelConfig(width=4, compute_dtype="bfloat16", convolution="xla")
    model = build_model(config, num_classes=CLASSES, image_shape=SHAPE)
    run = make_run(model)
    state = initial_state(model, run.recipe.make_optimizer(), jax.random.key(0))
    arguments = (
        state, examples_of(*data()), run.inputs(0, 4, 4), np.int32(4), jax.random.key(0),
        Hyperparameters(jnp.float32(0.9), jnp.float32(5e-4)),
    )  # fmt: skip
    exported = jax.export.export(make_run_chunk(run.recipe), platforms=[platform])(*arguments)
    assert exported.platforms == (platform,)
