"""The cost of deletions against enumeration of every request, simulation, and the paper's limits."""

import itertools
import math
import time
import tracemalloc
from fractions import Fraction

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.unlearning.sisa import cost
from mu_jax.unlearning.sisa.cost import even_sizes, expected_cost, simulate_cost, speed_up_table

TINY = [(4, 2, 1), (6, 2, 3), (7, 2, 3), (7, 3, 2), (5, 1, 4), (7, 1, 3), (7, 7, 1), (8, 3, 1)]
"""Examples, shards and slices, most with remainders."""


@pytest.fixture
def unchecked():
    """Runs without the annotations' checks, as users have them: there only the function's own words refuse input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def split(items, parts):
    small, larger = divmod(len(items), parts)
    sizes = [small + 1] * larger + [small] * (parts - larger)
    ends = list(itertools.accumulate(sizes))
    return [items[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def carried_out(examples, shards, slices, requests, batched):
    """The cost and that of a single model, by deleting from lists and visiting every example of every step."""
    ensemble = [split(shard, slices) for shard in split(list(range(examples)), shards)]
    epochs = Fraction(2, slices + 1)
    spent, single = Fraction(0), 0
    for batch in [requests] if batched else [[request] for request in requests]:
        for shard in ensemble:
            struck = [i for i, held in enumerate(shard) if set(held) & set(batch)]
            for held in shard:
                held[:] = [example for example in held if example not in batch]
            if struck:
                for step in range(struck[0], slices):
                    for held in shard[: step + 1]:
                        for _ in held:
                            spent += epochs
        single += sum(len(held) for shard in ensemble for held in shard)
    return spent, single


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("examples", "shards", "slices"), TINY)
def test_expected_cost_is_the_mean_over_all_requests(examples, shards, slices, batched):
    for requests in range(1, 4):
        # Every order too, where requests come one by one: that it does not matter is for this to show.
        choose = itertools.combinations if batched else itertools.permutations
        every = [list(chosen) for chosen in choose(range(examples), requests)]
        spent, single = zip(
            *(carried_out(examples, shards, slices, one, batched) for one in every), strict=True
        )
        mean = sum(spent) / len(spent)
        got = expected_cost(examples, shards, slices, requests, batched=batched)
        assert got["examples_retrained"] == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
        assert len(set(single)) == 1
        speed_up = float(single[0] / mean) if mean else math.inf
        assert got["speed_up"] == pytest.approx(speed_up, rel=1e-12)
        simulated = simulate_cost(examples, shards, slices, np.array(every), batched=batched)
        assert simulated["examples_retrained"] == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
        spread = np.std(np.array(spent, float), ddof=1) / math.sqrt(len(spent))
        assert simulated["examples_retrained_error"] == pytest.approx(spread, abs=1e-12)


def test_by_hand():
    # Two shards of two: the struck one keeps one example, and three are left in all.
    assert expected_cost(4, 2, 1, 1) == {"examples_retrained": 1.0, "speed_up": 3.0}
    # One shard, two slices of two, 2/3 of the epochs each. First slice struck: 1 + 3 examples; second: 3.
    assert expected_cost(4, 1, 2, 1)["examples_retrained"] == pytest.approx((8 / 3 + 2) / 2)
    assert expected_cost(4, 1, 2, 1)["speed_up"] == pytest.approx(9 / 7)
    first, last = (simulate_cost(4, 1, 2, np.array([position])) for position in (1, 2))
    assert first["examples_retrained"] == pytest.approx(8 / 3) and last[
        "examples_retrained"
    ] == pytest.approx(2)
    assert last["speed_up"] == pytest.approx(1.5) and last["speed_up_error"] == 0
    # Both of slice one: together, nothing is left of step 1 and 2 examples of step 2; one by one, 1 + 3 and 0 + 2.
    both = np.array([0, 1])
    assert simulate_cost(4, 1, 2, both)["examples_retrained"] == pytest.approx(2 / 3 * 2)
    assert simulate_cost(4, 1, 2, both, batched=False)["examples_retrained"] == pytest.approx(2 / 3 * 6)
    # A shard of one example each: whoever leaves takes the whole shard along.
    assert expected_cost(5, 5, 1, 2) == {"examples_retrained": 0.0, "speed_up": math.inf}
    assert simulate_cost(5, 5, 1, np.array([2]))["speed_up"] == math.inf


@pytest.mark.parametrize(("requests", "speed_up"), [(8, 4.23), (18, 2.24), (39, 1.42)])
def test_the_figures_of_the_paper_s_setting(requests, speed_up):
    shards, slices = 20, 50
    steps = np.arange(1, slices + 1)
    combined = 2 / (slices * (slices + 1)) * np.sum(steps * (1 - (1 - steps / (slices * shards)) ** requests))
    got = expected_cost(10_000_000, shards, slices, requests)["speed_up"]
    assert got == pytest.approx(1 / combined, rel=1e-5)
    assert round(got, 2) == round(1 / combined, 2) == speed_up
    # The combined form is the mean, over how many requests a shard gets, of the form for requests to one shard.
    mean = 0.0
    for k in range(requests + 1):
        chance = math.comb(requests, k) * (1 / shards) ** k * (1 - 1 / shards) ** (requests - k)
        mean += chance * 2 / (slices * (slices + 1)) * np.sum(steps * (1 - (1 - steps / slices) ** k))
    assert 1 / mean == pytest.approx(1 / combined, rel=1e-12)


def test_the_paper_s_forms_are_the_limits_of_many_examples():
    n = 10_000_000
    for shards, requests in ((1, 3), (20, 1), (20, 500), (1000, 5000)):
        batched = n * (1 - (1 - 1 / shards) ** requests) - requests
        assert expected_cost(n, shards, 1, requests)["examples_retrained"] == pytest.approx(batched, rel=1e-3)
        sequential = (n / shards + 1 / (2 * shards) - 1) * requests - requests**2 / (2 * shards)
        got = expected_cost(n, shards, 1, requests, batched=False)["examples_retrained"]
        assert got == pytest.approx(sequential, rel=1e-3)
    for slices in (1, 2, 50):
        got = expected_cost(n, 10, slices, 1)["examples_retrained"]
        assert got == pytest.approx(n / 10 * (2 / 3 + 1 / (3 * slices)), rel=1e-4)


def test_limits():
    n = 1_000_000
    # One request: slices save at most half as much again, shards all but their own.
    assert expected_cost(n, 1, 5000, 1)["speed_up"] == pytest.approx(1.5, abs=1e-3)
    assert expected_cost(n, 40, 1, 1)["speed_up"] == pytest.approx(40, rel=1e-3)
    # The last example of a shard is the cheapest: one step of 2/(R + 1) of the epochs.
    assert simulate_cost(n, 10, 99, np.array([n - 1]))["speed_up"] == pytest.approx(10 * 100 / 2, rel=1e-3)
    # Without shards and slices nothing is saved, exactly, and once every prefix is struck neither.
    for batched in (True, False):
        assert expected_cost(1000, 1, 1, 7, batched=batched)["speed_up"] == pytest.approx(1, rel=1e-14)
    assert expected_cost(n, 10, 10, n // 2)["speed_up"] == pytest.approx(1, rel=1e-12)
    # One by one, the speed-up does not depend on how many come.
    for requests in (1, 50, 999):
        got = expected_cost(1000, 4, 5, requests, batched=False)["speed_up"]
        assert got == pytest.approx(expected_cost(1000, 4, 5, 1)["speed_up"], rel=1e-12)


GRID = [
    (examples, shards, slices, requests)
    for examples, shards, slices in ((103, 5, 5), (103, 1, 7), (100, 10, 1), (1007, 20, 50), (61, 20, 3))
    for requests in (1, 8, 40)
]


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("examples", "shards", "slices", "requests"), GRID)
def test_simulation_meets_the_expectation(examples, shards, slices, requests, batched):
    want = expected_cost(examples, shards, slices, requests, batched=batched)
    got = simulate_cost(examples, shards, slices, requests, batched=batched, runs=400, seed=1)
    for name in ("examples_retrained", "speed_up"):
        error = got[name + "_error"]
        assert got[name] == pytest.approx(want[name], abs=4 * error + 1e-9 * want[name])
        assert error < 0.1 * got[name]


def test_the_simulation_tells_the_exact_forms_from_the_paper_s():
    simulated = simulate_cost(20, 4, 1, 5, runs=4000)
    error = simulated["examples_retrained_error"]
    assert abs(simulated["examples_retrained"] - expected_cost(20, 4, 1, 5)["examples_retrained"]) < 4 * error
    assert abs(simulated["examples_retrained"] - (20 * (1 - 0.75**5) - 5)) > 8 * error
    simulated = simulate_cost(12, 3, 1, 8, batched=False, runs=4000)
    error = simulated["examples_retrained_error"]
    want = expected_cost(12, 3, 1, 8, batched=False)["examples_retrained"]
    assert abs(simulated["examples_retrained"] - want) < 4 * error
    assert abs(simulated["examples_retrained"] - ((4 + 1 / 6 - 1) * 8 - 64 / 6)) > 8 * error


def test_errors_are_those_of_the_mean():
    # Means of 200 repetitions spread as their errors say.
    one_by_one = [simulate_cost(103, 5, 5, 4, runs=30, seed=seed) for seed in range(200)]
    for name in ("examples_retrained", "speed_up"):
        spread = np.std([row[name] for row in one_by_one])
        assert np.mean([row[name + "_error"] for row in one_by_one]) == pytest.approx(spread, rel=0.2)


def test_seed():
    assert simulate_cost(103, 5, 5, 4, seed=3) == simulate_cost(103, 5, 5, 4, seed=3)
    assert simulate_cost(103, 5, 5, 4, seed=3) != simulate_cost(103, 5, 5, 4, seed=4)


def test_uneven_requests_cost_less():
    # All in the last shard's last slice: one step of one shard.
    got = simulate_cost(1000, 10, 10, np.arange(990, 1000))
    assert got["examples_retrained"] == pytest.approx(2 / 11 * 90)
    assert got["examples_retrained"] < expected_cost(1000, 10, 10, 10)["examples_retrained"] / 10


def test_monotone():
    def speed_up(shards, slices, requests):
        return expected_cost(100_000, shards, slices, requests)["speed_up"]

    for values in (
        [speed_up(20, 10, k) for k in (1, 2, 5, 20, 100, 1000)],
        [speed_up(s, 10, 20) for s in (500, 100, 20, 5, 1)],
        [speed_up(20, r, 20) for r in (100, 25, 10, 2, 1)],
    ):
        assert np.all(np.diff(values) < 0)
    for requests in (2, 20, 200):
        both = [
            expected_cost(100_000, 20, 10, requests, batched=b)["examples_retrained"] for b in (True, False)
        ]
        assert both[0] < both[1]


def test_ten_million_examples_take_little_time_and_memory():
    tracemalloc.start()
    begin = time.perf_counter()
    got = simulate_cost(10_000_000, 1000, 50, 5000, runs=5)
    seconds, (_, peak) = time.perf_counter() - begin, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 2 and peak < 20e6  # a number an example would be 80 MB
    want = expected_cost(10_000_000, 1000, 50, 5000)["examples_retrained"]
    assert got["examples_retrained"] == pytest.approx(want, abs=5 * got["examples_retrained_error"])


def test_table():
    rows = speed_up_table(10_000_000, (20, 1000), (1, 50), (1, 100, 10_000), batched=True)
    assert len(rows) == 12
    assert [(row["shards"], row["slices"], row["requests"]) for row in rows[:4]] == [
        (20, 1, 1),
        (20, 1, 100),
        (20, 1, 10_000),
        (20, 50, 1),
    ]
    want = expected_cost(10_000_000, 1000, 50, 100)
    assert rows[10] == {"examples": 10_000_000, "shards": 1000, "slices": 50, "requests": 100} | want
    assert speed_up_table(100, (2,), (5,), (3,), batched=False)[0]["speed_up"] == pytest.approx(
        expected_cost(100, 2, 5, 3, batched=False)["speed_up"]
    )


def test_chances_keep_their_precision():
    for n, k, m in ((40, 7, 11), (40, 11, 7), (1000, 3, 1), (300, 150, 140)):
        exact = Fraction(math.comb(n - m, k), math.comb(n, k))
        got = math.expm1(cost._log_chance_untouched(n, k, m))
        assert got == pytest.approx(float(exact - 1), rel=1e-12)
    assert cost._log_chance_untouched(10, 5, 6) == -math.inf
    assert cost._log_chance_untouched(10_000_000, 1, 7) == pytest.approx(-7e-7, rel=1e-6)


@pytest.mark.parametrize(("total", "parts"), [(10, 3), (9, 3), (7, 7), (103, 10)])
def test_even_sizes(total, parts):
    assert even_sizes(total, parts).tolist() == [
        len(part) for part in np.array_split(np.arange(total), parts)
    ]


@pytest.mark.parametrize(
    ("sizes", "match"),
    [
        ((0, 1, 1, 1), "examples is 0, but expected a whole number of at least 1"),
        ((10, 0, 1, 1), "shards is 0.*without shards is 1 shard"),
        ((10, 2, -1, 1), "slices is -1.*without slices 1 slice"),
        ((10, 4, 3, 1), "4 shards of 3 slices .* 10 examples.*fewer shards or slices"),
        ((10, 2, 2, 0), "requests is 0, but expected a whole number of at least 1"),
        ((10, 2, 2, 10), "requests is 10 of 10 examples.*ask for fewer"),
    ],
)
def test_bad_sizes_are_refused(sizes, match):
    for function in (expected_cost, simulate_cost):
        with pytest.raises(InputError, match=match):
            function(*sizes)


def test_bad_types_are_refused(unchecked):
    for examples in (10.0, "10", True, None):
        with pytest.raises(InputError, match="examples is .* whole number"):
            expected_cost(examples, 2, 2, 1)
    for function in (expected_cost, simulate_cost):
        with pytest.raises(InputError, match="requests is 1.5, but expected a whole number"):
            function(10, 2, 2, 1.5)
    with pytest.raises(InputError, match="runs is 1, but expected a whole number of at least 2"):
        simulate_cost(10, 2, 2, 1, runs=1)
    with pytest.raises(InputError, match="4 shards of 3 slices"):
        speed_up_table(10, (2, 4), (3,), (1,))
    sizes = 10_000_000, 20, 50, 5000
    for batched in (True, False):  # 10⁷ squared is more than an int32 holds
        got = expected_cost(*(np.int32(size) for size in sizes), batched=batched)
        assert got == expected_cost(*sizes, batched=batched)


@pytest.mark.parametrize(
    ("requests", "match"),
    [
        (np.array([0, 10]), "run from 0 to 10, but expected positions from 0 to 9"),
        (np.array([-1, 3]), "run from -1 to 3"),
        (np.array([[1, 2, 3], [4, 7, 4]]), "position 4 is requested twice in a run"),
        (np.arange(10), "K from 1 to 9, fewer than the 10 examples"),
        (np.zeros(0, int), r"shape \(0,\)"),
        (np.zeros((0, 3), int), r"shape \(0, 3\)"),
        (np.zeros((2, 2, 2), int), r"shape \(2, 2, 2\).*expected integers \[K\] or \[runs, K\]"),
        (np.array([0.5, 1.0]), "dtype float64, but expected integers"),
        (np.array([True, False]), "dtype bool, but expected integers"),
    ],
)
def test_bad_positions_are_refused(requests, match, unchecked):
    with pytest.raises(InputError, match=match):
        simulate_cost(10, 2, 2, requests)
