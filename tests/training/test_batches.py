import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.training.batches import batch_indices

sizes = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(size=sizes, batch=sizes, cut=st.integers(0, 30), count=st.integers(1, 30), seed=st.integers(0, 9))
def test_the_stream_does_not_depend_on_how_it_is_cut(size, batch, cut, count, seed):
    index = np.arange(100, 100 + size)
    whole = batch_indices(index, batch, 0, cut + count, (seed,))
    np.testing.assert_array_equal(whole[:cut], batch_indices(index, batch, 0, cut, (seed,)))
    np.testing.assert_array_equal(whole[cut:], batch_indices(index, batch, cut, count, (seed,)))
    assert whole.shape == (cut + count, batch)


@settings(deadline=None, max_examples=40)
@given(size=sizes, batch=sizes, epochs=st.integers(1, 5))
def test_each_epoch_shows_each_example_once(size, batch, epochs):
    index = np.random.default_rng(0).permutation(1000)[:size]
    steps = -(-epochs * size // batch)
    stream = batch_indices(index, batch, 0, steps, (3, 4)).ravel()
    for epoch in range(epochs):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == sorted(index)
    assert set(stream) <= set(index)


def test_epochs_and_seeds_differ():
    index = np.arange(50)
    first, second = batch_indices(index, 50, 0, 2, (1, 2))
    assert np.any(first != second)
    assert np.any(batch_indices(index, 50, 0, 1, (1, 2)) != batch_indices(index, 50, 0, 1, (1, 3)))
