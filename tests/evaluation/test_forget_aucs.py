"""FT, FR and RT AUC against the definition pair by pair, and on targets that know, half know or do not."""

import dataclasses

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation import forget_aucs as module
from mu_jax.evaluation.forget_aucs import forget_aucs

REFUSED = (InputError, jaxtyping.TypeCheckError)


def case(examples, models, seed, sizes, knows=()):
    """A target that was trained on the sets of `knows`, and a pool each of whose models saw half of the examples."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(examples)
    ends = np.cumsum(sizes)
    rows = {
        "retain": order[: ends[0]],
        "forget": order[ends[0] : ends[1]],
        "test": order[ends[1] : ends[2]],
    }
    member = rng.random((models, examples)).argsort(axis=0) < models // 2
    trained = np.isin(np.arange(examples), np.concatenate([order[:0], *(rows[name] for name in knows)]))
    every = np.concatenate([trained[None], member])
    phi = rng.normal(size=examples) + 3 * every + 0.3 * rng.normal(size=every.shape)
    prob = (1 / (1 + np.exp(-phi))).astype(np.float32)
    return (prob[0], prob[1:], member), rows


def slow_scores(target, reference, member, test, gamma):
    """Online RMIA of every example against the test set, from the definition."""
    target, reference = np.float64(target), np.float64(reference)
    ratio = [
        t / (reference[m, n].mean() / 2 + reference[~m, n].mean() / 2)
        for n, (t, m) in enumerate(zip(target, member.T, strict=True))
    ]
    return np.array([np.mean([r > gamma * ratio[z] for z in test if z != n]) for n, r in enumerate(ratio)])


def slow_auc(members, others):
    return np.mean([(m > o) + (m == o) / 2 for m in members for o in others])


@pytest.mark.parametrize("consecutive", [False, True])
@pytest.mark.parametrize("gamma", [1.1, 2.0])
def test_equals_the_definition_where_all_are_taken(gamma, consecutive):
    pool, rows = case(70, 6, 0, (20, 20, 20))
    if consecutive:
        rows = {"retain": np.arange(5, 25), "forget": np.arange(25, 45), "test": np.arange(45, 65)}
    # Uneven sides, where the mean over all references is not that of the two means.
    member = np.random.default_rng(1).random((6, 70)) < 0.3
    member[:2] = [[True], [False]]
    pool = (*pool[:2], member)
    copies = [array.copy() for array in pool]
    got = forget_aucs(*pool, **rows, gamma=gamma)
    scores = slow_scores(*pool, rows["test"], gamma)
    retain, forget, test = (scores[rows[name]] for name in ("retain", "forget", "test"))
    assert got.forget_vs_test == pytest.approx(slow_auc(forget, test), abs=1e-12)
    assert got.forget_vs_retain == pytest.approx(slow_auc(retain, forget), abs=1e-12)
    assert got.retain_vs_test == pytest.approx(slow_auc(retain, test), abs=1e-12)
    assert len({got.forget_vs_test, got.forget_vs_retain, got.retain_vs_test, 0.5, 0.0, 1.0}) == 6
    # Sets of one size are taken whole, so that no draw differs from another.
    assert got.forget_vs_test_sd == got.forget_vs_retain_sd == got.retain_vs_test_sd == 0
    for array, copy in zip(pool, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_draws_are_of_equal_sizes_without_repeats_and_their_own(monkeypatch):
    """Scores are replaced by places, so that the draws can be read off."""
    seen = []
    monkeypatch.setattr(module, "rmia_scores", lambda target, *_, **__: np.arange(len(target), dtype=float))

    def look(scores, is_member):
        seen.append((scores[is_member].astype(int), scores[~is_member].astype(int)))
        return len(seen) / 100

    monkeypatch.setattr(module, "auc", look)
    pool, rows = case(100, 4, 0, (50, 10, 30))
    got = forget_aucs(*pool, **rows, draws=4)
    assert len(seen) == 12
    pairs = [("forget", "test")] * 4 + [("retain", "forget")] * 4 + [("retain", "test")] * 4
    for (inside, outside), (members, others) in zip(seen, pairs, strict=True):
        size = min(len(rows[members]), len(rows[others]))
        assert len(np.unique(inside)) == len(inside) == len(outside) == len(np.unique(outside)) == size
        assert np.isin(inside, rows[members]).all() and np.isin(outside, rows[others]).all()
    assert len({tuple(sorted(outside)) for _, outside in seen[:4]}) == 4
    assert got.forget_vs_test == pytest.approx(0.025)
    assert got.forget_vs_test_sd == pytest.approx(np.std([1, 2, 3, 4], ddof=1) / 100)
    assert got.retain_vs_test == pytest.approx(0.105)


def test_the_seed_draws():
    pool, rows = case(300, 6, 0, (150, 40, 90), ["retain"])
    got = forget_aucs(*pool, **rows, seed=5)
    assert forget_aucs(*pool, **rows, seed=5) == got
    assert forget_aucs(*pool, **rows, seed=6) != got
    assert got.forget_vs_test_sd > 0
    # Each draw has its own stream: more of them leave the first as it is, and one has no spread.
    one = forget_aucs(*pool, **rows, seed=5, draws=1)
    assert one.forget_vs_test_sd is None
    two = forget_aucs(*pool, **rows, seed=5, draws=2)
    other = 2 * two.forget_vs_test - one.forget_vs_test
    assert two.forget_vs_test_sd == pytest.approx(abs(other - one.forget_vs_test) / np.sqrt(2))


def many(knows, repeats=20):
    """Means over targets and pools, and the standard errors."""
    found = []
    for seed in range(repeats):
        pool, rows = case(2000, 8, seed, (1000, 300, 700), knows)
        found.append([getattr(forget_aucs(*pool, **rows, gamma=1.2, seed=seed), name) for name in AUCS])
    return np.mean(found, axis=0), np.std(found, axis=0, ddof=1) / np.sqrt(repeats)


AUCS = ("forget_vs_test", "forget_vs_retain", "retain_vs_test")


def test_of_a_model_trained_without_the_forget_set_nothing_is_left():
    (ft, fr, rt), (ft_error, fr_error, rt_error) = many(["retain"])
    assert ft_error < 0.005
    assert abs(ft - 0.5) < 4 * ft_error
    assert rt > 0.9
    # The forget set is one more test set, also seen from the retained examples.
    assert abs(fr - rt) < 4 * np.hypot(fr_error, rt_error)


def test_a_model_trained_on_the_forget_set_gives_it_away():
    (ft, fr, rt), (_, fr_error, _) = many(["retain", "forget"], repeats=8)
    assert ft > 0.9 and rt > 0.9
    assert abs(fr - 0.5) < 4 * fr_error


def test_a_model_that_saw_nothing_gives_one_half_throughout():
    means, errors = many([])
    assert np.all(errors < 0.005)
    assert np.all(np.abs(means - 0.5) < 4 * errors)


def test_jax_arrays_and_a_memory_map(tmp_path):
    jnp = pytest.importorskip("jax.numpy")
    (target, reference, member), rows = case(60, 4, 0, (20, 10, 30), ["retain"])
    want = forget_aucs(target, reference, member, **rows)
    np.save(tmp_path / "pool.npy", reference)
    mapped = np.load(tmp_path / "pool.npy", mmap_mode="r")
    assert forget_aucs(jnp.asarray(target), mapped, member, **rows) == want
    assert forget_aucs(target, jnp.asarray(reference), member, **rows) == want


def test_a_pool_is_not_copied_where_the_test_rows_are_consecutive(monkeypatch):
    handed = []

    def look(target, reference, member, population_target, population_reference, *, population_member, **_):
        handed.append([reference, member, population_reference, population_member])
        return np.zeros(len(target))

    monkeypatch.setattr(module, "rmia_scores", look)
    (target, reference, member), _ = case(60, 4, 0, (20, 10, 30))
    rows = {"retain": np.arange(20), "forget": np.arange(20, 30), "test": np.arange(30, 60)}
    forget_aucs(target, reference, member, **rows)
    for array, own in zip(handed[0], [reference, member] * 2, strict=True):
        assert np.shares_memory(array, own)
    np.testing.assert_array_equal(handed[0][2], reference[:, 30:])


def test_the_result_is_frozen():
    pool, rows = case(60, 4, 0, (20, 10, 30))
    with pytest.raises(dataclasses.FrozenInstanceError):
        forget_aucs(*pool, **rows).forget_vs_test = 1.0


(TARGET, REFERENCE, MEMBER), ROWS = case(30, 4, 0, (10, 8, 12))


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": changed(TARGET, 3, np.nan)}, "1 of 30 entries of target_prob are negative or not finite"),
        ({"reference": changed(REFERENCE, (2, 5), np.inf)}, r"entries of models \[2\]"),
        ({"reference": changed(REFERENCE, (1, 5), -0.5)}, r"entries of models \[1\]"),
        ({"target": REFERENCE[2]}, "reference 2 gives every probability"),
        ({"target": TARGET[:20]}, r"target_prob has shape \(20,\)"),
        ({"member": MEMBER[:3]}, r"reference_member \(3, 30\)"),
        (
            {"member": changed(MEMBER, (slice(None), 7), False)},
            "1 of 30 .*, 7 the first, have no IN reference",
        ),
        (
            {"member": changed(MEMBER, (slice(None), [4, 7]), True)},
            "2 of 30 .*, 4 the first, have no OUT reference",
        ),
        ({"retain": np.arange(0)}, r"retain has shape \(0,\)"),
        ({"test": ROWS["test"][:1]}, "is all of the population"),
        ({"test": np.append(ROWS["test"], ROWS["forget"][0])}, "in forget and test"),
        ({"forget": np.append(ROWS["forget"], 30)}, "expected 0 to 29"),
        ({"forget": np.append(ROWS["forget"], -1)}, "expected 0 to 29"),
        ({"draws": 0}, "draws is 0"),
        ({"gamma": 0.0}, "gamma is 0.0"),
    ],
)
def test_bad_input_is_refused(changes, match):
    arguments = {"target": TARGET, "reference": REFERENCE, "member": MEMBER} | ROWS | changes
    pool = [arguments.pop(name) for name in ("target", "reference", "member")]
    with pytest.raises(REFUSED) as refusal:
        forget_aucs(*pool, **arguments)
    if isinstance(refusal.value, InputError):
        refusal.match(match)
