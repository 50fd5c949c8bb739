import pytest

from mu_jax.config import InputError
from mu_jax.ops import choice
from mu_jax.ops.choice import choose_lowering, measured_rows, signal_lowering
from mu_jax.ops.convolution import LOWERINGS

KEYS = ("backend", "width", "image_size", "models", "in_loop", "dtype")


def entry(lowering, width=16, image_size=32, models=1, in_loop=True, dtype="float32", backend="cpu"):
    values = (backend, width, image_size, models, in_loop, dtype)
    return dict(zip(KEYS, values, strict=True)) | {"lowering": lowering}


@pytest.fixture
def table(monkeypatch):
    """Sets the entries that `auto` sees."""
    return lambda *rows: monkeypatch.setattr(choice, "measured_rows", lambda: rows)


def test_an_exact_entry_wins(table):
    rows = [entry("small", image_size=8), entry("large"), entry("many", models=8), entry("wide", width=64)]
    rows += [entry("step", in_loop=False), entry("half", dtype="bfloat16")]
    table(*rows)
    for row in rows:
        arguments = {key: row[key] for key in KEYS}
        assert choose_lowering("auto", **arguments) == row["lowering"]


@pytest.mark.parametrize(
    "case, nearest",
    [
        ({"width": 24, "image_size": 32}, "narrow"),
        ({"width": 48, "image_size": 32}, "wide"),
        ({"width": 16, "image_size": 12}, "small"),
        ({"width": 16, "image_size": 32, "models": 5}, "many"),
        ({"width": 128, "image_size": 64}, "wide"),
        ({"width": 128, "image_size": 64, "models": 2}, "many"),
        ({"models": 64}, "many"),
        # A step outside of a loop keeps to its kind, although its size is far off.
        ({"width": 64, "image_size": 32, "in_loop": False}, "step"),
        ({"width": 64, "image_size": 32, "dtype": "bfloat16"}, "half"),
    ],
)
def test_the_nearest_entry_wins(table, case, nearest):
    table(
        entry("narrow"),
        entry("wide", width=64),
        entry("small", image_size=8),
        entry("many", models=8),
        entry("step", image_size=8, in_loop=False),
        entry("half", dtype="bfloat16"),
        entry("other", width=24, image_size=12, models=5, backend="gpu"),
    )
    assert choose_lowering("auto", "cpu", **case) == nearest


def test_a_backend_without_entries_gets_xla_for_one_model(table):
    table(entry("patches"))
    assert choose_lowering("auto", "cpu") == "patches"
    assert choose_lowering("auto", "tpu", width=64, image_size=32) == "xla"
    # Several models under XLA's own convolution would be a grouped one.
    assert choose_lowering("auto", "tpu", width=64, image_size=32, models=2) == "patches"


def test_two_models_are_nearer_to_many_than_to_one(table):
    table(entry("one"), entry("many", models=8))
    assert choose_lowering("auto", "cpu", width=16, image_size=32, models=2) == "many"
    assert choose_lowering("auto", "cpu", width=64, image_size=8) == "one"


def test_signals_do_not_go_through_winograd():
    assert [signal_lowering(lowering) for lowering in LOWERINGS] == ["xla", "patches", "patches"]


def test_a_setting_overrides_the_table(table):
    table(entry("patches"))
    for lowering in LOWERINGS:
        assert choose_lowering(lowering, "cpu", width=16, image_size=32) == lowering


def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match="'winograd_9', but expected one of auto, "):
        choose_lowering("winograd_9", "cpu")


def test_the_shipped_entries_are_the_fastest_and_stand_once():
    rows = measured_rows()
    for row in rows:
        assert set(row) == {*KEYS, "lowering", "mapping", "images_per_second", "device"}
        assert len(row["images_per_second"]) > 1
        assert row["lowering"] == max(row["images_per_second"], key=row["images_per_second"].get)
        assert row["lowering"] in LOWERINGS
        assert row["backend"] in ("cpu", "gpu", "tpu")
        assert choose_lowering("auto", **{key: row[key] for key in KEYS}) == row["lowering"]
        assert (row["mapping"] == "one") == (row["models"] == 1)
    keys = [tuple(row[key] for key in KEYS) for row in rows]
    table = {("cpu", 16, 8, 16), ("cpu", 16, 32, 1), ("cpu", 16, 32, 8), ("cpu", 64, 32, 1)}
    assert table <= {key[:4] for key in keys if key[4:] == (True, "float32")}
    assert len(set(keys)) == len(keys)
