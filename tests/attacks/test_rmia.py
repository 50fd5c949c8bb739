"""RMIA against hand values, a dense twin, and targets that know nothing."""

import inspect

import jaxtyping
import numpy as np
import pytest

from mu_jax.attacks import pairs, rmia
from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.attacks.rmia import leave_one_out_rmia, rmia_scores, search_offline_a
from mu_jax.config import InputError
from mu_jax.evaluation.roc import auc


def dense(ratio, bar, index, vote):
    """Every pair, from the definition; arrays [N, A] and [Z, A]."""
    scores, units = np.zeros(len(ratio)), ratio.shape[1] if vote == "mean" else 1
    for i, x in enumerate(ratio):
        others = [b for j, b in enumerate(bar) if index is None or index[j] != i]
        above = [np.sum(x > b) if vote == "mean" else np.sum(x > b) > x.size / 2 for b in others]
        scores[i] = sum(above) / (units * len(others))
    return scores


def typical(prob, member, mode, a):
    """p(x) from the definition; prob [K, N, A] and member [K, N]."""
    prob, out = np.asarray(prob, np.float64), np.empty(prob.shape[1:])
    for n in range(out.shape[0]):
        outside = prob[~member[:, n], n].mean(axis=0)
        if mode == "online":
            out[n] = (prob[member[:, n], n].mean(axis=0) + outside) / 2
        else:
            out[n] = ((1 + a) * outside + (1 - a)) / 2
    return out


def halves(models, examples, seed=0):
    return np.random.default_rng(seed).random((models, examples)).argsort(axis=0) < models // 2


def case(models=6, examples=40, size=25, views=None, seed=0):
    """Positional arguments of `rmia_scores`, drawn at random, float32."""
    rng = np.random.default_rng(seed)
    tail = () if views is None else (views,)
    draw = lambda *shape: rng.random((*shape, *tail), dtype=np.float32)  # noqa: E731
    return [
        draw(examples),
        draw(models, examples),
        halves(models, examples, seed),
        draw(size),
        draw(models, size),
    ]


def wide(array):
    return np.asarray(array, np.float64)[..., None]


def test_hand_values():
    reference, member = np.array([[0.5, 0.25], [0.25, 0.25]]), np.array([[True, False], [False, True]])
    # p(x) = 3/8 and 1/4, so ratios 2 and 1; p(z) = 1/2, so ratios 1, 1/2, 1/4, and γ times that 2, 1, 1/2.
    population, known = np.array([0.5, 0.25, 0.125]), np.full((2, 3), 0.5)
    got = rmia_scores(np.array([0.75, 0.25]), reference, member, population, known, mode="online")
    np.testing.assert_array_equal(got, [2 / 3, 1 / 3])  # strictly greater: 2 > 2 and 1 > 1 do not count
    # Offline with a = ½: p(x) = (1.5·¼ + ½)/2 = 7/16 for both; p(z) = (1.5·½ + ½)/2 = 5/8.
    got = rmia_scores(
        np.array([0.75, 0.25]), reference, member, population, known, mode="offline", offline_a=0.5
    )
    # ratios 12/7 = 1.71 and 4/7 = 0.57 against twice 0.8, 0.4, 0.2
    np.testing.assert_array_equal(got, [1, 1 / 3])
    assert got.dtype == np.float64


def test_the_majority_is_strict():
    # Ratios are the target's probabilities: every reference says ½ everywhere, and so p = ½; γ = 1.
    reference, member = np.full((2, 1, 4), 0.5), np.array([[True], [False]])
    target = np.array([[0.9, 0.9, 0.1, 0.1]])
    population = np.array([[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.05, 0.5]])
    args = (target, reference, member, population, np.full((2, 2, 4), 0.5))
    got = rmia_scores(*args, mode="online", gamma=1.0)
    np.testing.assert_array_equal(got, [0.5])  # 2 of 4 is no majority, 3 of 4 is
    got = rmia_scores(*args, mode="online", gamma=1.0, vote="mean")
    np.testing.assert_array_equal(got, [5 / 8])


@pytest.mark.parametrize("vote", ["majority", "mean"])
@pytest.mark.parametrize("views", [None, 1, 2, 3])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_equals_the_dense_twin(mode, known, views, vote, monkeypatch):
    # Small blocks, so that there are several and the last is not full.
    monkeypatch.setattr(rmia, "SUM_BLOCK", (3, 7))
    monkeypatch.setattr(pairs, "VOTE_BLOCK", (6, 10))
    target, reference, member, population, z_reference = args = case(views=views)
    copies = [array.copy() for array in args]
    index = np.full(25, -1)
    index[::3] = np.random.default_rng(1).permutation(40)[:9]
    index[1] = index[0]  # an example may stand in the population twice
    z_member = halves(6, 25, 3) if known else None
    for gamma, a, where in [(1.0, 0.3, None), (1.5, 0.0, index), (0.7, 1.0, index)]:
        options = {"mode": mode, "gamma": gamma, "offline_a": a, "vote": vote}
        got = rmia_scores(*args, population_member=z_member, population_index=where, **options)
        x, r, z, zr = [
            wide(p) if views is None else np.float64(p) for p in (target, reference, population, z_reference)
        ]
        ratio = x / typical(r, member, mode, a)
        if known:
            bar = gamma * (z / typical(zr, z_member, mode, a))
        elif mode == "online":
            bar = gamma * (z / zr.mean(axis=0))
        else:
            bar = gamma * (z / ((1 + a) * zr.mean(axis=0) + (1 - a)) * 2)
        np.testing.assert_array_equal(got, dense(ratio, bar, where, vote))
        assert len(np.unique(got)) > 5
    nobody = rmia_scores(*args, population_member=np.zeros((6, 25), bool), mode=mode)
    np.testing.assert_array_equal(nobody, rmia_scores(*args, mode=mode))
    for array, copy in zip(args, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("views", [1, 4])
def test_ties_are_those_of_the_dense_twin(views):
    rng = np.random.default_rng(0)
    # Few values, exact in binary, so that ratios tie in all ways.
    draw = lambda *shape: rng.choice([0.0, 0.25, 0.5, 1.0], (*shape, views))  # noqa: E731
    args = [draw(80), draw(8, 80), halves(8, 80), draw(50), draw(8, 50)]
    got = rmia_scores(*args, mode="offline", offline_a=0.5)
    target, reference, member, population, z_reference = args
    ratio = target / typical(reference, member, "offline", 0.5)
    bar = 2 * (population / ((1.5 * z_reference.mean(axis=0) + 0.5) / 2))
    assert np.mean(ratio[:, None] == bar) > 0.05
    np.testing.assert_array_equal(got, dense(ratio, bar, None, "majority"))


def test_no_example_meets_itself():
    target, reference, member, _, _ = case()
    outside = np.arange(5, 30)
    args = (target, reference, member, target[outside], reference[:, outside])
    options = {"population_member": member[:, outside], "mode": "online", "gamma": 0.5}
    with_itself = rmia_scores(*args, **options)
    got = rmia_scores(*args, population_index=outside, **options)
    # With γ < 1 each example dominates itself, and so its pair counts among 25.
    np.testing.assert_allclose(got[outside], (with_itself[outside] * 25 - 1) / 24, rtol=1e-12)
    rest = np.setdiff1d(np.arange(40), outside)
    np.testing.assert_array_equal(got[rest], with_itself[rest])


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_constant_factor_on_the_target_cancels(mode):
    target, reference, member, population, z_reference = case(views=3)
    want = rmia_scores(target, reference, member, population, z_reference, mode=mode)
    for factor in (0.25, 0.3):
        got = rmia_scores(
            np.float64(target) * factor,
            reference,
            member,
            np.float64(population) * factor,
            z_reference,
            mode=mode,
        )
        np.testing.assert_array_equal(got, want)


def test_probabilities_of_zero_are_survived():
    zero, member = np.zeros((2, 3)), np.array([[True] * 3, [False] * 3])
    target = np.array([0.0, 1e-300, 1.0])
    got = rmia_scores(target, zero, member, np.array([0.0, 0.5]), np.array([[0.0, 0.5]] * 2), mode="online")
    np.testing.assert_array_equal(got, [0, 0.5, 1])  # 0/0 exceeds nothing; next to nothing exceeds 0


def test_memory_maps_and_jax_arrays(tmp_path):
    args = case(views=2)
    want = rmia_scores(*args, mode="online")
    mapped = []
    for i, array in enumerate(args):
        np.save(tmp_path / f"{i}.npy", array)
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    np.testing.assert_array_equal(rmia_scores(*mapped, mode="online"), want)
    pool, member = mapped[1], mapped[2]
    np.testing.assert_array_equal(
        leave_one_out_rmia(pool, member, mode="online"), leave_one_out_rmia(args[1], args[2], mode="online")
    )


@pytest.mark.parametrize("vote", ["majority", "mean"])
@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("mode", ["online", "offline"])
def test_leave_one_out_equals_the_slow_twin(mode, views, vote):
    tail = () if views is None else (views,)
    prob = np.random.default_rng(0).random((8, 30, *tail), dtype=np.float32)
    member = halves(8, 30)
    want = slow_leave_one_out(prob, member, mode, 1.3, 0.4, vote)
    options = {"mode": mode, "gamma": 1.3, "offline_a": 0.4, "vote": vote}
    np.testing.assert_array_equal(leave_one_out_rmia(prob, member, **options), want)
    np.testing.assert_array_equal(leave_one_out_rmia(prob, member, targets=[5, 2], **options), want[[5, 2]])


def slow_leave_one_out(prob, member, mode, gamma, a, vote="majority"):
    prob = np.float64(prob).reshape(*prob.shape[:2], -1)
    opposite, rows = opposite_models(member), []
    for t in range(len(prob)):
        known = np.empty(prob.shape[1:])
        for n in range(prob.shape[1]):
            stays = [k for k in range(len(prob)) if k not in (t, opposite[t, n])]
            known[n] = typical(prob[stays, n : n + 1], member[stays, n : n + 1], mode, a)[0]
        ratio = prob[t] / np.maximum(known, rmia.SMALLEST)
        outside = np.flatnonzero(~member[t])
        rows.append(dense(ratio, gamma * ratio[outside], outside, vote))
    return np.array(rows)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_leave_one_out_keeps_the_digits_of_small_probabilities(mode):
    rng = np.random.default_rng(0)
    # Taking a 1 out of a sum of 1 and 1e-30 must leave 1e-30: sums are over magnitudes of all kinds.
    prob = (10.0 ** -rng.uniform(0, 37, (6, 40))).astype(np.float32)
    prob[rng.random((6, 40)) < 0.3] = 1
    member = halves(6, 40)
    got = leave_one_out_rmia(prob, member, mode=mode, offline_a=1.0)
    np.testing.assert_array_equal(got, slow_leave_one_out(prob, member, mode, 2.0, 1.0))


def test_leave_one_out_equals_the_plain_scores_in_a_pool_of_pairs():
    half = np.random.default_rng(0).random((4, 60)) < 0.5
    member = np.stack([half, ~half], axis=1).reshape(8, 60)
    prob = np.random.default_rng(1).random((8, 60), dtype=np.float32)
    outside, rest = np.flatnonzero(~member[2]), [0, 1, 4, 5, 6, 7]
    want = rmia_scores(
        prob[2],
        prob[rest],
        member[rest],
        prob[2][outside],
        prob[rest][:, outside],
        population_member=member[rest][:, outside],
        population_index=outside,
        mode="online",
    )
    np.testing.assert_array_equal(leave_one_out_rmia(prob, member, mode="online", targets=[2])[0], want)


def pool_of_a_target_that_knows_nothing(models, examples, seed):
    """Probabilities that rise with membership, but for model 0, whose membership is a mere label."""
    rng = np.random.default_rng([seed, 1])  # not the stream of `halves`, which the label is made of
    member = halves(models, examples, seed)
    knows = member.copy()
    knows[0] = rng.random(examples) < 0.5
    phi = rng.normal(size=examples) + 4 * knows + 0.3 * rng.normal(size=(models, examples))
    return (1 / (1 + np.exp(-phi))).astype(np.float32), member


@pytest.mark.parametrize("mode", ["online", "offline"])
@pytest.mark.parametrize("models", [8, 16, 32])
def test_a_target_that_knows_nothing_gives_one_half(models, mode):
    areas = []
    for seed in range(30):
        prob, member = pool_of_a_target_that_knows_nothing(models, 4000, seed)
        scores = leave_one_out_rmia(prob, member, mode=mode, gamma=1.2, targets=[0])[0]
        areas.append(auc(scores, member[0]))
    error = np.std(areas, ddof=1) / np.sqrt(len(areas))
    assert error < 0.003
    assert abs(np.mean(areas) - 0.5) < 4 * error


def test_the_plain_mean_over_references_leaks():
    areas = []
    for seed in range(30):
        prob, member = pool_of_a_target_that_knows_nothing(8, 1000, seed)
        ratio = prob[0] / prob[1:].mean(axis=0)
        outside = np.flatnonzero(~member[0])
        areas.append(auc(dense_share(ratio, 1.2 * ratio[outside]), member[0]))
    # 3 of 7 references trained on a member, 4 of 7 on a non-member.
    assert 0.55 < np.mean(areas) < 0.65


def dense_share(ratio, bar):
    return np.mean(ratio[:, None] > bar, axis=1)


def test_members_are_found():
    prob, member = pool_of_a_target_that_knows_nothing(16, 500, 0)
    scores = leave_one_out_rmia(prob, member, mode="online")
    assert scores.shape == (16, 500)
    assert min(auc(s, m) for s, m in zip(scores[1:], member[1:], strict=True)) > 0.85


def test_the_search_finds_the_a_of_the_best_attack():
    rng = np.random.default_rng(0)
    member = halves(8, 400)
    # Members' probabilities are a·p_out + (1 − a) with a = 0.2 for all examples.
    p_out = rng.uniform(0.02, 0.9, 400)
    prob = np.where(member, 0.2 * p_out + 0.8, p_out) * rng.uniform(0.8, 1, (8, 400))
    prob = prob.astype(np.float32)
    grid = (0.0, 0.2, 0.5, 1.0)
    areas = []
    for a in grid:
        scores = leave_one_out_rmia(prob, member, mode="offline", gamma=1.2, offline_a=a, targets=[1, 6])
        areas.append(np.mean([auc(s, member[t]) for s, t in zip(scores, [1, 6], strict=True)]))
    assert len(set(areas)) > 1
    got = search_offline_a(prob, member, gamma=1.2, grid=grid, models=[1, 6])
    assert got == grid[int(np.argmax(areas))]
    assert search_offline_a(prob, member, gamma=1.2) in rmia.GRID
    # Nothing to choose between: the smallest.
    assert search_offline_a(np.full((8, 400), 0.5, np.float32), member, grid=(0.7, 0.9)) == 0.7


def replaced(position, value):
    args = case()
    args[position] = value
    return args


def with_entry(position, place, value):
    args = case()
    args[position][place] = value
    return args


MODEL_0 = case()


@pytest.mark.parametrize(
    ("args", "options", "match"),
    [
        (case(), {"mode": "both"}, "mode is 'both'"),
        (case(), {"vote": "most"}, "vote is 'most'"),
        (case(), {"gamma": 0.0}, "gamma is 0.0"),
        (case(), {"gamma": np.nan}, "gamma is nan"),
        (case(), {"offline_a": 1.1}, "offline_a is 1.1"),
        (with_entry(0, 3, -0.1), {}, "1 of 40 entries of target_prob are negative"),
        (with_entry(0, 3, np.nan), {}, "target_prob are negative or not finite"),
        (with_entry(3, 3, np.inf), {}, "population_target_prob are negative or not finite"),
        (with_entry(1, (4, 3), np.nan), {}, r"reference_prob has entries of models \[4\]"),
        (with_entry(1, (2, 3), -1e-9), {}, r"reference_prob has entries of models \[2\]"),
        (with_entry(4, (5, 3), np.inf), {}, r"population_reference_prob has entries of models \[5\]"),
        (replaced(0, np.ones(39)), {}, r"target_prob has shape \(39,\)"),
        (replaced(0, np.ones((40, 2))), {}, r"target_prob has shape \(40, 2\)"),
        (replaced(2, np.ones((6, 39), bool)), {}, r"membership \(6, 39\)"),
        (replaced(2, np.ones((6, 40))), {}, "of float64"),
        (replaced(4, np.ones((5, 25))), {}, "expected the same references"),
        (case(), {"population_member": np.zeros((6, 24), bool)}, r"membership \(6, 24\)"),
        (
            with_entry(2, (slice(None), 7), True),
            {},
            "1 of 40 examples of the reference set, 7 the first, have no OUT",
        ),
        (with_entry(2, (slice(None), 7), False), {}, "7 the first, have no IN reference"),
        (with_entry(2, (slice(None), 7), True), {"mode": "offline"}, "no OUT reference"),
        (
            case(),
            {"population_member": np.eye(6, 25, dtype=bool)},
            "population set, 6 the first, have no IN reference",
        ),
        (case(), {"population_index": np.zeros(24, int)}, r"population_index has shape \(24,\)"),
        (case(), {"population_index": np.zeros(25)}, "dtype float64"),
        (case(), {"population_index": np.full(25, 40)}, "runs from 40 to 40, but expected -1 to 39"),
        (case(), {"population_index": np.full(25, -2)}, "runs from -2"),
        (case(), {"population_index": np.full(25, 3)}, "example 3 is all of the population"),
        (
            [MODEL_0[1][2], *MODEL_0[1:3], MODEL_0[4][2], MODEL_0[4]],
            {},
            "reference 2 gives every probability",
        ),
        (case(2, 3, 4, 256), {}, "there are 256 augmentations"),
    ],
)
def test_bad_input_is_refused(args, options, match):
    options = {"mode": "online", **options}
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        rmia_scores(*args, **options)
    # The test run checks shapes before the function can: without that, its own words.
    with pytest.raises(InputError, match=match):
        inspect.unwrap(rmia_scores)(*args, **options)


@pytest.mark.parametrize("attack", [leave_one_out_rmia, search_offline_a])
def test_bad_pools_are_refused(attack):
    options = {"mode": "offline"} if attack is leave_one_out_rmia else {}
    name = "targets" if attack is leave_one_out_rmia else "models"
    prob, member = case(8)[1:3]
    for chosen in ([8], [-1], []):
        with pytest.raises(InputError, match="expected models from 0 to 7"):
            attack(prob, member, **options, **{name: chosen})
    with pytest.raises(InputError, match="40 of 40 examples, 0 the first, have no OUT references"):
        attack(case(2)[1], case(2)[2], **options)
    with pytest.raises(InputError, match="models \\[3\\]"):
        attack(np.where(np.arange(8)[:, None] == 3, np.nan, prob), member, **options)
    everything = member.copy()
    everything[0], everything[1:3] = True, False
    everything[3:5] = True
    everything[5:] = False
    with pytest.raises(InputError, match="model 0 trained on all 40 examples"):
        attack(prob, everything, **options)
    everything[0, 0] = False
    with pytest.raises(InputError, match="model 0 has one non-member"):
        attack(prob, everything, **options)
    with pytest.raises((InputError, jaxtyping.TypeCheckError)):
        attack(prob, member[:, 1:], **options)


def test_bad_settings_of_the_search_are_refused():
    prob, member = case(8)[1:3]
    with pytest.raises(InputError, match="grid is empty"):
        search_offline_a(prob, member, grid=())
    with pytest.raises(InputError, match="offline_a is 2.0"):
        search_offline_a(prob, member, grid=(0.5, 2.0))
    member[0] = False
    member[1:5] = True
    member[5:] = False
    with pytest.raises(InputError, match="model 0 trained on none"):
        search_offline_a(prob, member, models=[0])


def test_a_drawn_population_is_part_of_the_whole_one_and_the_seed_decides_which():
    rng = np.random.default_rng(0)
    member = rng.random((8, 300)).argsort(axis=0) < 4
    prob = rng.uniform(0.05, 1, (8, 300))
    whole = leave_one_out_rmia(prob, member, mode="online")
    np.testing.assert_array_equal(leave_one_out_rmia(prob, member, mode="online", population=1000), whole)
    drawn, again, other = (
        leave_one_out_rmia(prob, member, mode="online", population=60, seed=seed) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    assert np.any(drawn != other)
    # A share of 60 of some 150, each pair as likely as another.
    assert 0 < np.abs(drawn - whole).max() < 5 * np.sqrt(0.25 / 60)
    assert np.abs(np.mean(drawn - whole)) < 0.05
    with pytest.raises(InputError, match="population is 1, but expected 0 .* or 2"):
        leave_one_out_rmia(prob, member, mode="online", population=1)
