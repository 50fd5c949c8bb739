import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.experiments import signal_group
from mu_jax.experiments.signal_parts import SignalParts

N, A, C = 5, 2, 3


def signals(models):
    rng = np.random.default_rng(0)
    shapes = {"phi": (N, A), "probability": (N, A), "logits": (N, A, C)}
    return {name: rng.random((len(models), *shape), np.float32) for name, shape in shapes.items()}


def facts(models):
    return {"diverged_step": np.full(len(models), -1), "loss": np.ones(len(models), np.float32)}


def write(folder, *groups):
    for group, models in enumerate(groups):
        SignalParts(folder).write(group, models, signals(models), facts(models))


def test_a_part_is_read_a_row_at_a_time(tmp_path):
    write(tmp_path, [4, 2])
    group = signal_group.open_group(tmp_path / "signals" / "parts" / "group_000000.npz")
    assert group.models == (4, 2)
    assert group.shapes == {"phi": (N, A), "probability": (N, A), "logits": (N, A, C)}
    assert {name: fact.tolist() for name, fact in group.facts.items()} == {
        "diverged_step": [-1, -1],
        "loss": [1, 1],
    }
    for name, array in signals([4, 2]).items():
        assert list(group.rows(name)) == [row.tobytes() for row in array]


def test_signals_may_lie_in_memory_in_any_order(tmp_path):
    turned = {name: np.asfortranarray(array) for name, array in signals([0, 1]).items()}
    SignalParts(tmp_path).write(0, [0, 1], turned, facts([0, 1]))
    group = signal_group.open_group(tmp_path / "signals" / "parts" / "group_000000.npz")
    assert list(group.rows("logits")) == [row.tobytes() for row in signals([0, 1])["logits"]]


def test_a_part_cut_short_anywhere_is_refused_and_never_skipped(tmp_path):
    write(tmp_path, [0, 1], [2, 3])
    path = tmp_path / "signals" / "parts" / "group_000001.npz"
    whole = path.read_bytes()
    for size in [*range(0, len(whole), 40), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(
            InputError, match=r"group_000001.npz cannot be read .*; delete it and start again to repeat"
        ):
            SignalParts(tmp_path).stored_models()
    path.unlink()
    assert SignalParts(tmp_path).stored_models() == {0, 1}


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"models": np.array([0.0])}, r"models are \[0.0\]"),
        ({"models": np.array([0], object)}, "models has"),
        ({"phi": np.zeros((2, N, A), np.float32)}, "of 1 models"),
        ({"phi": np.zeros((1, N, A))}, "phi is float64"),
        ({"phi": np.zeros((1, N, A), np.float32, order="F")}, "phi has"),
        ({"fact_diverged_step": np.array([-2])}, "diverged_step is"),
        ({"fact_loss": np.array(["x"])}, "the fact loss is"),
        ({"stranger": np.zeros((1, N, A), np.float32)}, "the signals are"),
        (None, "models"),
    ],
)
def test_a_part_of_something_else_is_refused(tmp_path, arrays, message):
    write(tmp_path, [0])
    path = tmp_path / "signals" / "parts" / "group_000000.npz"
    with np.load(path) as archive:
        whole = dict(archive)
    np.savez(path, **(whole | arrays if arrays else {}))
    with pytest.raises(InputError, match=f"{message}.*; delete it and start again"):
        SignalParts(tmp_path).stored_models()


@pytest.mark.parametrize(
    "models, changes, message",
    [
        ([0, 0], {}, r"models are \[0, 0\]"),
        ([0, -1], {}, r"models are \[0, -1\]"),
        ([], {}, r"models are \[\]"),
        (np.array([0.5, 1.5]), {}, r"models are \[0.5, 1.5\]"),
        ([0, 1, 2], {}, "of 3 models"),
        ([0, 1], {"phi": np.zeros((2, N, A))}, r"phi is float64\[2, 5, 2\]"),
        ([0, 1], {"phi": np.zeros((2, N), np.float32)}, r"phi is float32\[2, 5\]"),
        ([0, 1], {"probability": np.zeros((2, N, 1), np.float32)}, r"probability is float32\[2, 5, 1\]"),
        ([0, 1], {"logits": np.zeros((2, N, A), np.float32)}, r"logits is float32\[2, 5, 2\]"),
        ([0, 1], {"logits": np.zeros((2, N, A, 0), np.float32)}, "logits is empty"),
        ([0, 1], {"phi": np.full((2, N, A), np.nan, np.float32)}, "phi of model 1 is not finite"),
        ([0, 1], {"loss": np.zeros((2, N, A), np.float32)}, "the signals are logits, loss, phi, probability"),
        ([0, 1], {"fact_loss": np.zeros(3)}, r"the fact loss is float64\[3\] of 2 models"),
        ([0, 1], {"fact_ok": np.ones(2, bool)}, "the fact ok is bool"),
        ([0, 1], {"fact_diverged_step": None}, "diverged_step is missing"),
        ([0, 1], {"fact_diverged_step": np.array([-1.0, -1.0])}, "diverged_step is"),
    ],
)
def test_what_is_not_a_part_is_never_written(tmp_path, models, changes, message):
    arrays = signals([0, 1]) | {f"fact_{name}": fact for name, fact in facts([0, 1]).items()} | changes
    arrays = {name: array for name, array in arrays.items() if array is not None}
    given = {name.removeprefix("fact_"): array for name, array in arrays.items() if name.startswith("fact_")}
    arrays = {name: array for name, array in arrays.items() if not name.startswith("fact_")}
    with pytest.raises(InputError, match=f"group_000000.npz cannot be made: .*{message}.*, but expected"):
        SignalParts(tmp_path).write(0, models, arrays, given)
    assert not list(tmp_path.rglob("*.npz*"))


def test_a_negative_group_is_refused(tmp_path):
    with pytest.raises(InputError, match="group is -1, but expected 0 or more"):
        SignalParts(tmp_path).write(-1, [0], signals([0]), facts([0]))


def test_a_row_that_ends_early_is_an_error(tmp_path):
    write(tmp_path, [0, 1])
    group = signal_group.open_group(tmp_path / "signals" / "parts" / "group_000000.npz")
    longer = signal_group.Group(group.path, (0, 1, 2), group.shapes, group.facts)
    with pytest.raises(InputError, match="phi ends early"):
        list(longer.rows("phi"))
