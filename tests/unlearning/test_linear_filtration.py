"""Filters of logits against their definition, by hand, after softmax, and folded into a head."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from mu_jax.config import InputError
from mu_jax.unlearning.linear_filtration import (
    class_means_of,
    filter_logits,
    filtration_matrix,
    fold_into_head,
    with_deleted_outputs,
)

MODES = ("naive", "normalization", "randomization", "zeroing")


@pytest.fixture
def unchecked():
    """Runs without the annotations' checks, as users have them: there only the function's own words refuse input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def logits():
    """200 samples of 6 classes, each class with a high logit of its own."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 200)
    values = rng.normal(0, 1, (200, 6)) + 4 * np.eye(6)[labels] + rng.normal(0, 1, 6)
    return values, labels


def by_definition(means, deleted, mode, draws):
    """B·A⁻¹ with columns edited one entry at a time; `draws` are those of randomization."""
    retained = [i for i in range(len(means)) if i not in deleted]
    b = np.array([means[i] for i in retained])
    entries = [b[row, column] for row in range(len(retained)) for column in retained]
    for place, column in enumerate(deleted):
        x = b[:, column].copy()
        for row in range(len(retained)):
            if mode == "normalization":
                b[row, column] = x[row] + sum(entries) / len(entries) - sum(x) / len(x)
            elif mode == "randomization":
                b[row, column] = draws[row, place]
            elif mode == "zeroing":
                b[row, column] = 0
    return b @ np.linalg.inv(means)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("deleted", [[2], [0, 5], [4, 1, 3]])
def test_equals_the_definition(logits, mode, deleted):
    means = class_means_of(*logits, 6)
    draws = np.random.default_rng(3).standard_normal((6 - len(deleted), len(deleted)))
    got = filtration_matrix(means, deleted, mode, seed=3)
    np.testing.assert_allclose(got, by_definition(means, deleted, mode, draws), atol=1e-12)
    assert got.dtype == np.float64 and got.shape == (6 - len(deleted), 6)
    # A mean sample of a class that stays is answered as before.
    retained = np.delete(np.arange(6), deleted)
    np.testing.assert_allclose((got @ means)[:, retained], means[np.ix_(retained, retained)], atol=1e-12)
    if len(deleted) == 1:
        np.testing.assert_array_equal(got, filtration_matrix(means, deleted[0], mode, seed=3))


def test_by_hand():
    means = np.diag([1.0, 2.0, 4.0])
    means[0, 2] = 2.0  # class 2 looks a little like class 0
    assert filtration_matrix(means, 2, "naive").tolist() == [[1, 0, 0], [0, 1, 0]]
    # A⁻¹'s last row is (0, 0, ¼). Column 2 of B is (2, 0), of mean 1; retained entries 1, 0, 0, 2 have mean ¾.
    np.testing.assert_allclose(
        filtration_matrix(means, 2, "normalization"), [[1, 0, -1 / 16], [0, 1, -1 / 16]]
    )
    np.testing.assert_allclose(filtration_matrix(means, 2, "zeroing"), [[1, 0, -1 / 2], [0, 1, 0]])
    np.testing.assert_allclose(
        filter_logits(np.array([[3.0, 5.0, 8.0]]), filtration_matrix(means, 2, "zeroing")), [[-1, 5]]
    )


def test_naive_selects_to_the_last_bit(logits):
    means = class_means_of(*logits, 6)
    got = filter_logits(logits[0], filtration_matrix(means, [1, 4], "naive"))
    np.testing.assert_array_equal(got, logits[0][:, [0, 2, 3, 5]])


def test_softmax_does_not_see_normalization(logits):
    means = class_means_of(*logits, 6)
    naive, normalized, randomized, zeroed = (
        filter_logits(logits[0], filtration_matrix(means, [1, 4], mode)) for mode in MODES
    )
    np.testing.assert_allclose(softmax(normalized, axis=1), softmax(naive, axis=1), rtol=0, atol=1e-12)
    assert np.abs(normalized - naive).max() > 0.5
    for other in (randomized, zeroed):
        assert np.abs(softmax(other, axis=1) - softmax(naive, axis=1)).max() > 0.05
    # With C outputs as well.
    naive, normalized = (
        filter_logits(logits[0], filtration_matrix(means, [1, 4], mode), deleted=[1, 4]) for mode in MODES[:2]
    )
    np.testing.assert_allclose(softmax(normalized, axis=1), softmax(naive, axis=1), rtol=0, atol=1e-12)


def test_randomization_is_drawn_by_the_seed(logits):
    means = class_means_of(*logits, 6)
    same = [filtration_matrix(means, [2, 0], "randomization", seed=7) for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert np.abs(same[0] - filtration_matrix(means, [2, 0], "randomization", seed=8)).max() > 0.01
    drawn = [filtration_matrix(means, 0, "randomization", seed=seed) @ means[:, 0] for seed in range(2000)]
    assert abs(np.mean(drawn)) < 0.05 and abs(np.std(drawn) - 1) < 0.03


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("deleted", [None, [3, 0]])
def test_folding_equals_filtering(logits, mode, deleted):
    rng = np.random.default_rng(1)
    features, kernel, bias = rng.normal(size=(50, 9)), rng.normal(size=(9, 6)), rng.normal(size=6)
    matrix = filtration_matrix(class_means_of(*logits, 6), [3, 0], mode)
    weights, offset = fold_into_head(kernel, bias, matrix, deleted=deleted)
    want = filter_logits(features @ kernel + bias, matrix, deleted=deleted)
    np.testing.assert_allclose(features @ weights + offset, want, atol=1e-12)
    assert want.shape == (50, 6 if deleted else 4)
    if not deleted:
        np.testing.assert_allclose(want[7], matrix @ (kernel.T @ features[7] + bias), atol=1e-12)


def test_the_head_keeps_its_precision(logits):
    matrix = filtration_matrix(class_means_of(*logits, 6), 3, "zeroing")
    for dtype in (jnp.float32, jnp.bfloat16):
        kernel, bias = jnp.ones((9, 6), dtype), jnp.ones(6, dtype)
        weights, offset = fold_into_head(kernel, bias, matrix, deleted=3)
        assert weights.dtype == offset.dtype == dtype
        assert np.isfinite(weights.astype(np.float32)).all() and np.isfinite(offset.astype(np.float32)).all()


def test_a_deleted_class_keeps_a_column_that_never_wins(logits):
    values = np.concatenate([logits[0], 1e3 * logits[0], logits[0] - 1e4])  # far out, and all low
    matrix = filtration_matrix(class_means_of(*logits, 6), [4, 1], "naive")
    got = filter_logits(values, matrix, deleted=[4, 1])
    np.testing.assert_array_equal(got[:, [0, 2, 3, 5]], values[:, [0, 2, 3, 5]])
    np.testing.assert_allclose(got[:, 1], values[:, [0, 2, 3, 5]].mean(axis=1) - 30, rtol=1e-12)
    assert np.isfinite(got).all()
    assert softmax(got, axis=1)[:, [1, 4]].max() <= np.exp(-30)
    assert softmax(got[:200].astype(np.float32), axis=1)[:, [1, 4]].min() > 0
    whole, shift = with_deleted_outputs(matrix, [4, 1], margin=5.0)
    assert shift.tolist() == [0, -5, 0, 0, -5, 0] and whole.shape == (6, 6)


def test_class_means_by_loop(logits):
    values, labels = logits
    values.flags.writeable = False
    got = class_means_of(values.astype(np.float32), labels, 6)
    for i in range(6):
        rows = [values[n] for n in range(200) if labels[n] == i]
        np.testing.assert_allclose(got[:, i], sum(rows) / len(rows), rtol=1e-5)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(class_means_of(jnp.asarray(values), jnp.asarray(labels), 6), got)


def test_means_of_float32_are_summed_in_float64():
    # 2²⁴ + 1 does not fit float32's digits: a float32 sum would lose the ones.
    logits = np.stack([np.r_[2.0**24, np.ones(9)], np.zeros(10)], axis=1).astype(np.float32)
    logits = np.concatenate([logits, np.ones((1, 2), np.float32)])
    got = class_means_of(logits, np.r_[np.zeros(10, int), 1], 2)
    assert got[0, 0] == (2.0**24 + 9) / 10


def test_a_memory_map_will_do(tmp_path, logits):
    np.save(tmp_path / "logits.npy", logits[0].astype(np.float32))
    mapped = np.load(tmp_path / "logits.npy", mmap_mode="r")
    np.testing.assert_allclose(class_means_of(mapped, logits[1], 6), class_means_of(*logits, 6), rtol=1e-5)


def test_a_real_classifier_without_one_digit():
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(tol=0.01).fit(x / 16, y)
    logits = x / 16 @ model.coef_.T + model.intercept_
    means = class_means_of(logits, y, 10)
    # Its logits sum to 0, so the means are singular; a constant on the bias is the cure.
    with pytest.raises(InputError, match="every class's mean logits sum to about 0; add one constant"):
        filtration_matrix(means, 3, "zeroing")
    shifted = class_means_of(logits + 1, y, 10)
    np.testing.assert_allclose(shifted, means + 1)
    kept = np.delete(np.arange(10), 3)
    before = np.mean(kept[logits[:, kept].argmax(axis=1)[y != 3]] == y[y != 3])
    for mode in ("naive", "normalization", "zeroing"):
        matrix = filtration_matrix(shifted, 3, mode)
        weights, bias = fold_into_head(model.coef_.T, model.intercept_ + 1, matrix, deleted=3)
        answers = (x / 16 @ weights + bias).argmax(axis=1)
        assert not np.any(answers == 3)
        assert np.mean(answers[y != 3] == y[y != 3]) > before - 0.02


def test_degenerate_means_are_refused_in_every_mode(logits):
    means = class_means_of(*logits, 6)
    same, zero, mixed = means.copy(), means.copy(), means.copy()
    same[:, 4] = same[:, 1]
    zero[:, 2] = 0
    mixed[:, 5] = (mixed[:, 0] + mixed[:, 3]) / 2
    for bad, match in [
        (
            same,
            r"condition number .*, but expected at most 1e\+06: the mean logits of classes 1, 4 are the same",
        ),
        (zero, "the mean logits of class 2 are all about 0; give more samples of it"),
        (mixed, "classes 0, 3, 5 are the same or follow from one another; give more samples of them"),
        (np.zeros((6, 6)), "condition number inf.*classes 0, 1, 2, 3, 4, 5 "),
        (means - means.mean(axis=0), "logits sum to about 0; add one constant, such as 1"),
    ]:
        for mode in MODES:
            with pytest.raises(InputError, match=match):
                filtration_matrix(bad, 0, mode)
    # On either side of the limit.
    for condition, refused in ((0.9e6, False), (1.1e6, True)):
        near = np.diag([condition, 30.0, 1.0])
        if refused:
            with pytest.raises(InputError, match=r"condition number 1\.1e\+06.*class 2 are all about 0"):
                filtration_matrix(near, 0, "zeroing")
        else:
            filtration_matrix(near, 0, "zeroing")


def test_bad_samples_are_refused(logits):
    values, labels = logits
    with pytest.raises(
        InputError, match="Class 2 has no samples among the .*, but expected some of every class"
    ):
        class_means_of(values[labels != 2], labels[labels != 2], 6)
    with pytest.raises(InputError, match="Classes 0, 1, 2, 3, 4, 5 have no samples among the 0"):
        class_means_of(values[:0], labels[:0], 6)
    with pytest.raises(InputError, match="labels run from 0 to 6, but expected 0 to 5"):
        class_means_of(values, np.r_[labels[:-1], 6], 6)
    with pytest.raises(InputError, match="labels run from -1 to"):
        class_means_of(values, np.r_[labels[:-1], -1], 6)
    with pytest.raises(InputError, match=r"shape \(200, 6\) and labels \(200,\) for 7 classes"):
        class_means_of(values, labels, 7)
    infinite = values.copy()
    infinite[0, 3] = -np.inf
    with pytest.raises(InputError, match=f"Class {labels[0]} has mean logits that are not finite"):
        class_means_of(infinite, labels, 6)
    means = class_means_of(values, labels, 6)
    means[0, 1] = np.nan
    with pytest.raises(InputError, match="Class 1 has mean logits that are not finite"):
        filtration_matrix(means, 0, "naive")


@pytest.mark.parametrize(
    ("deleted", "match"),
    [
        (6, "deleted is 6, but expected one or more classes from 0 to 5"),
        ([0, -1], r"deleted is \[0, -1\], but expected one or more classes"),
        ([], r"deleted is \[\]"),
        ([1, 1], "expected each class once; drop the repeats"),
        ([0, 1, 2, 3, 4, 5], "All 6 classes are deleted"),
    ],
)
def test_bad_classes_are_refused(logits, deleted, match):
    means = class_means_of(*logits, 6)
    with pytest.raises(InputError, match=match):
        filtration_matrix(means, deleted, "naive")
    with pytest.raises(InputError, match=match):
        with_deleted_outputs(means[:5], deleted)


def test_bad_modes_margins_and_shapes_are_refused(logits, unchecked):
    means = class_means_of(*logits, 6)
    matrix = filtration_matrix(means, [0], "naive")
    with pytest.raises(InputError, match="mode is 'normalisation', but expected one of naive, normalization"):
        filtration_matrix(means, [0], "normalisation")
    with pytest.raises(InputError, match=r"deleted is \[0.5\], but expected one or more classes"):
        filtration_matrix(means, [0.5], "naive")
    for margin in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match="margin is .* positive finite number"):
            with_deleted_outputs(matrix, [0], margin=margin)
    with pytest.raises(InputError, match=r"class_means has shape \(5, 6\), but expected \[C, C\]"):
        filtration_matrix(means[:5], [0], "naive")
    with pytest.raises(
        InputError, match=r"shape \(5, 6\) and 2 deleted classes are named, .* 4; name the classes"
    ):
        with_deleted_outputs(matrix, [0, 1])
    with pytest.raises(InputError, match=r"The filter has shape \(6,\), but expected \[C − \|D\|, C\]"):
        with_deleted_outputs(matrix[0], [0])
    with pytest.raises(InputError, match=r"The filter has shape \(6,\), but expected \[C − \|D\|, C\]"):
        fold_into_head(np.zeros((9, 6)), np.zeros(6), matrix[0])
    with pytest.raises(InputError, match=r"logits have shape \(3, 5\), but expected \[N, 6\]"):
        filter_logits(np.zeros((3, 5)), matrix)
    for kernel, bias in (((9, 5), 5), ((9, 6), 5), ((6,), 6)):
        with pytest.raises(InputError, match=r"The kernel has shape .* and the filter takes 6 logits"):
            fold_into_head(np.zeros(kernel), np.zeros(bias), matrix)
