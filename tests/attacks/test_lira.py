"""LiRA against hand values, twins written from the definition, a known ROC, and data that know nothing."""

import inspect
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mu_jax.attacks import lira, lira_statistics
from mu_jax.attacks.leave_one_out import opposite_models
from mu_jax.attacks.lira import leave_one_out_lira, lira_scores
from mu_jax.config import InputError
from mu_jax.evaluation.intervals import auc_interval, tpr_at_fpr_interval
from mu_jax.evaluation.roc import auc

WAYS = list(itertools.product(("online", "offline"), ("per_example", "global")))
ways = pytest.mark.parametrize(("mode", "variance"), WAYS)


def halves(models, examples, seed=0):
    return np.random.default_rng(seed).random((models, examples)).argsort(axis=0) < models // 2


def pool(models, examples, *augmentations, seed=0, gap=1.0):
    """φ of a target and K shadow models, examples of different means and spreads; and the shadows' membership."""
    rng = np.random.default_rng(seed)
    member = halves(models, examples, seed)
    centre, width = rng.normal(3, 4, examples), rng.uniform(0.5, 2, examples)
    expand = (..., *(None,) * len(augmentations))
    noise = rng.normal(size=(models + 1, examples, *augmentations))
    inside = np.vstack([rng.random((1, examples)) < 0.5, member])
    phi = centre[expand] + width[expand] * (noise + gap * inside[expand])
    return phi[0].astype(np.float32), phi[1:].astype(np.float32), member


def twin(target, shadow, member, mode, variance, kept=None):
    """LiRA from its definition, one example and augmentation at a time; `kept` says which references count."""
    target, shadow = (np.asarray(x, np.float64) for x in (target, shadow))
    if target.ndim == 1:
        target, shadow = target[..., None], shadow[..., None]
    kept = np.ones(member.shape, bool) if kept is None else kept
    examples, augmentations = target.shape
    scores = np.zeros((examples, augmentations))
    for a in range(augmentations):
        values = [
            [shadow[side[:, x], x, a] for x in range(examples)] for side in (member & kept, ~member & kept)
        ]
        centred = [np.concatenate([v - v.mean() for v in side]) for side in values]
        pooled = [np.sum(c**2) / (c.size - examples) for c in centred]
        for x in range(examples):
            logs = []
            for side, shared in zip(values, pooled, strict=True):
                std = math.sqrt(shared if variance == "global" else np.var(side[x], ddof=1))
                z = (target[x, a] - side[x].mean()) / std
                density = -(z**2) / 2 - math.log(std * math.sqrt(2 * math.pi))
                logs.append(density if mode == "online" else stats.norm.logcdf(z))
            scores[x, a] = logs[0] - logs[1] if mode == "online" else logs[1]
    return scores.mean(axis=1)


def public_code_twin(target, shadow, member, mode, variance):
    """The steps of the authors' script on lists of arrays, as a membership score."""
    target, shadow = np.asarray(target, np.float64), np.asarray(shadow, np.float64)
    if target.ndim == 1:
        target, shadow = target[..., None], shadow[..., None]
    sides = []
    for side in (member, ~member):
        lists = [shadow[side[:, x], x] for x in range(target.shape[0])]
        shortest = min(len(part) for part in lists)
        sides.append(np.array([part[:shortest] for part in lists]))
    inside, outside = sides
    if mode == "offline":
        std = np.std(outside) if variance == "global" else np.std(outside, axis=1)
        return -stats.norm.logpdf(target, np.median(outside, axis=1), std + 1e-30).mean(axis=1)
    std_in, std_out = (np.std(inside, axis=1), np.std(outside, axis=1))
    if variance == "global":
        std_in = std_out = np.std(inside)
    log_in = stats.norm.logpdf(target, np.median(inside, axis=1), std_in + 1e-30)
    return (log_in - stats.norm.logpdf(target, np.median(outside, axis=1), std_out + 1e-30)).mean(axis=1)


def test_hand_values():
    # IN: 1 and 3, so mean 2 and variance 2. OUT: −3 and 1, so mean −1 and variance 8. Target: 2.
    shadow, member = np.array([[1.0], [3.0], [-3.0], [1.0]]), np.array([[True], [True], [False], [False]])
    # −0²/4 − ½ log 2 + 3²/16 + ½ log 8
    np.testing.assert_allclose(lira_scores(np.array([2.0]), shadow, member), [9 / 16 + np.log(2)], rtol=1e-12)
    got = lira_scores(np.array([2.0]), shadow, member, mode="offline")
    np.testing.assert_allclose(got, [np.log(stats.norm.cdf(3 / np.sqrt(8)))], rtol=1e-12)
    # The second example is ten times as wide and lies elsewhere: variances 2 and 200 give 101, and 8 and 800 give 404.
    shadow, member = np.hstack([shadow, 10 * shadow + 1000]), np.hstack([member, member])
    got = lira_scores(np.array([2.0, 1020.0]), shadow, member, variance="global")
    np.testing.assert_allclose(got, np.array([9, 900]) / 808 + np.log(2), rtol=1e-12)


@ways
@pytest.mark.parametrize("augmentations", [(), (1,), (3,)])
def test_equals_the_twin(mode, variance, augmentations):
    target, shadow, member = pool(12, 70, *augmentations)
    member[:3, 5] = ~member[:3, 5]  # unequal numbers on the two sides
    got = lira_scores(target, shadow, member, mode=mode, variance=variance)
    assert got.dtype == np.float64 and got.shape == (70,)
    np.testing.assert_allclose(got, twin(target, shadow, member, mode, variance), rtol=1e-9, atol=1e-12)


@ways
@pytest.mark.parametrize("augmentations", [(), (3,)])
def test_quirks_equal_the_public_code(mode, variance, augmentations):
    target, shadow, member = pool(11, 40, *augmentations)
    member[:3, 5] = ~member[:3, 5]
    got = lira_scores(target, shadow, member, mode=mode, variance=variance, reference_quirks=True)
    expected = public_code_twin(target, shadow, member, mode, variance)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(got, lira_scores(target, shadow, member, mode=mode, variance=variance), rtol=1e-3)


@ways
@pytest.mark.parametrize("augmentations", [(), (3,)])
def test_leave_one_out_equals_dropping_the_references(mode, variance, augmentations):
    _, phi, member = pool(9, 70, *augmentations)
    targets = np.array([3, 0, 8])
    got = leave_one_out_lira(phi, member, mode=mode, variance=variance, targets=targets)
    assert got.dtype == np.float64 and got.shape == (3, 70)
    gone = opposite_models(member)
    for row, target in zip(got, targets, strict=True):
        kept = np.ones(member.shape, bool)
        kept[target] = False
        kept[gone[target], np.arange(70)] = False
        expected = twin(phi[target], phi, member, mode, variance, kept)
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-12)
        if variance == "per_example":
            for x in (0, 69):
                one = phi[kept[:, x], x : x + 1], member[kept[:, x], x : x + 1]
                alone = lira_scores(phi[target, x : x + 1], *one, mode=mode, variance=variance)
                np.testing.assert_allclose(row[x], alone[0], rtol=1e-9, atol=1e-12)
    everyone = leave_one_out_lira(phi, member, mode=mode, variance=variance)
    np.testing.assert_array_equal(everyone[targets], got)


def test_leave_one_out_in_pairs_equals_lira_without_the_pair():
    # In complementary pairs the opposite model is the same for every example, so references drop out whole.
    half = np.random.default_rng(1).random((6, 50)) < 0.5
    half[:3, ~((half.sum(axis=0) >= 3) & (half.sum(axis=0) <= 3))] = False
    half[3:, ~((half.sum(axis=0) >= 3) & (half.sum(axis=0) <= 3))] = True
    member = np.stack([half, ~half], axis=1).reshape(12, 50)
    phi = np.random.default_rng(2).normal(size=(12, 50, 2)).astype(np.float32)
    for mode, variance in WAYS:
        got = leave_one_out_lira(phi, member, mode=mode, variance=variance, targets=np.array([5]))
        others = np.delete(np.arange(12), [4, 5])
        expected = lira_scores(phi[5], phi[others], member[others], mode=mode, variance=variance)
        np.testing.assert_allclose(got[0], expected, rtol=1e-9)


@ways
def test_a_known_roc_is_recovered(mode, variance):
    # Members lie 1.2 σ above; with μ and σ known, the scores of both classes are ordered like N(1.2, 1) and N(0, 1).
    examples, gap = 2000, 1.2
    rng = np.random.default_rng(3)
    member, truth = halves(400, examples), rng.random(examples) < 0.5
    width = np.full(examples, 2.0) if variance == "global" else rng.uniform(0.2, 5, examples)
    centre = rng.normal(0, 20, examples)
    shadow = (centre + width * (rng.normal(size=(400, examples)) + gap * member)).astype(np.float32)
    target = (centre + width * (rng.normal(size=examples) + gap * truth)).astype(np.float32)
    scores = lira_scores(target, shadow, member, mode=mode, variance=variance)
    low, high = auc_interval(scores, truth, level=0.99)
    assert low < stats.norm.cdf(gap / np.sqrt(2)) < high and high - low < 0.06
    low, high = tpr_at_fpr_interval(scores, truth, 0.05, level=0.99)
    assert low < stats.norm.cdf(gap - stats.norm.isf(0.05)) < high
    # Neither pools what differs between examples: the raw φ tell far less.
    assert auc(target, truth) < auc(scores, truth) - 0.1


def chunked_auc(scores, member, chunks=24):
    """Mean over targets of the AUC, with its standard error over independent sets of examples."""
    size = member.shape[1] // chunks
    parts = [
        np.mean([auc(s[i : i + size], m[i : i + size]) for s, m in zip(scores, member, strict=True)])
        for i in range(0, chunks * size, size)
    ]
    return np.mean(parts), np.std(parts, ddof=1) / np.sqrt(chunks)


@ways
@pytest.mark.parametrize("models", [8, 16, 32])
def test_phi_that_know_nothing_give_an_auc_of_one_half(mode, variance, models):
    member = halves(models, 24 * 100, seed=models)
    phi = np.random.default_rng(models).normal(2, 3, (models, 24 * 100, 2)).astype(np.float32)
    mean, error = chunked_auc(leave_one_out_lira(phi, member, mode=mode, variance=variance), member)
    assert abs(mean - 0.5) < 4 * error and error < 0.012


@pytest.mark.parametrize("variance", ["per_example", "global"])
def test_the_null_calibration_would_see_a_leak_by_counting(variance):
    # Without the opposite model's removal a member has fewer IN references than a non-member.
    member = halves(8, 24 * 500)
    phi = np.random.default_rng(0).normal(2, 3, (8, 24 * 500)).astype(np.float32)
    scores = []
    for target in range(8):
        others = np.delete(np.arange(8), target)
        scores.append(lira_scores(phi[target], phi[others], member[others], variance=variance))
    mean, error = chunked_auc(np.array(scores), member)
    assert abs(mean - 0.5) > 4 * error


def test_read_only_memory_maps_give_the_same(tmp_path):
    target, shadow, member = pool(8, 90, 3)
    for name, array in (("target", target), ("shadow", shadow), ("member", member)):
        np.save(tmp_path / f"{name}.npy", array)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("target", "shadow", "member")]
    for mode, variance in WAYS:
        for quirks in (False, True):
            settings = {"mode": mode, "variance": variance, "reference_quirks": quirks}
            np.testing.assert_array_equal(
                lira_scores(*mapped, **settings), lira_scores(target, shadow, member, **settings)
            )
        np.testing.assert_array_equal(
            leave_one_out_lira(*mapped[1:], mode=mode, variance=variance),
            leave_one_out_lira(shadow, member, mode=mode, variance=variance),
        )
    # Another layout in memory, and another precision of the same numbers
    for other in (np.asfortranarray(shadow), shadow.astype(np.float64)):
        np.testing.assert_array_equal(lira_scores(target, other, member), lira_scores(target, shadow, member))


@pytest.mark.parametrize("augmentations", [(), (3,)])
def test_neither_blocks_nor_threads_change_bits(augmentations, monkeypatch):
    target, shadow, member = pool(8, 300, *augmentations)

    def everything():
        for mode, variance in WAYS:
            for quirks in (False, True):
                yield lira_scores(
                    target, shadow, member, mode=mode, variance=variance, reference_quirks=quirks
                )
            yield leave_one_out_lira(shadow, member, mode=mode, variance=variance)

    expected = list(everything())
    for columns, cores in ((64, 1), (64, 3), (400, 2), (2**13, 1)):
        monkeypatch.setattr(lira_statistics, "BLOCK_COLUMNS", columns)
        monkeypatch.setattr(lira_statistics, "usable_cores", lambda cores=cores: cores)
        for got, want in zip(everything(), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_blocks_cover_every_example_once_and_in_order(monkeypatch):
    monkeypatch.setattr(lira_statistics, "BLOCK_COLUMNS", 400)
    blocks = list(lira_statistics.map_blocks(lambda block: block, 8, 300, 3))
    assert blocks == [slice(0, 128), slice(128, 256), slice(256, 300)]


@ways
def test_shift_and_scale_of_phi_do_not_matter(mode, variance):
    target, shadow, member = (x if x.dtype == bool else x.astype(np.float64) for x in pool(10, 60, 2))
    expected = lira_scores(target, shadow, member, mode=mode, variance=variance)
    got = lira_scores(30 * target - 700, 30 * shadow - 700, member, mode=mode, variance=variance)
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)
    if variance == "per_example":  # then every example may have its own
        scale, shift = np.random.default_rng(0).uniform(0.1, 10, (2, 60, 1))
        got = lira_scores(scale * target + shift, scale * shadow + shift, member, mode=mode)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-10)


@ways
def test_the_order_of_models_does_not_matter(mode, variance):
    target, shadow, member = pool(10, 60, 2)
    order = np.random.default_rng(0).permutation(10)
    np.testing.assert_allclose(
        lira_scores(target, shadow[order], member[order], mode=mode, variance=variance),
        lira_scores(target, shadow, member, mode=mode, variance=variance),
        rtol=1e-9,
        atol=1e-12,
    )


@ways
def test_a_more_confident_target_is_more_likely_a_member(mode, variance):
    # Equal spreads on both sides, so that the online ratio rises with φ too.
    shadow = np.array([[0.0], [1.0], [5.0], [6.0]])
    member = np.array([[False], [False], [True], [True]])
    targets = (np.array([p]) for p in (0.5, 2.0, 4.0, 5.5))
    scores = [lira_scores(target, shadow, member, mode=mode, variance=variance)[0] for target in targets]
    assert np.all(np.diff(scores) > 0)
    # Farther below OUT than any model: the public offline code calls that membership, the one-sided test does not.
    far, near = ({"target_phi": np.array([p]), "shadow_phi": shadow, "member": member} for p in (-9.0, 0.5))
    assert lira_scores(**far, mode="offline") < lira_scores(**near, mode="offline")
    quirks = {"mode": "offline", "reference_quirks": True}
    assert lira_scores(**far, **quirks) > lira_scores(**near, **quirks)


@ways
@pytest.mark.parametrize("value", [0.0, 7.3, np.finfo(np.float32).max])
def test_phi_without_spread_give_finite_scores(mode, variance, value):
    member = halves(8, 20)
    shadow = np.full((8, 20, 2), value, np.float32)
    for target in (np.full((20, 2), -1, np.float32), np.full((20, 2), -np.finfo(np.float32).max)):
        scores = lira_scores(target, shadow, member, mode=mode, variance=variance)
        assert np.all(np.isfinite(scores))
    assert np.all(np.isfinite(leave_one_out_lira(shadow, member, mode=mode, variance=variance)))
    shadow[~member] = -value
    assert np.all(np.isfinite(leave_one_out_lira(shadow, member, mode=mode, variance=variance)))


def test_the_floor_is_the_resolution_of_float32():
    shadow = np.array([[1.0], [3.0], [8.0], [8.0]])
    member = np.array([[True], [True], [False], [False]])
    got = lira_scores(np.array([8 + 2.0**-20]), shadow, member, mode="offline")
    np.testing.assert_allclose(got, stats.norm.logcdf(1.0), rtol=1e-9)


@ways
def test_removing_an_outlier_loses_no_digits(mode, variance):
    _, phi, member = pool(8, 40)
    phi[2] *= 1e7
    phi[5, :20] = 3e9
    gone = opposite_models(member)
    for target, row in enumerate(leave_one_out_lira(phi, member, mode=mode, variance=variance)):
        kept = np.ones(member.shape, bool)
        kept[target] = False
        kept[gone[target], np.arange(40)] = False
        expected = twin(phi[target], phi, member, mode, variance, kept)
        np.testing.assert_allclose(row, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("models", "variance", "advice"), [(8, "per_example", 1), (8, "global", 0), (32, "per_example", 0)]
)
def test_few_models_bring_advice_once_and_change_nothing(models, variance, advice, monkeypatch):
    said = []
    monkeypatch.setattr(lira.logging, "warning", lambda text, *values: said.append(text % values))
    target, shadow, member = pool(models, 500)
    lira_scores(target, shadow, member, variance=variance)
    assert len(said) == advice and all("as few as 4 models" in text for text in said)


# Shapes and dtypes are refused by the annotations before our own checks see them, so these are called without.
bare_scores, bare_leave_one_out = inspect.unwrap(lira_scores), inspect.unwrap(leave_one_out_lira)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t, s, m: (t[:-1], s, m), r"target_phi has shape \(29, 2\) and shadow_phi \(8, 30, 2\)"),
        (lambda t, s, m: (t[:, 0], s, m), r"target_phi has shape \(30,\)"),
        (lambda t, s, m: (t, s, m[:-1]), r"shadow_phi has shape \(8, 30, 2\) and member \(7, 30\)"),
        (lambda t, s, m: (t[0, 0], s[:, 0, 0], m[:, 0]), r"shadow_phi has shape \(8,\)"),
        (lambda t, s, m: (t[:0], s[:, :0], m[:, :0]), "none of them 0"),
        (lambda t, s, m: (t, s, m.astype(int)), "member has dtype int64"),
    ],
)
def test_shapes_and_dtypes_that_do_not_fit_are_refused(change, match):
    arrays = change(*pool(8, 30, 2))
    with pytest.raises(InputError, match=match):
        bare_scores(*arrays)
    if not match.startswith("target"):
        with pytest.raises(InputError, match=match.removeprefix("shadow_")):
            bare_leave_one_out(*arrays[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_phi_that_are_not_finite_are_refused(value):
    target, shadow, member = pool(8, 30, 2)
    broken = shadow.copy()
    broken[1, 2, 0] = broken[5, 29, 1] = value
    for mode, variance in WAYS:
        with pytest.raises(InputError, match="2 of 480 values of shadow_phi are not finite"):
            lira_scores(target, broken, member, mode=mode, variance=variance)
        with pytest.raises(InputError, match="2 of 480 values of shadow_phi are not finite"):
            lira_scores(target, broken, member, mode=mode, variance=variance, reference_quirks=True)
        with pytest.raises(InputError, match="2 of 480 values of phi are not finite"):
            leave_one_out_lira(broken, member, mode=mode, variance=variance)
    target[3, 1] = value
    with pytest.raises(InputError, match="1 of 60 values of target_phi are not finite"):
        lira_scores(target, shadow, member)


def test_phi_beyond_float32_are_refused():
    target, shadow, member = pool(8, 30)
    shadow = shadow.astype(np.float64)
    shadow[1, 2] = 1e39
    with pytest.raises(InputError, match="1 of 240 values of shadow_phi are not finite in float32"):
        lira_scores(target, shadow, member)


@pytest.mark.parametrize(
    ("setting", "match"), [("mode", "'online' or 'offline'"), ("variance", "'per_example' or 'global'")]
)
def test_unknown_settings_are_refused(setting, match):
    target, shadow, member = pool(8, 30)
    for call in (
        lambda **how: bare_scores(target, shadow, member, **how),
        lambda **how: bare_leave_one_out(shadow, member, **how),
    ):
        with pytest.raises(InputError, match=f"{setting} is 'fixed', but expected {match}"):
            call(**{setting: "fixed"})


def test_examples_with_too_few_references_are_refused():
    target, shadow, member = pool(8, 30)
    member[:, [7, 9]] = np.arange(8)[:, None] < 1
    for variance in ("per_example", "global"):
        with pytest.raises(InputError, match="2 of 30 examples, 7 the first, have fewer than two IN models"):
            lira_scores(target, shadow, member, variance=variance)
        assert np.all(np.isfinite(lira_scores(target, shadow, member, mode="offline", variance=variance)))
    assert leave_one_out_lira(shadow, member, mode="offline").shape == (8, 30)
    with pytest.raises(
        InputError, match=r"2 of 30 .* \(that one has 1\), but offline LiRA expected at least two"
    ):
        lira_scores(target, shadow, ~member, mode="offline")
    # One on either side leaves with the target.
    _, shadow, member = pool(4, 30)
    with pytest.raises(InputError, match="30 of 30 examples, 0 the first, have fewer than two IN models"):
        leave_one_out_lira(shadow, member)
    with pytest.raises(InputError, match="are on one side in all 4 models"):
        leave_one_out_lira(shadow, np.zeros((4, 30), bool), mode="offline")


def test_a_target_among_its_own_references_is_refused():
    target, shadow, member = pool(8, 30, 2)
    with pytest.raises(InputError, match=r"equals shadow_phi\[6\] in every value.*own references"):
        lira_scores(shadow[6].copy(), shadow, member)
    target[:29] = shadow[6, :29]
    assert lira_scores(target, shadow, member).shape == (30,)


@pytest.mark.parametrize(
    "targets", [np.array([0, 8]), np.array([-1]), np.array([[0]]), np.array([0.5]), np.arange(0)]
)
def test_targets_outside_the_pool_are_refused(targets):
    _, shadow, member = pool(8, 30)
    with pytest.raises(InputError, match="a vector of at least one model index from 0 to 7"):
        bare_leave_one_out(shadow, member, targets=targets)
