"""Rows of a table where images stand otherwise: in Dataset, in archives, embedded, normalised, learned and refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig, UnlearningComparison
from mu_jax.data import Dataset, load_dataset, normalize
from mu_jax.data.standardization import constants
from mu_jax.data.stratified import stratified_test
from mu_jax.experiments.setting import prepare, read_data
from mu_jax.models import build_model
from mu_jax.ops import choose_lowering, choose_mapping
from mu_jax.training.chunk import Examples, label_targets
from mu_jax.training.loop import TrainingRun, train
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.training.placement import Placement
from mu_jax.training.query import make_query
from mu_jax.training.state import initial_state, variables_of
from mu_jax.training.step import Recipe


def table(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(**changes):
    fields = {
        "name": "toy",
        "x_train": table(5, 1, 1, 3),
        "y_train": np.array([0, 1, 0, 1, 1], np.int32),
        "x_test": table(2, 1, 1, 3, seed=1),
        "y_test": np.array([1, 0], np.int32),
        "class_names": ("no", "yes"),
    }
    return Dataset(**(fields | changes))


def with_value(x, place, value):
    x = x.copy()
    x[place] = value
    return x


def test_rows_are_images_of_one_pixel():
    dataset = make()
    assert dataset.is_tabular
    assert dataset.image_shape == (1, 1, 3)
    np.testing.assert_array_equal(dataset.images[5:], dataset.x_test)
    pixels = {"x_train": np.zeros((5, 1, 1, 3), np.uint8), "x_test": np.zeros((2, 1, 1, 3), np.uint8)}
    assert not make(**pixels).is_tabular
    assert make(**pixels).fingerprint() != dataset.fingerprint()
    other = with_value(dataset.x_test, (1, 0, 0, 2), np.float32(7))
    assert make(x_test=other).fingerprint() != dataset.fingerprint()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": table(5, 1, 1, 3).astype(np.float64)}, "x_train has dtype float64.*uint8.*float32"),
        ({"x_train": table(5, 3)}, r"x_train has dtype float32 and shape \(5, 3\).*\[rows, 1, 1, columns\]"),
        ({"x_train": table(5, 1, 3, 1)}, r"x_train .* shape \(5, 1, 3, 1\)"),
        ({"x_test": table(2, 1, 1, 4)}, r"\(1, 1, 3\) and x_test of shape \(1, 1, 4\)"),
        (
            {"x_test": np.zeros((2, 1, 1, 3), np.uint8)},
            "x_train has dtype float32 and x_test uint8, but expected",
        ),
        ({"x_train": table(5, 1, 1, 0), "x_test": table(2, 1, 1, 0)}, "non-empty"),
        (
            {"x_train": with_value(table(5, 1, 1, 3), (slice(2, 4), 0, 0, 1), np.nan)},
            "x_train has 2 values that are not finite, the first in row 2 and column 1",
        ),
        ({"x_test": with_value(table(2, 1, 1, 3), (1, 0, 0, 0), -np.inf)}, "x_test has 1 values .* row 1"),
    ],
)
def test_bad_rows_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_archive_of_rows(tmp_path, dtype):
    x_train, x_test = table(6, 4).astype(dtype), table(3, 4, seed=1).astype(dtype)
    labels = {"y_train": np.arange(6) % 2, "y_test": np.array([1, 0, 1])}
    np.savez(tmp_path / "rows.npz", x_train=x_train, x_test=x_test, **labels)
    dataset = load_dataset(DataConfig(source=f"npz:{tmp_path / 'rows.npz'}"), 0)
    assert dataset.is_tabular and dataset.name == "npz:rows.npz"
    np.testing.assert_array_equal(dataset.x_train, x_train.astype(np.float32)[:, None, None, :])
    np.testing.assert_array_equal(dataset.x_test[1, 0, 0], x_test[1].astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": np.zeros((6, 4), np.int64)}, r"x_train has dtype int64.*rows as floats \[N, columns\]"),
        ({"x_train": with_value(np.zeros((6, 4)), (2, 3), 1e300)}, "1 values .* row 2 and column 3"),
        ({"x_test": np.full((3, 4), np.nan)}, "x_test has 12 values that are not finite"),
        ({"x_test": np.zeros((3, 4, 4, 1), np.uint8)}, r"\(1, 1, 4\) and x_test of shape \(4, 4, 1\)"),
    ],
)
def test_bad_archives_of_rows(tmp_path, changes, message):
    rows = {"x_train": np.zeros((6, 4)), "x_test": np.zeros((3, 4))}
    rows |= {"y_train": np.arange(6) % 2, "y_test": np.arange(3) % 2}
    np.savez(tmp_path / "bad.npz", **(rows | changes))
    with pytest.raises(InputError, match=message):
        load_dataset(DataConfig(source=f"npz:{tmp_path / 'bad.npz'}"), 0)


@pytest.mark.parametrize(
    ("name", "train", "test", "columns", "class_names", "pinned"),
    [
        ("breast_cancer", 400, 169, 30, ("malignant", "benign"), "7d5c0e1f997411e9"),
        ("wine", 124, 54, 13, ("class_0", "class_1", "class_2"), "5d5c805c8bc04705"),
    ],
)
def test_embedded_tables_are_scikit_learns_rows_split_once_and_for_all(
    name, train, test, columns, class_names, pinned
):
    import sklearn.datasets

    dataset = load_dataset(DataConfig(source=name), 0)
    assert (dataset.x_train.shape, dataset.x_test.shape) == ((train, 1, 1, columns), (test, 1, 1, columns))
    assert dataset.class_names == class_names
    bunch = getattr(sklearn.datasets, f"load_{name}")()
    ours = np.concatenate([dataset.images[:, 0, 0], dataset.labels[:, None]], axis=1)
    theirs = np.concatenate([bunch.data, bunch.target[:, None]], axis=1).astype(np.float32)
    assert sorted(map(tuple, ours.tolist())) == sorted(map(tuple, theirs.tolist()))
    share = np.bincount(dataset.labels) * test / (train + test)
    assert np.abs(np.bincount(dataset.y_test) - share).max() < 1
    assert load_dataset(DataConfig(source=name), 5).fingerprint() == dataset.fingerprint()
    # Changes where the split or the values change: then every published number on it changes, too.
    assert dataset.fingerprint().startswith(pinned)
    with pytest.raises(InputError, match=f"{name} takes no argument; write '{name}'"):
        load_dataset(DataConfig(source=f"{name}:3"), 0)


def test_a_stratified_test_set_gives_the_largest_remainders_one_more():
    labels = np.repeat(np.arange(3), [10, 7, 3]).astype(np.int32)  # 5, 3.5 and 1.5 of 10
    chosen = stratified_test(labels, 10)
    assert chosen.sum() == 10
    assert sorted(np.bincount(labels[chosen]).tolist()) in ([1, 4, 5], [2, 3, 5])
    np.testing.assert_array_equal(chosen, stratified_test(labels, 10))


def test_rows_are_normalised_as_they_are():
    rows = jnp.asarray([[1.0, 300.0], [-1.0, 255.0]])[:, None, None, :]
    np.testing.assert_allclose(
        normalize(rows, (0.0, 100.0), (1.0, 50.0))[:, 0, 0], [[1, 4], [-1, 3.1]], rtol=1e-6
    )
    compiled = jax.jit(lambda x: normalize(x, (0.5,), (2.0,)))(rows)
    np.testing.assert_allclose(compiled, normalize(rows, (0.5,), (2.0,)), rtol=1e-6)
    with pytest.raises(InputError, match=r"data.mean has 3 values for images of 2 channels"):
        normalize(rows, (0.5,) * 3, (1.0,))


def test_constants_by_hand_and_equal_columns_keep_their_scale():
    rows = np.array([[1, 0.1, 5], [3, 0.1, -5], [5, 0.1, 0]], np.float32)[:, None, None, :]
    mean, std = constants(rows)
    assert mean == pytest.approx((3, 0.1, 0)) and std == pytest.approx((np.sqrt(8 / 3), 1, np.sqrt(50 / 3)))
    normal = np.asarray(normalize(jnp.asarray(rows), mean, std))
    np.testing.assert_array_equal(normal[..., 1], 0)
    assert all(type(value) is float for value in mean + std)


def test_constants_bring_every_column_to_one_scale_and_do_not_mind_large_means():
    rng = np.random.default_rng(0)
    scale, shift = 10.0 ** rng.uniform(-3, 6, 20), 10.0 ** rng.uniform(-3, 6, 20)
    rows = (rng.normal(size=(500, 20)) * scale + shift).astype(np.float32)
    mean, std = constants(rows[:, None, None, :])
    normal = (rows.astype(np.float64) - mean) / std
    np.testing.assert_allclose(normal.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(normal.std(axis=0), 1, rtol=1e-9)
    lone_mean, lone_std = constants(rows[:1, None, None, :])
    assert lone_mean == tuple(rows[0].astype(float).tolist()) and set(lone_std) == {1.0}


@pytest.mark.parametrize(
    "rows", [table(0, 1, 1, 2), with_value(table(3, 1, 1, 2), (1, 0, 0, 1), np.nan)], ids=["none", "nan"]
)
def test_constants_need_rows_of_numbers(rows):
    with pytest.raises(InputError, match="expected one row at least and numbers alone"):
        constants(rows)


def test_experiments_refuse_a_table_unless_they_take_one():
    config = DataConfig(source="wine")
    with pytest.raises(InputError, match="'wine', a table of 13 columns, but this experiment needs images"):
        read_data(config, 0)
    with pytest.raises(InputError, match="needs images"):
        prepare(UnlearningComparison(data=config))
    assert read_data(config, 0, tabular=True).is_tabular
    assert not read_data(DataConfig(), 0, tabular=True).is_tabular


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_table_has_one_constant_or_one_a_column(key):
    for values in ((1.0,), (1.0,) * 13):
        read_data(DataConfig(source="wine", **{key: values}), 0, tabular=True)
    with pytest.raises(InputError, match=f"data.{key} has 3 values, but the table has 13 columns"):
        read_data(DataConfig(source="wine", **{key: (1.0,) * 3}), 0, tabular=True)


@pytest.mark.parametrize("backend", ["cpu", "gpu", "tpu"])
def test_lowering_and_mapping_are_chosen_for_a_table(backend):
    for models in (1, 16):
        sizes = {"width": 8, "image_size": 1, "models": models}
        assert choose_lowering("auto", backend, **sizes) in ("xla", "patches", "winograd")
        assert choose_mapping("auto", backend, **sizes).removeprefix("pmap_") in ("one", "map", "vmap")


@pytest.mark.parametrize(
    ("name", "wants"), [("resnet18", "8×8"), ("vgg11", "2×2"), ("vit", "4×4"), ("cnn", "2×2")]
)
def test_networks_for_images_refuse_a_table(name, wants):
    config = ModelConfig(name=name, width=8, convolution="xla")
    with pytest.raises(InputError, match=f"1×1 pixels, but .* at least {wants}"):
        build_model(config, num_classes=3, image_shape=(1, 1, 13))


def test_a_network_learns_a_table_alone_and_beside_others():
    dataset = load_dataset(DataConfig(source="wine"), 0)
    # The standardisation comes from test rows that nothing here is judged by.
    mean, std = constants(dataset.x_test[:27])
    data = DataConfig(source="wine", mean=mean, std=std)
    config = ModelConfig(name="logistic_regression", convolution="xla")
    model = build_model(config, num_classes=3, image_shape=dataset.image_shape)
    optimization = OptimizationConfig(epochs=5.0, batch_size=16, learning_rate=0.1)
    recipe = Recipe.of(model, data, optimization)
    examples = Examples(
        images=jnp.asarray(dataset.images),
        targets=jnp.asarray(label_targets(dataset.labels, 3)),
        weights=jnp.ones(len(dataset.labels)),
    )
    runs = [
        TrainingRun(name=f"m{i}", seed=0, index=np.arange(i, 124), optimization=optimization, recipe=recipe)
        for i in range(2)
    ]
    run = runs[1]
    state = initial_state(model, recipe.make_optimizer(), run.keys()[0])
    alone = variables_of(train(run, state, examples, chunk_steps=39))
    query = make_query(model, mean, std, 20)
    answers = np.asarray(query(alone, jnp.asarray(dataset.x_test[27:])))
    assert np.mean(answers.argmax(axis=1) == dataset.y_test[27:]) > 0.9
    trainer = ParallelTrainer(recipe, examples, Placement("vmap", 1, 2), batch_size=16, chunk_steps=39)
    beside = trainer.train(runs).of(1)
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(beside), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
