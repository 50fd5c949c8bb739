import hashlib
import json
import shutil

import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import pool_hash, read_pool

MADE_BY = {"data": {"source": "a", "mean": (0.5, 0.25)}, "seed": 0, "recipe_version": 1}
K, N, A, C = 4, 5, 2, 3


def signals(models, logits=True, n=N, a=A):
    rng = [np.random.default_rng(model) for model in models]
    arrays = {
        "phi": np.stack([r.standard_normal((n, a), np.float32) for r in rng]),
        "probability": np.stack([r.random((n, a), np.float32) for r in rng]),
    }
    if logits:
        arrays["logits"] = np.stack([r.standard_normal((n, a, C), np.float32) for r in rng])
    return arrays


def make_pool(path, logits=True, **facts):
    facts = {
        "diverged_step": np.array([-1, -1, 7, -1]),
        "loss": np.array([0.5, 1, np.nan, 3], np.float32),
    } | facts
    arrays = signals(range(K), logits)
    arrays["phi"][2] = np.nan
    parts = SignalParts(path)
    parts.write(0, range(K), arrays, facts)
    member = np.random.default_rng(0).random((K, N)) < 0.5
    labels = np.arange(N, dtype=np.int32) % C
    parts.merge(
        member=member, labels=labels, produced_by=MADE_BY, queries=["as is", {"flip": True}], blocks=[1, 3],
        made_with={"devices": ("cpu",)},
    )  # fmt: skip
    return arrays | {"member": member, "labels": labels}


@pytest.fixture
def pool(tmp_path):
    make_pool(tmp_path / "run")
    return tmp_path / "run" / "signals"


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("logits", [True, False])
@pytest.mark.parametrize("place", [".", "signals"])
def test_what_was_written_is_read_bit_for_bit(tmp_path, logits, place):
    arrays = make_pool(tmp_path, logits)
    pool = read_pool(tmp_path / place, MADE_BY)
    for name, array in arrays.items():
        found = getattr(pool, name)
        assert isinstance(found, np.memmap) and not found.flags.writeable
        assert found.dtype == array.dtype and found.tobytes() == array.tobytes()
    assert (pool.logits is not None) == logits
    assert (pool.hash, pool.blocks, pool.diverged) == (pool_hash(MADE_BY), [1, 3], {2: 7})
    assert pool.produced_by["data"] == {"source": "a", "mean": [0.5, 0.25]}
    assert pool.queries == ["as is", {"flip": True}]
    assert pool.made_with == {"devices": ["cpu"]}
    np.testing.assert_array_equal(pool.usable, [True, True, False, True])
    assert set(pool.per_model) == {"loss"}
    np.testing.assert_array_equal(pool.per_model["loss"], [0.5, 1, np.nan, 3])


def test_a_fact_of_whole_numbers_stays_one(tmp_path):
    make_pool(tmp_path, samples=np.array([1, 2, 3, 2**53 + 1]))
    samples = read_pool(tmp_path).per_model["samples"]
    assert samples.dtype == np.int64 and samples.tolist() == [1, 2, 3, 2**53 + 1]


def test_a_renamed_copy_is_read(pool, tmp_path):
    shutil.copytree(pool, tmp_path / "copy")
    assert read_pool(tmp_path / "copy").hash == pool_hash(MADE_BY)


def test_the_hash_knows_values_and_not_their_order_or_container():
    other_order = {"recipe_version": 1, "seed": 0, "data": {"mean": [0.5, 0.25], "source": "a"}}
    assert pool_hash(other_order) == pool_hash(MADE_BY)
    assert pool_hash(MADE_BY | {"seed": np.int64(0)}) == pool_hash(MADE_BY)
    different = [
        MADE_BY | change for change in ({"seed": 1}, {"seed": "0"}, {"data": {}}, {"x": None}, {"seed": [0]})
    ]
    assert len({pool_hash(values) for values in [MADE_BY, *different]}) == 6
    # A pool's name must not change with a release: pools on disk carry it.
    text = rb'{"a":1,"b":[0.5,"\u03c6",null,true]}'
    assert pool_hash({"b": (0.5, "φ", None, True), "a": 1}) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", {1: 2}, np.zeros(2)])
def test_what_json_cannot_hold_has_no_hash(value):
    with pytest.raises(InputError, match=r"produced_by.data\[0\].x is .* expected text, a finite number"):
        pool_hash({"data": [{"x": value}]})


def test_the_hash_does_not_depend_on_the_number_of_models(pool, tmp_path):
    parts = SignalParts(tmp_path / "one")
    parts.write(0, [0], signals([0]), {"diverged_step": np.array([-1])})
    parts.merge(
        member=np.ones((1, N), bool), labels=np.zeros(N, np.int32), produced_by=MADE_BY, queries=[], blocks=[1],
        made_with={},
    )  # fmt: skip
    assert read_pool(tmp_path / "one").hash == read_pool(pool).hash


def test_an_unfinished_pool_and_a_strangers_folder_are_told_apart(tmp_path):
    with pytest.raises(
        InputError, match="holds no signals/pool.json, but expected the folder of a finished sweep"
    ):
        read_pool(tmp_path)
    SignalParts(tmp_path).write(0, [0], signals([0]), {"diverged_step": np.array([-1])})
    with pytest.raises(InputError, match="parts of a pool but no pool.json.*run the sweep again to its end"):
        read_pool(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be read .*check the path"):
        read_pool(tmp_path / "file")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "pool.json is damaged .*copy the pool again"),
        ('{"hash": "a', "pool.json is damaged"),
        ("\x00\xff", "pool.json is damaged"),
        ("[1]", "is not of a pool of mu_jax; name the folder of a finished sweep"),
        ('{"model": 3}', "is not of a pool of mu_jax"),
        ('{"hash": "a"}', "is damaged .produced_by is missing."),
    ],
)
def test_a_damaged_description_is_refused(pool, text, message):
    (pool / "pool.json").write_bytes(text.encode("latin1"))
    with pytest.raises(InputError, match=message):
        read_pool(pool)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"models": "4"}, "models is '4'"),
        ({"models": 5}, r"blocks are \[1, 3\] of 5 models"),
        ({"blocks": [4, 0]}, r"blocks are \[4, 0\]"),
        ({"blocks": ["a"]}, "TypeError"),
        ({"examples": 6}, "arrays are"),
        ({"arrays": {}}, "KeyError: 'phi'"),
        ({"arrays": {"phi": 3}}, "TypeError"),
        ({"diverged": {"4": 1}}, "diverged has '4': 1"),
        ({"diverged": {"x": 1}}, "ValueError"),
        ({"diverged": {"1": None}}, "diverged has '1': None"),
        ({"per_model": {"loss": [1.0]}}, "per_model.loss has 1 values for 4 models"),
        ({"per_model": {"loss": [1.0, 2.0, float("nan"), 3.0]}}, "NaN is not JSON"),
        ({"per_model": {"loss": [1.0, 2.0, "3", 3.0]}}, "per_model.loss holds"),
        ({"per_model": {"loss": [2**70, 1, 1, 1]}}, "OverflowError"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(pool, changes, message):
    edit(pool / "pool.json", **changes)
    with pytest.raises(InputError, match=f"pool.json is damaged .*{message}"):
        read_pool(pool)


def test_an_edited_recipe_is_noticed(pool):
    edit(pool / "pool.json", produced_by=MADE_BY | {"seed": 3})
    with pytest.raises(
        InputError, match="pool.json was edited: its hash '.*' is not that of its own produced_by"
    ):
        read_pool(pool)


def test_another_recipe_is_refused_naming_the_first_difference(pool):
    expected = MADE_BY | {"data": {"source": "b", "mean": (0.5, 0.25)}}
    with pytest.raises(
        InputError, match="The pool in .*signals .*data.source was 'a' and is now 'b'; name a pool"
    ):
        read_pool(pool, expected)
    with pytest.raises(InputError, match="the type of a number, or a key without value"):
        read_pool(pool, MADE_BY | {"seed": 0.0})


@pytest.mark.parametrize("name", ["member", "labels", "phi", "probability", "logits"])
def test_a_missing_short_or_foreign_array_is_refused(pool, name):
    path = pool / f"{name}.npy"
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(
        InputError, match=f"{name}.npy is missing, but pool.json lists it; copy the pool again"
    ):
        read_pool(pool)
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        message = "is damaged" if size < 128 else f"has {size} bytes, but expected {len(whole)} for"
        with pytest.raises(InputError, match=f"{name}.npy {message}"):
            read_pool(pool)
    path.write_bytes(whole + b"x")
    with pytest.raises(InputError, match=f"has {len(whole) + 1} bytes, but expected {len(whole)} for"):
        read_pool(pool)
    array = np.load(path)
    others = [
        array.astype(np.float64),
        array.astype(object),
        array[:-1],
        array.reshape(1, -1),
        array[:, None],
    ]
    others += [np.array(3.0), array.astype(array.dtype.newbyteorder(">"))] if name == "phi" else []
    others += [np.asfortranarray(array)] if array.ndim > 1 else [np.concatenate([array, array])]
    for other in others:
        np.save(path, other)
        with pytest.raises(
            InputError, match=rf"{name}.npy holds .*, but pool.json says \w+\[[\d, ]+\]; copy"
        ):
            read_pool(pool)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        read_pool(pool)


def test_any_byte_of_a_header_may_be_wrong(pool):
    path = pool / "phi.npy"
    whole = path.read_bytes()
    for place in range(128):
        for byte in (0, ord("("), ord("9"), 0xFF):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            try:
                read_pool(pool)
            except InputError:
                continue
            assert whole[place] in (byte, ord(" "))  # padding


def test_other_memberships_are_noticed(pool):
    member = np.load(pool / "member.npy")
    member[1, 2] ^= True
    np.save(pool / "member.npy", member)
    with pytest.raises(InputError, match="member.npy has another SHA-256 than pool.json says"):
        read_pool(pool)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_margin_that_is_not_finite_is_noticed_where_training_did_not_diverge(pool, value):
    phi = np.load(pool / "phi.npy")
    phi[3, 4, 1] = value
    np.save(pool / "phi.npy", phi)
    with pytest.raises(InputError, match="phi.npy has values that are not finite in model 3"):
        read_pool(pool)
    assert not np.isfinite(read_pool(pool, check_finite=False).phi[3]).all()


def test_rows_of_a_growth_that_has_not_finished_are_left_out(pool):
    before = read_pool(pool)
    for name in ("member", "phi", "probability", "logits"):
        array = np.load(pool / f"{name}.npy")
        np.save(pool / "grown.npy", np.concatenate([array, array[:2]]))
        (pool / "grown.npy").replace(pool / f"{name}.npy")
        now = read_pool(pool)
        assert getattr(now, name).tobytes() == getattr(before, name).tobytes()
