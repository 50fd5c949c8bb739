import numpy as np
import pytest

from mu_jax.attacks.signals import confidence, logit_margin
from mu_jax.attacks.taylor_softmax import taylor_softmax
from mu_jax.config import InputError
from mu_jax.experiments.audit_signals import read_audit_signals

T, K, N, C = 2, 6, 12, 3


def arrays():
    rng = np.random.default_rng(0)
    return {
        "target_logits": rng.normal(size=(T, N, C)).astype(np.float32),
        "shadow_logits": rng.normal(size=(K, N, C)),
        "member_target": np.arange(N) % 2 == np.arange(T)[:, None] % 2,
        "member_shadow": rng.permuted(np.tile(np.arange(K) < 3, (N, 1)), axis=1).T.copy(),
        "labels": rng.integers(0, C, N),
    }


def save(tmp_path, values):
    np.savez(tmp_path / "signals.npz", **values)
    return tmp_path / "signals.npz"


def test_logits_become_margins(tmp_path):
    values = arrays() | {"images": np.zeros((N, 4, 5), np.uint8)}
    found = read_audit_signals(save(tmp_path, values))
    assert found.target_phi.shape == (T, N, 1)
    assert found.shadow_phi.shape == (K, N, 1)
    for model in range(K):
        expected = logit_margin(values["shadow_logits"][model], values["labels"])
        np.testing.assert_array_equal(found.shadow_phi[model, :, 0], expected)
    np.testing.assert_array_equal(found.member_shadow, values["member_shadow"])
    np.testing.assert_array_equal(found.labels, values["labels"])
    assert found.images.shape == (N, 4, 5, 1)


def test_probabilities_are_by_the_signal_asked_for(tmp_path):
    values = arrays()
    path = save(tmp_path, values)
    found = read_audit_signals(path)
    labels = np.stack([values["labels"]] * T)
    np.testing.assert_allclose(
        found.target_probability[..., 0], confidence(values["target_logits"], labels), rtol=1e-6
    )
    found = read_audit_signals(path, "taylor_softmax")
    for model in range(K):
        expected = taylor_softmax(values["shadow_logits"][model], values["labels"])
        np.testing.assert_array_equal(found.shadow_probability[model, :, 0], expected)
    del values["target_logits"]
    path = save(tmp_path, values | {"target_phi": np.zeros((T, N))})
    with pytest.raises(
        InputError, match="has 'target_phi', but a Taylor softmax is of all logits; save target_logits"
    ):
        read_audit_signals(path, "taylor_softmax")


def test_margins_are_taken_as_they_are(tmp_path):
    values = arrays()
    phi = np.random.default_rng(1).normal(size=(K, N, 2))
    del values["target_logits"], values["shadow_logits"], values["labels"]
    found = read_audit_signals(save(tmp_path, values | {"target_phi": phi[:T], "shadow_phi": phi}))
    np.testing.assert_array_equal(found.target_phi, phi[:T])
    one = read_audit_signals(
        save(tmp_path, values | {"target_phi": phi[:T, :, 0], "shadow_phi": phi[..., 0]})
    )
    np.testing.assert_array_equal(one.shadow_phi, phi[..., :1])
    assert one.images is None


def _nan(array):
    array = array.astype(np.float32)
    array[1, 0, 0] = np.nan
    return array


@pytest.mark.parametrize(
    "change, message",
    [
        ({"target_logit": np.zeros(2)}, "an array 'target_logit'.* did you mean 'target_logits'"),
        ({"target_logits": None}, "neither of 'target_logits' and 'target_phi'"),
        ({"target_phi": np.zeros((T, N))}, "both of 'target_logits' and 'target_phi'"),
        ({"labels": None}, "'target_logits' but no 'labels'"),
        ({"labels": np.full(N, C)}, r"labels lie in 3..3, but expected 0..2"),
        ({"labels": np.full(N, -1)}, r"labels lie in -1..-1, but expected 0..2"),
        ({"labels": np.zeros(N - 1, int)}, r"shape \[11\], but expected one integer for each of 12 examples"),
        ({"labels": np.zeros(N)}, "dtype float64"),
        ({"member_target": None}, "no array 'member_target'"),
        ({"member_target": np.zeros((T, N), int)}, r"dtype int64 .* expected bool\[2, 12\]"),
        ({"member_shadow": np.zeros((K, N - 1), bool)}, r"shape \[6, 11\], but expected bool\[6, 12\]"),
        ({"member_target": np.zeros((T, N), bool)}, "Target 0 has 0 members among 12 examples"),
        ({"target_logits": _nan(np.zeros((T, N, C)))}, "1 values that are not finite, the first in model 1"),
        (
            {"target_logits": np.zeros((T, N))},
            r"shape \[2, 12\], but expected floats \[models, examples, classes\]",
        ),
        ({"target_logits": np.zeros((T, N, 1))}, "1 class, but expected at least 2"),
        ({"shadow_logits": np.zeros((K, N + 1, C))}, "is of 13 examples, but there are 12 labels"),
        (
            {"shadow_logits": None, "shadow_phi": np.zeros((K, N, 3))},
            "12 under 3, but expected the same in both",
        ),
        ({"images": np.zeros((N, 4, 4))}, r"expected uint8 \[N,H,W\]"),
        (
            {"images": np.zeros((N, 4, 4, 2), np.uint8)},
            r"shape \[12, 4, 4, 2\], but expected uint8 \[N,H,W\]",
        ),
        ({"images": np.zeros((N, 0, 4), np.uint8)}, r"shape \[12, 0, 4\], but expected uint8"),
    ],
)
def test_bad_arrays_are_one_sentence(tmp_path, change, message):
    values = {name: array for name, array in (arrays() | change).items() if array is not None}
    with pytest.raises(InputError, match=message):
        read_audit_signals(save(tmp_path, values))


def test_files_that_hold_no_arrays_are_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_audit_signals(tmp_path / "none.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match="is one array, but expected an .npz archive"):
        read_audit_signals(tmp_path / "one.npy")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match="cannot be read as plain arrays"):
        read_audit_signals(tmp_path / "text.npz")
    np.savez(tmp_path / "pickle.npz", labels=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read as plain arrays"):
        read_audit_signals(tmp_path / "pickle.npz")
    whole = save(tmp_path, arrays()).read_bytes()
    (tmp_path / "header.npz").write_bytes(whole.replace(b"'descr'", b"'de(cr'"))
    with pytest.raises(InputError, match="cannot be read as plain arrays"):
        read_audit_signals(tmp_path / "header.npz")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be read as plain arrays"):
        read_audit_signals(tmp_path / "cut.npz")


def test_a_target_among_the_references_is_found_also_after_rounding(tmp_path):
    values = arrays()
    values["shadow_logits"][4] = values["target_logits"][1] * (1 + 1e-6)
    values["member_shadow"][4] = values["member_target"][1]
    with pytest.raises(InputError, match="Target 1 and shadow 4 have the same members and the same φ"):
        read_audit_signals(save(tmp_path, values))
    values["member_shadow"][4, 0] ^= True  # another model then, however alike
    read_audit_signals(save(tmp_path, values))


def test_labels_may_be_missing_beside_margins(tmp_path):
    values = arrays()
    phi = np.random.default_rng(1).normal(size=(K, N))
    del values["target_logits"], values["shadow_logits"], values["labels"]
    assert (
        read_audit_signals(save(tmp_path, values | {"target_phi": phi[:T], "shadow_phi": phi + 1})).labels
        is None
    )
