"""Crops and mirroring against every image they may give, and normalisation by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare

from mu_jax.config import InputError
from mu_jax.data import augment, normalize

run = jax.jit(augment, static_argnames=("crop_padding", "flip"))


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, shape, dtype=np.uint8)


def possible(image: np.ndarray, padding: int, flip: bool) -> dict[bytes, int]:
    """Every crop of the padded image, then every mirrored one, by content: a slow twin of `augment`."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crops = [
        padded[row : row + height, column : column + width]
        for row in range(2 * padding + 1)
        for column in range(2 * padding + 1)
    ]
    if flip:
        crops += [crop[:, ::-1] for crop in crops]
    return {crop.tobytes(): i for i, crop in enumerate(crops)}


@pytest.mark.parametrize(("padding", "flip"), [(0, True), (2, False), (2, True)])
def test_all_outcomes_occur_equally_often_and_no_other(padding, flip):
    image = pixels(5, 4, 2)
    outcomes = possible(image, padding, flip)
    assert len(outcomes) == (2 * padding + 1) ** 2 * (1 + flip)
    batch = jnp.asarray(np.repeat(image[None], 5000, axis=0))
    result = np.asarray(run(batch, jax.random.key(3), crop_padding=padding, flip=flip))
    counts = np.zeros(len(outcomes))
    for output in result:
        counts[outcomes[output.tobytes()]] += 1  # a KeyError is an impossible image
    assert chisquare(counts).pvalue > 1e-4


def test_examples_of_a_batch_keep_their_places_and_are_drawn_independently():
    images = pixels(6, 6, 6, 3)
    keys = jax.random.split(jax.random.key(0), 300)
    results = jax.vmap(lambda key: run(jnp.asarray(images), key, crop_padding=1, flip=True))(keys)
    outcomes = [possible(image, 1, True) for image in images]
    draws = [[outcomes[i][out.tobytes()] for i, out in enumerate(batch)] for batch in np.asarray(results)]
    # Two independent draws among 18 agree with probability 1/18: 16.7 of 300, standard deviation 4.
    agree = np.array([[np.sum(a == b) for a in np.array(draws).T] for b in np.array(draws).T])
    assert agree[~np.eye(6, dtype=bool)].max() < 40


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_dtype_stays_and_jit_equals_eager(dtype):
    images = jnp.asarray(pixels(7, 8, 9, 3).astype(dtype))
    key = jax.random.key(1)
    eager = augment(images, key, crop_padding=3, flip=True)
    compiled = run(images, key, crop_padding=3, flip=True)
    assert eager.dtype == images.dtype
    assert eager.shape == images.shape
    np.testing.assert_array_equal(eager, compiled)


def test_key_decides():
    images = jnp.asarray(pixels(16, 8, 8, 1))
    first, again, other = (run(images, jax.random.key(seed), crop_padding=2, flip=True) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_vmap_over_keys_equals_a_loop():
    images = jnp.asarray(pixels(5, 8, 8, 3))
    keys = jax.random.split(jax.random.key(2), 4)

    def one(key):
        return run(images, key, crop_padding=2, flip=True)

    np.testing.assert_array_equal(jax.vmap(one)(keys), jnp.stack([one(key) for key in keys]))


def test_mirrored_twice_is_identity():
    images = jnp.asarray(pixels(32, 4, 6, 3))
    key = jax.random.key(4)
    once = run(images, key, crop_padding=0, flip=True)
    assert not np.array_equal(once, images)
    np.testing.assert_array_equal(run(once, key, crop_padding=0, flip=True), images)


def test_nothing_asked_for_changes_nothing():
    images = jnp.asarray(pixels(3, 4, 4, 1))
    assert augment(images, jax.random.key(0), crop_padding=0, flip=False) is images
    with pytest.raises(InputError, match="crop_padding is -1"):
        augment(images, jax.random.key(0), crop_padding=-1, flip=False)


def test_normalize_by_hand():
    images = jnp.asarray(np.array([0, 51, 255], np.uint8).reshape(1, 1, 1, 3))
    one = normalize(images, (0.5,), (0.25,))
    np.testing.assert_allclose(one.ravel(), [-2.0, -1.2, 2.0], rtol=1e-6)
    each = normalize(images, (0.0, 0.1, 0.5), (1.0, 0.5, 0.25))
    np.testing.assert_allclose(each.ravel(), [0.0, 0.2, 2.0], rtol=1e-6)
    assert one.dtype == jnp.float32
    compiled = jax.jit(lambda x: normalize(x, jnp.array([0.5]), jnp.array([0.25])))(images)
    np.testing.assert_allclose(compiled, one, rtol=1e-6)


def test_normalize_refuses_constants_that_do_not_fit_the_channels():
    with pytest.raises(InputError, match=r"data.std has 3 values for images of 1 channels"):
        normalize(jnp.zeros((1, 2, 2, 1), jnp.uint8), (0.5,), (0.2, 0.2, 0.2))
