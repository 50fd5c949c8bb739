"""Query views: which there are, what they do to pixels, and signals read under all of them."""

import itertools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.attacks.signals import confidence, logit_margin
from mu_jax.config import InputError, ModelConfig
from mu_jax.data import augment, normalize
from mu_jax.models import build_model
from mu_jax.training.query import make_query
from mu_jax.training.query_views import View, apply_view, make_signals, query_views

IDENTITY = View(False, 0, 0)
SHAPE, CLASSES, N = (8, 8, 1), 3, 10
MEAN, STD = (0.5,), (0.25,)
VIEWS = query_views(flip=True, shift=2, stride=2)
moved = jax.jit(apply_view, static_argnames="padding")


def pixels(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, shape).astype(dtype)


def slow_view(images: np.ndarray, view: View) -> np.ndarray:
    """Pixel by pixel: a pixel at (row, column) goes to (row + down, column + right), and is then mirrored."""
    result = np.zeros_like(images)
    height, width = images.shape[1:3]
    for row, column in itertools.product(range(height), range(width)):
        to_row, to_column = row + view.down, column + view.right
        if 0 <= to_row < height and 0 <= to_column < width:
            place = width - 1 - to_column if view.flip else to_column
            result[:, to_row, place] = images[:, row, column]
    return result


@pytest.mark.parametrize(
    ("flip", "shift", "stride", "number"),
    [(True, 4, 4, 18), (True, 4, 1, 162), (True, 0, 1, 2), (False, 0, 3, 1), (False, 4, 2, 25)],
)
def test_numbers_of_views(flip, shift, stride, number):
    views = query_views(flip, shift, stride)
    assert len(views) == len(set(views)) == number
    assert views[0] == IDENTITY


def test_order_by_hand():
    offsets = [(d, r) for d in (-2, 0, 2) for r in (-2, 0, 2)]
    unflipped = [View(False, d, r) for d, r in offsets if (d, r) != (0, 0)]
    assert query_views(True, 2, 2) == (IDENTITY, *unflipped, *(View(True, d, r) for d, r in offsets))


@pytest.mark.parametrize(
    ("shift", "stride", "message"),
    [
        (4, 3, "query.stride is 3, .* divisor of query.shift, which is 4, .* --config.query.stride=VALUE"),
        (4, 8, "query.stride is 8"),
        (4, 0, "query.stride is 0"),
        (0, 0, "query.stride is 0"),
        (4, -4, "query.stride is -4"),
        (-4, 4, "query.shift is -4, .* --config.query.shift=VALUE"),
    ],
)
def test_offsets_that_miss_the_image_itself(shift, stride, message):
    with pytest.raises(InputError, match=message):
        query_views(True, shift, stride)


def test_a_view_by_hand():
    image = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    wanted = {
        (False, 0, 0): [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        (True, 0, 0): [[3, 2, 1], [6, 5, 4], [9, 8, 7]],
        (False, 1, 0): [[0, 0, 0], [1, 2, 3], [4, 5, 6]],
        (False, 0, 1): [[0, 1, 2], [0, 4, 5], [0, 7, 8]],
        (False, -1, 2): [[0, 0, 4], [0, 0, 7], [0, 0, 0]],
        (True, 1, 1): [[0, 0, 0], [2, 1, 0], [5, 4, 0]],
    }
    for view, pixels_ in wanted.items():
        got = apply_view(image, View(*view), padding=2)
        np.testing.assert_array_equal(got[0, :, :, 0], pixels_, err_msg=str(view))


@settings(deadline=None, max_examples=40)
@given(flip=st.booleans(), down=st.integers(-3, 3), right=st.integers(-3, 3))
def test_equals_the_slow_twin(flip, down, right):
    images = pixels(2, 5, 4, 3)
    view = View(flip, down, right)
    got = moved(images, np.array(view, np.int32), padding=3)
    np.testing.assert_array_equal(got, slow_view(images, view))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.int32])
def test_dtype_stays_and_one_program_serves_all_views(dtype):
    images = pixels(3, 6, 5, 2, dtype=dtype)
    program = jax.jit(lambda images, view: apply_view(images, view, padding=2))
    for view in VIEWS:
        got = program(images, np.array(view, np.int32))
        np.testing.assert_array_equal(got, slow_view(images, view))
        assert got.dtype == images.dtype
    assert program._cache_size() == 1


def test_a_traced_view_works_with_64_bits_too():
    images, view = pixels(2, 5, 4, 1), View(True, -1, 2)
    with jax.enable_x64(True):
        got = moved(images, np.array(view), padding=2)
    np.testing.assert_array_equal(got, slow_view(images, view))


def test_views_are_what_training_sees():
    image = pixels(1, 6, 5, 2)
    batch = jnp.asarray(np.repeat(image, 3000, axis=0))
    outcomes = np.asarray(
        jax.jit(lambda b, k: augment(b, k, crop_padding=1, flip=True))(batch, jax.random.key(0))
    )
    trained = {outcome.tobytes() for outcome in outcomes}
    viewed = [np.asarray(moved(image, np.array(view), padding=1)) for view in query_views(True, 1, 1)]
    assert {view.tobytes() for view in viewed} == trained
    assert len(trained) == 18


@pytest.fixture(scope="module", name="models", params=["mlp", "cnn"])
def models_fixture(request):
    config = ModelConfig(name=request.param, width=8)
    model = build_model(config, num_classes=CLASSES, image_shape=SHAPE, convolution="patches")
    return model, jax.vmap(model.init)(jax.random.split(jax.random.key(0), 2))


def data() -> tuple[np.ndarray, np.ndarray]:
    return pixels(N, *SHAPE), np.arange(N) % CLASSES


def one(stacked, index: int):
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def both(logits, labels):
    return {"phi": logit_margin(logits, labels), "logits": logits, "label": labels}


def close(got, wanted):
    assert got.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("batch_size", [4, N, 1000])
def test_signals_equal_a_plain_loop(models, batch_size):
    model, stacked = models
    images, labels = data()
    variables = one(stacked, 0)
    got = make_signals(model, MEAN, STD, batch_size, VIEWS, both)(variables, images, labels)
    assert {name: value.shape for name, value in got.items()} == {
        "phi": (N, 18),
        "logits": (N, 18, CLASSES),
        "label": (N, 18),
    }
    assert got["logits"].dtype == got["phi"].dtype == jnp.float32
    for a, view in enumerate(VIEWS):
        seen = jnp.asarray(slow_view(images, view))
        with jax.default_matmul_precision("highest"):
            logits, _ = model.apply(variables, normalize(seen, MEAN, STD), train=False)
        wanted = both(logits, labels)
        for name in wanted:
            np.testing.assert_allclose(got[name][:, a], wanted[name], rtol=1e-5, atol=1e-5)


def test_the_first_view_is_the_plain_query(models):
    model, stacked = models
    images, labels = data()
    query = jax.jit(make_signals(model, MEAN, STD, 4, (IDENTITY,), both))
    plain = make_query(model, MEAN, STD, 4)(one(stacked, 0), jnp.asarray(images))
    logits = query(one(stacked, 0), images, labels)["logits"]
    np.testing.assert_array_equal(logits[:, 0], plain)


def test_jit_equals_eager_and_vmap_equals_a_loop(models):
    model, stacked = models
    images, labels = data()
    query = make_signals(model, MEAN, STD, 4, VIEWS, both)
    compiled = jax.jit(query)
    single = [compiled(one(stacked, k), images, labels) for k in range(2)]
    close(single[0], query(one(stacked, 0), images, labels))
    together = jax.jit(jax.vmap(query, in_axes=(0, None, None)))(stacked, images, labels)
    mapped = jax.jit(lambda s: jax.lax.map(lambda v: query(v, images, labels), s))(stacked)
    for k in range(2):
        close(one(together, k), single[k])
        close(one(mapped, k), single[k])
    assert not np.allclose(single[0]["phi"], single[1]["phi"])
    assert compiled._cache_size() == 1


def test_signals_are_taken_block_by_block(models):
    model, stacked = models
    images, labels = data()
    seen = []

    def signals_of(logits, labels):
        seen.append((logits.shape, labels.shape))
        return {"confidence": confidence(logits, labels)}

    got = jax.eval_shape(
        make_signals(model, MEAN, STD, 4, VIEWS, signals_of), one(stacked, 0), images, labels
    )
    assert set(seen) == {((4, CLASSES), (4,))}
    assert got["confidence"].shape == (N, 18)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_exports_for_accelerators(models, platform):
    model, stacked = models
    query = jax.jit(jax.vmap(make_signals(model, MEAN, STD, 4, VIEWS, both), in_axes=(0, None, None)))
    images, labels = data()
    exported = jax.export.export(query, platforms=[platform])(stacked, images, labels)
    assert exported.platforms == (platform,)


def test_logits_are_read_in_full_precision(models):
    model, stacked = models
    images, labels = data()
    query = make_signals(model, MEAN, STD, 4, VIEWS, both)
    with jax.default_matmul_precision("bfloat16"):
        text = jax.jit(query).lower(one(stacked, 0), images, labels).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("HIGHEST" in line for line in products)
