"""The challenge's ε and F against hand values, the definition in loops, and the public scorer's grid."""

import math

import jaxtyping
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.evaluation import forgetting
from mu_jax.evaluation.forgetting import final_score, forgetting_points, forgetting_score, per_example_epsilon

REFUSED = (InputError, jaxtyping.TypeCheckError)
LN2 = math.log(2)


def column(*values):
    return np.array(values, float)[:, None]


def rule_epsilon(fpr, fnr, delta):
    """What one attack shows; 0 where it shows nothing or is dropped."""
    if fpr == fnr == 0:
        return 50.0
    if fpr == 0 or fnr == 0:
        return 0.0
    terms = [(1 - delta - fpr, fnr), (1 - delta - fnr, fpr)]
    return max([0.0, *(math.log(n / d) for n, d in terms if n > 0)])


def orient(u, r):
    """(above, not above, narrow, wide) of one example, as the public scorer picks them."""
    above, below = (r, u) if np.median(r) > np.median(u) else (u, r)
    narrow, wide = (below, above) if np.ptp(above) >= np.ptp(below) else (above, below)
    return above, below, narrow, wide


def slow_epsilon(u, r, delta, rules):
    """One example: every cut between distinct values, every pair of cuts, straight from the definition."""
    above, below, narrow, wide = orient(u, r)
    if np.ptp(narrow) < 0.01 * np.ptp(wide):
        return 50.0
    edges = [-np.inf, *np.unique([*u, *r]), np.inf]
    found = [0.0]

    def within(calls, others, i, j):
        """Calls what lies in [edges[i + 1], edges[j]]."""
        fnr = np.mean((calls < edges[i + 1]) | (calls > edges[j]))
        fpr = np.mean((others >= edges[i + 1]) & (others <= edges[j]))
        found.append(rule_epsilon(fpr, fnr, delta))

    if rules == "intervals":
        for i in range(len(edges) - 1):
            for j in range(i + 1, len(edges)):
                within(u, r, i, j)
                within(r, u, i, j)
        return max(found)
    for t in edges[1:]:
        found.append(rule_epsilon(np.mean(below >= t), np.mean(above < t), delta))
    high, width = narrow.max(), np.ptp(narrow)
    for i in range(len(edges) - 1):
        for j in range(i + 1, len(edges) - 1):
            # A right end in [edges[j], edges[j + 1]) whose left end may lie in (edges[i], edges[i + 1]].
            closed = max(edges[j], high - 2), min(edges[i + 1] + width + 2, high + 2)
            opened = edges[i] + width - 2, edges[j + 1]
            if (
                closed[0] <= closed[1]
                and opened[0] < opened[1]
                and closed[0] < opened[1]
                and opened[0] < closed[1]
            ):
                within(narrow, wide, i, j)
    return max(found)


def grid_epsilon(u, r, delta, per_unit):
    """One example: the public scorer's grids of thresholds, with `per_unit` in place of its 100."""
    above, below, narrow, wide = orient(u, r)
    low, high = min(u.min(), r.min()), max(u.max(), r.max())
    found = [0.0]
    for t in np.linspace(low, high, math.ceil((high - low) * per_unit)):
        found.append(rule_epsilon(np.mean(below >= t), np.mean(above < t), delta))
    width = np.ptp(narrow)
    for right in np.linspace(narrow.max() - 2, narrow.max() + 2, math.ceil(4 * per_unit)):
        left = np.linspace(right - width - 2, right - width + 2, math.ceil(4 * per_unit))[:, None]
        fnr = np.mean((narrow < left) | (narrow > right), axis=1)
        fpr = np.mean((wide >= left) & (wide <= right), axis=1)
        found += [rule_epsilon(a, b, delta) for a, b in set(zip(fpr, fnr, strict=True))]
    return max(found)


def samples(seed, models, examples, others=None):
    """Examples of many kinds: shifted, narrower, the same, on one side of a gap, tied."""
    rng = np.random.default_rng(seed)
    u = rng.normal(0, 1, (models, examples)) * rng.choice([0.3, 1, 3], examples)
    r = rng.normal(0, 1, (others or models, examples)) + rng.choice([-2, 0, 0.5], examples)
    u, r = u * (scale := rng.choice([0.5, 2, 8], examples)), r * scale
    u[:, ::5], r[:, ::5] = u[:, ::5].round(), r[:, ::5].round()
    return u, r


def test_epsilon_by_hand():
    # Unlearned 0 1 2, retrained 0.5 1.5 2.5: at most 2 of 3 called rightly with 1 of 3 wrongly.
    assert per_example_epsilon(column(0, 1, 2), column(0.5, 1.5, 2.5), 0.0) == pytest.approx([LN2])
    # With δ the numerators lose it: log((2/3 − 0.1)/(1/3)).
    got = per_example_epsilon(column(0, 1, 2), column(0.5, 1.5, 2.5), 0.1)
    assert got == pytest.approx([math.log((2 / 3 - 0.1) * 3)])
    # Told apart by one threshold, and by an interval alone.
    assert per_example_epsilon(column(0, 1), column(2, 3)) == [50]
    assert per_example_epsilon(column(1, 2), column(0, 3, -5, 9)) == [50]
    # Interval [-1, 1] holds 3 of 4 of the narrow and 1 of 4 of the wide; no threshold does better than 3 of 4 to 2.
    u, r = column(-1, 0, 1, 4), column(-3, 0.5, 3, 5)
    assert per_example_epsilon(u, r, 0.0) == pytest.approx([math.log(3)])


def test_the_interval_may_not_reach_where_the_challenge_does_not_look():
    # [0, 3] holds 4 of the 5 narrow and 1 wide; its right end is 7 from the largest narrow one.
    u, r = column(0, 1, 2, 3, 10), column(-8, 2.5, 6, 7, 8)
    inside = per_example_epsilon(u, r, 0.0, rules="intervals")
    assert inside == pytest.approx([math.log(4)])
    assert per_example_epsilon(u, r, 0.0) < inside


@pytest.mark.parametrize(
    ("wide", "ratio"),
    [
        # From the one at −2.9, an interval as long as 5 reaches 2: 3 of the 4 narrow with 1 of the 5 wide, ...
        (-2.9, 3.75),
        # ... from here on it reaches 1 only, ...
        (-3.1, 2.5),
        (-3.9, 2.5),
        # ... and then less than 1, where no right end may lie: [1, 3] holds 3 of 4 and 2 of 5.
        (-4.1, 2.4),
    ],
)
def test_the_reach_to_the_left_by_hand(wide, ratio):
    u, r = column(0, 1, 2, 3), column(-20, wide, 2.5, 2.5, 20)
    assert per_example_epsilon(u, r, 0.0) == pytest.approx([math.log(ratio)])


@pytest.mark.parametrize(("wide", "ratio"), [(-3.9, 3.75), (-4.1, 2.4)])
def test_the_left_end_lies_within_twice_the_reach_by_hand(wide, ratio):
    # A right end between 0 and 3, but at least 1, and so a left end of at least 1 - 3 - 2.
    u, r = column(0, 0, 0, 3), column(-20, wide, 2.5, 2.5, 20)
    assert per_example_epsilon(u, r, 0.0) == pytest.approx([math.log(ratio)])


@pytest.mark.parametrize(("wide", "ratio"), [(4.9, 3.75), (5.1, 2.4)])
def test_the_reach_to_the_right_by_hand(wide, ratio):
    # [1, 5] holds 3 of the 4 narrow and 1 of the 5 wide; its right end may not lie further than 2 from 3.
    u, r = column(0, 1, 2, 3), column(-20, 0.5, 0.5, wide, 20)
    assert per_example_epsilon(u, r, 0.0) == pytest.approx([math.log(ratio)])


@pytest.mark.parametrize("rules", forgetting.RULES)
@pytest.mark.parametrize(("models", "others"), [(2, 2), (3, 5), (9, 9), (16, 11)])
def test_equals_the_definition_in_loops(models, others, rules):
    u, r = samples(models, models, 40, others)
    for delta in (0.0, 1e-5, 0.2):
        want = [slow_epsilon(a, b, delta, rules) for a, b in zip(u.T, r.T, strict=True)]
        np.testing.assert_allclose(per_example_epsilon(u, r, delta, rules=rules), want, rtol=0, atol=1e-9)
        assert len(set(want)) > 2 or models == 2


def test_equals_the_definition_for_more_models():
    u, r = samples(1, 40, 12)
    for rules in forgetting.RULES:
        want = [slow_epsilon(a, b, 1e-5, rules) for a, b in zip(u.T, r.T, strict=True)]
        np.testing.assert_allclose(per_example_epsilon(u, r, rules=rules), want, rtol=0, atol=1e-9)


def test_a_finer_grid_of_the_public_scorer_approaches_it_from_below():
    rng = np.random.default_rng(0)
    u, r = rng.normal(0, 1, (12, 5)), rng.normal(0.5, 2, (12, 5))
    exact = per_example_epsilon(u, r)
    grids = [
        np.array([grid_epsilon(a, b, 1e-5, per_unit) for a, b in zip(u.T, r.T, strict=True)])
        for per_unit in (3, 20, 200)
    ]
    assert all(np.all(grid <= exact + 1e-9) for grid in grids)
    assert np.max(exact - grids[0]) > 0.05
    assert np.mean(exact - grids[1]) < np.mean(exact - grids[0])
    np.testing.assert_allclose(grids[2], exact, atol=1e-9)


def test_more_rules_find_no_less():
    u, r = samples(2, 30, 200)
    challenge, intervals = (per_example_epsilon(u, r, rules=rules) for rules in forgetting.RULES)
    assert np.all(intervals >= challenge)
    assert np.any(intervals > challenge + 0.1)


def test_roles_are_symmetric_without_ties():
    rng = np.random.default_rng(3)
    u, r = rng.normal(0, 1, (21, 100)), rng.normal(0.5, 2, (33, 100))
    for rules in forgetting.RULES:
        np.testing.assert_allclose(
            per_example_epsilon(u, r, rules=rules), per_example_epsilon(r, u, rules=rules), rtol=1e-12
        )


def test_only_the_order_of_phi_counts_for_all_intervals_and_its_place_for_neither():
    rng = np.random.default_rng(4)
    u, r = rng.normal(0, 1, (20, 50)), rng.normal(0.5, 1.5, (20, 50))
    got = per_example_epsilon(u, r, rules="intervals")
    np.testing.assert_array_equal(per_example_epsilon(np.sinh(u), np.sinh(r), rules="intervals"), got)
    np.testing.assert_array_equal(per_example_epsilon(-u, -r, rules="intervals"), got)
    np.testing.assert_allclose(per_example_epsilon(u + 64, r + 64), per_example_epsilon(u, r), atol=1e-9)


def test_single_thresholds_do_not_feel_a_monotone_transform():
    rng = np.random.default_rng(5)
    u, r = rng.uniform(0, 1000, (30, 40)), rng.uniform(500, 1500, (30, 40))
    ratio = [np.ones(40), np.ones(40)]
    for out, f in zip(ratio, (lambda x: x, np.exp), strict=True):
        values = np.concatenate([f(u / 500), f(r / 500)]).T
        order = np.argsort(values, axis=1)
        of_u = np.pad(np.cumsum(order < 30, axis=1), ((0, 0), (1, 0)))
        of_r = np.arange(61) - of_u
        forgetting._best_threshold(of_r, of_u, np.ones((40, 61), bool), out, 1e-5)
    np.testing.assert_array_equal(*ratio)
    assert np.all(per_example_epsilon(u, r) >= np.log(ratio[0]) - 1e-12)


def test_extremes():
    rng = np.random.default_rng(6)
    same = rng.normal(size=(10, 3))
    assert np.all(per_example_epsilon(same, same) == 0)
    assert np.all(per_example_epsilon(np.ones((4, 2)), np.ones((5, 2))) == 0)
    assert np.all(per_example_epsilon(np.ones((4, 2)), np.zeros((5, 2))) == 50)
    # A peaky distribution in the midst of the other one, where at least one of the other's values lies too.
    peaky = column(0, *np.linspace(-0.004, 0.004, 9))
    wide = column(0, *np.linspace(-1, 1, 9))
    assert per_example_epsilon(peaky, wide) == per_example_epsilon(wide, peaky) == [50]
    assert per_example_epsilon(peaky * 4, wide) < 50
    apart = forgetting_score(same, same + 100)
    assert apart == 0
    assert forgetting_score(same, same) == 1


def test_epsilon_is_bounded_by_the_number_of_models():
    u, r = samples(7, 12, 300, 20)
    for rules in forgetting.RULES:
        epsilon = per_example_epsilon(u, r, rules=rules)
        finite = epsilon < 50
        assert np.all((epsilon >= 0) & (epsilon <= 50)) and np.any(finite)
        assert np.max(epsilon[finite]) <= math.log(19) + 1e-12


def test_points_by_hand():
    # 21 models: ⌈log 20⌉ = 3.
    epsilon = np.array([0, 0.49, 0.5, 0.99, 1.0, 2.0, 2.99, 3.0, 50.0])
    np.testing.assert_array_equal(
        forgetting_points(epsilon, 21), [1, 1, 0.5, 0.5, 0.25, 1 / 16, 1 / 32, 0, 0]
    )
    np.testing.assert_array_equal(forgetting_points(np.array([0.7, 1.0]), 3), [0.5, 0])


def test_score_is_the_mean_of_the_points_with_the_smaller_number_of_models():
    u, r = samples(8, 21, 50, 60)
    epsilon = per_example_epsilon(u, r)
    want = np.mean([0.5 ** (e // 0.5) if e < 3 else 0 for e in epsilon])
    assert forgetting_score(u, r) == pytest.approx(want)
    assert forgetting_score(u, r, rules="intervals") < want


@pytest.mark.parametrize(
    ("rules", "models", "score"),
    [("challenge", 128, 0.18), ("intervals", 128, 0.06), ("challenge", 32, 0.18), ("intervals", 32, 0.09)],
)
def test_null_score_is_what_the_documentation_says(rules, models, score):
    rng = np.random.default_rng(9)
    u, r = rng.normal(size=(models, 600)), rng.normal(size=(models, 600))
    assert forgetting_score(u, r, rules=rules) == pytest.approx(score, abs=0.02)


def test_a_known_epsilon_is_found():
    # Randomised response: φ is 1 with probability e/(1+e) for one kind and 1/(1+e) for the other, so ε = 1.
    models = 4000
    share = round(models * math.e / (1 + math.e))
    u = np.repeat([1.0, 0.0], [share, models - share])[:, None]
    assert per_example_epsilon(u, 1 - u, 0.0) == pytest.approx([1], abs=1e-3)


def test_blocks_precision_and_read_only_inputs_do_not_matter():
    u, r = (x.astype(np.float32) for x in samples(10, 100, 400))
    whole = per_example_epsilon(u, r)
    np.testing.assert_array_equal(whole[37:38], per_example_epsilon(u[:, 37:38], r[:, 37:38]))
    u.setflags(write=False)
    r.setflags(write=False)
    np.testing.assert_array_equal(per_example_epsilon(u, r), whole)
    np.testing.assert_array_equal(per_example_epsilon(u.astype(np.float64), np.asfortranarray(r)), whole)
    assert whole.dtype == np.float64


def test_final_score_by_hand():
    assert final_score(0.5, 0.9, 1.0, 0.6, 0.8) == pytest.approx(0.5 * 0.9 * 0.75)
    assert final_score(0.5, 1.0, 0.8, 0.8, 0.8) == pytest.approx(0.625)


def test_bad_signals_are_refused():
    good = np.zeros((3, 2))
    nan = np.array([[0.0, np.nan], [np.inf, 0.0]])
    for u, r, match in [
        (good, np.zeros((3, 4)), "same examples"),
        (np.zeros(3), good, "expected \\[models, examples\\]"),
        (good, np.zeros((1, 2)), "3 unlearned and 1 retrained"),
        (np.zeros((3, 0)), np.zeros((3, 0)), "at least 2 models of each kind and 1 example"),
        (nan, good, "2 values of φ are not finite"),
        (good, nan, "2 values of φ are not finite"),
    ]:
        with pytest.raises(InputError, match=match):
            forgetting.checked(u, r)
        for function in (per_example_epsilon, forgetting_score):
            with pytest.raises(REFUSED):
                function(u, r)


@pytest.mark.parametrize("delta", [-0.1, 1.0, math.nan])
def test_bad_delta_is_refused(delta):
    for function in (per_example_epsilon, forgetting_score):
        with pytest.raises(InputError, match=r"delta is .* in \[0, 1\)"):
            function(np.zeros((3, 1)), np.ones((3, 1)), delta)


def test_bad_rules_numbers_of_models_and_accuracies_are_refused():
    with pytest.raises(InputError, match="challenge, intervals"):
        per_example_epsilon(np.zeros((3, 1)), np.ones((3, 1)), rules="interval")
    with pytest.raises(InputError, match="at least 3"):
        forgetting_score(np.zeros((2, 1)), np.ones((5, 1)))
    with pytest.raises(InputError, match="retain_accuracy_unlearned is 90.0.* divide percent by 100"):
        final_score(0.5, 90.0, 1.0, 1.0, 1.0)
    with pytest.raises(InputError, match=r"test_accuracy_retrained is 0.0.*\(0, 1\]"):
        final_score(0.5, 0.9, 1.0, 1.0, 0.0)
    with pytest.raises(InputError, match="forgetting is nan"):
        final_score(math.nan, 0.9, 1.0, 1.0, 1.0)
