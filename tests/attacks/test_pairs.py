"""The counting of pairs: shares of work, ranks from either side, and threads inside threads."""

import threading

import numpy as np
import pytest

from mu_jax.attacks.pairs import _number_below, each, even_parts


@pytest.mark.parametrize(
    ("total", "most", "workers", "sizes"),
    [
        (10, 100, 2, [5, 5]),
        (10, 4, 2, [2, 3, 2, 3]),
        (10, 4, 1, [3, 3, 4]),
        (3, 1, 2, [1, 1, 1]),
        (1, 9, 8, [1]),
    ],
)
def test_parts_cover_everything_evenly_and_as_many_for_every_worker(total, most, workers, sizes):
    parts = even_parts(total, most, workers)
    assert [part.stop - part.start for part in parts] == sizes
    assert np.concatenate([np.arange(total)[part] for part in parts]).tolist() == list(range(total))


@pytest.mark.parametrize("ratios", [3, 40])
def test_ranks_are_the_same_from_either_side(ratios):
    rng = np.random.default_rng(ratios)
    # Whole numbers: many ties, which count as not below.
    ratio, bars = np.sort(rng.integers(0, 9, ratios)) * 1.0, np.sort(rng.integers(0, 9, 12)) * 1.0
    expected = [sum(bar < one for bar in bars) for one in ratio]
    assert _number_below(ratio, bars).tolist() == expected


def test_tasks_may_have_tasks_and_threads_are_kept():
    threads = set()

    def inner(_):
        threads.add(threading.current_thread())
        return 1

    def outer(_):
        return sum(each(inner, range(4), 2))

    assert each(outer, range(6), 2) == [4] * 6
    before = threading.active_count()
    each(inner, range(4), 2)
    assert threading.active_count() == before
