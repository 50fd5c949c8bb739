"""Memberships: exact halves, independent, stable as a pool grows; files read or refused."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.config import InputError
from mu_jax.data import membership
from mu_jax.data.membership import draw_membership, embed_membership, read_membership
from mu_jax.data.random_streams import host_stream

KINDS = pytest.mark.parametrize("kind", ["half", "pairs"])
even = st.integers(1, 10).map(lambda half: 2 * half)


def matrix(*rows: str) -> np.ndarray:
    return np.array([[letter == "1" for letter in row] for row in rows])


def each_block(member: np.ndarray, blocks) -> list[np.ndarray]:
    return np.split(member, np.cumsum(blocks)[:-1])


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["half", "pairs"]),
    blocks=st.lists(even, min_size=1, max_size=4),
    candidates=st.integers(60, 300),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_candidate_is_in_exactly_half_of_each_block(kind, blocks, candidates, seed):
    member = draw_membership(kind, blocks, candidates, seed)
    assert member.shape == (sum(blocks), candidates)
    assert member.dtype == np.bool_
    for block, models in zip(each_block(member, blocks), blocks, strict=True):
        np.testing.assert_array_equal(block.sum(0), models // 2)
    np.testing.assert_array_equal(draw_membership(kind, blocks, candidates, seed), member)


@settings(deadline=None, max_examples=40)
@given(kind=st.sampled_from(["half", "pairs"]), first=even, later=st.lists(even, max_size=3))
def test_a_growing_pool_keeps_its_rows(kind, first, later):
    small = draw_membership(kind, [first], 80, 5)
    grown = draw_membership(kind, [first, *later], 80, 5)
    np.testing.assert_array_equal(grown[:first], small)


@settings(deadline=None, max_examples=40)
@given(blocks=st.lists(even, min_size=1, max_size=4), candidates=st.integers(2, 81), seed=st.integers(0, 99))
def test_pairs_are_complementary_halves_whatever_the_blocks(blocks, candidates, seed):
    member = draw_membership("pairs", blocks, candidates, seed)
    np.testing.assert_array_equal(member[0::2], ~member[1::2])
    np.testing.assert_array_equal(member[0::2].sum(1), candidates // 2)
    np.testing.assert_array_equal(draw_membership("pairs", [sum(blocks)], candidates, seed), member)


@KINDS
def test_small_matrices_stay_as_they_were(kind):
    # A change here means that no pool that users have can grow: raise the recipe version, and say so.
    wanted = {
        "half": matrix("10101", "01000", "10110", "01011", "11001", "00110"),
        "pairs": matrix("10100", "01011", "01100", "10011", "00011", "11100"),
    }[kind]
    np.testing.assert_array_equal(draw_membership(kind, [4, 2], 5, 0), wanted)


@pytest.mark.parametrize("at_once", [1, 7, 16, 100, 10**6])
def test_the_cut_into_columns_does_not_show(monkeypatch, at_once):
    wanted = draw_membership("half", [6, 10], 57, 3)
    monkeypatch.setattr(membership, "_DRAWN_AT_ONCE", at_once)
    np.testing.assert_array_equal(draw_membership("half", [6, 10], 57, 3), wanted)


@KINDS
def test_models_have_about_half_of_the_candidates(kind):
    candidates = 10_000
    sizes = draw_membership(kind, [16, 8], candidates, 1).sum(1)
    # Each candidate is in a model with probability ½: the standard deviation is 50.
    assert np.abs(sizes - candidates / 2).max() < 6 * 50
    assert (np.ptp(sizes) > 0) == (kind == "half")


@KINDS
def test_candidates_are_independent_and_models_as_balanced_as_chance(kind):
    member = np.concatenate([draw_membership(kind, [8], 50, seed) for seed in range(500)])
    signs = np.where(member, 1.0, -1.0)
    of_candidates = (signs.T @ signs / len(signs))[~np.eye(50, dtype=bool)]
    # `half`: the eight signs of a sweep have the same variance of their product as independent ones, times 8/7.
    # `pairs`: four pairs of equal products, whose mean is -1/49, as of draws without replacement.
    deviation = np.sqrt(8 / 7 / len(signs)) if kind == "half" else np.sqrt(2 / len(signs))
    assert abs(of_candidates.mean() - (0 if kind == "half" else -1 / 49)) < 0.005
    assert np.abs(of_candidates).max() < 5.5 * deviation + 1 / 49
    # The signs of a sweep's models sum to zero, so two models' mean correlation is -1/(K-1).
    sweeps = signs.reshape(500, 8, 50)
    of_models = (np.einsum("skm,slm->kl", sweeps, sweeps) / (500 * 50))[~np.eye(8, dtype=bool)]
    np.testing.assert_allclose(of_models.mean(), -1 / 7, atol=1e-9)
    if kind == "half":
        np.testing.assert_allclose(of_models, -1 / 7, atol=6 / np.sqrt(25_000))
    # Every model is as likely as every other to have a candidate.
    assert np.abs(sweeps.mean(0)).max() < 5.5 / np.sqrt(500)


def test_all_halves_of_four_models_are_equally_likely():
    member = draw_membership("half", [4], 6000, 2)
    codes, counts = np.unique(np.array([1, 2, 4, 8]) @ member, return_counts=True)
    assert codes.tolist() == [3, 5, 6, 9, 10, 12]
    # Binomial(6000, 1/6): standard deviation 29.
    assert np.abs(counts - 1000).max() < 5 * 29


@KINDS
def test_seeds_blocks_and_pairs_differ(kind):
    seeds = {draw_membership(kind, [4], 100, seed).tobytes() for seed in range(20)}
    assert len(seeds) == 20
    blocks = each_block(draw_membership(kind, [4, 4, 4], 100, 0), [4, 4, 4])
    assert len({block.tobytes() for block in blocks}) == 3
    assert len({row.tobytes() for row in np.concatenate(blocks)}) == 12


def test_blocks_of_another_size_are_another_draw_and_share_no_stream_with_other_purposes():
    small, large = (draw_membership("half", [models], 400, 0) for models in (4, 8))
    agree = np.mean(small == large[:4])
    assert abs(agree - 0.5) < 0.1
    pair = draw_membership("pairs", [2], 400, 0)[0]
    other = host_stream(0, "validation").permuted(np.arange(400) < 200)
    assert abs(np.mean(pair == other) - 0.5) < 0.15


@KINDS
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (
            [7],
            "sweep.models is 7, but expected an even number, so that every example is in exactly half of the "
            "models; ask for 8.",
        ),
        ([1], "sweep.models is 1, but expected an even number, at least 2, so .*; ask for 2."),
        ([0], "sweep.models is 0, but expected an even number, at least 2, .* ask for 2."),
        ([-4], "sweep.models is -4, .* ask for 2."),
        ([8, 3], "sweep.models adds 3 models to the 8 there, but expected an even number, so .* ask for 12."),
        ([8, 4, 0], "sweep.models adds 0 models to the 12 there, .* at least 2, .* ask for 14."),
        ([], "no block of models"),
    ],
)
def test_blocks_that_cannot_be_halved(kind, blocks, message):
    with pytest.raises(InputError, match=f"{message}") as caught:
        draw_membership(kind, blocks, 40, 0)
    assert str(caught.value).count(". ") == 0


def test_unknown_kind():
    with pytest.raises(InputError, match="membership is 'quarter', but expected one of half, pairs"):
        draw_membership("quarter", [2], 40, 0)


@KINDS
@pytest.mark.parametrize("candidates", [0, 1])
def test_too_few_candidates(kind, candidates):
    with pytest.raises(InputError, match=f"of {candidates} candidates as members, but .* use more examples"):
        draw_membership(kind, [2], candidates, 0)


def test_a_model_that_drew_all_of_few_candidates():
    with pytest.raises(InputError, match=r"Model \d+ was drawn with [03] of 3 candidates as members"):
        draw_membership("half", [64], 3, 0)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, ">i4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_what_was_saved(tmp_path, dtype, order):
    wanted = draw_membership("half", [6], 40, 0)
    np.save(tmp_path / "member.npy", np.asarray(wanted, dtype, order=order))
    member = read_membership(tmp_path / "member.npy", 6, 40)
    np.testing.assert_array_equal(member, wanted)
    assert member.dtype == np.bool_
    assert member.flags.c_contiguous
    member[0, 0] = True  # writable, as a drawn one is


def test_a_file_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", os.fspath(tmp_path))
    wanted = matrix("10", "01")
    np.save(tmp_path / "member.npy", wanted)
    np.testing.assert_array_equal(read_membership("~/member.npy", 2, 2), wanted)


GOOD = matrix("1010", "0101", "1100")


def changed(row: int | slice, column: int | slice, value: float, dtype=np.int64) -> np.ndarray:
    member = GOOD.astype(dtype)
    member[row, column] = value
    return member


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (GOOD.astype(float), r"dtype float64 and shape \(3, 4\)"),
        (GOOD.astype("U1"), "dtype <U1"),
        (GOOD.ravel(), r"shape \(12,\)"),
        (GOOD[None], r"shape \(1, 3, 4\)"),
        (np.array(True), r"shape \(\)"),
        (
            GOOD.T,
            r"has shape \(4, 3\), but expected \(3, 4\): one row a model \(sweep.models\), one column a",
        ),
        (GOOD[:0], r"has shape \(0, 4\)"),
        (changed(0, 0, 2), r"values 0\.\.2, but expected 0 \(out\) or 1 \(in\)"),
        (changed(0, 0, -1), r"values -1\.\.1"),
        (changed(0, 0, 256, np.uint16), r"values 0\.\.256"),
        (changed(0, 0, 3, np.uint8).view(bool), r"values 0\.\.3"),
        (changed(1, slice(None), 0), r"model 1 \(its row\) has 0 of 4"),
        (changed(2, slice(None), 1), r"model 2 \(its row\) has 4 of 4"),
        (changed(slice(None), slice(1, 3), 0), "2 of 4 candidates are in none or all .* in column 1,"),
        (changed(slice(None), 3, 1), "1 of 4 candidates are in none or all .* in column 3,"),
        (GOOD.astype(object), "holds no plain NumPy array"),
    ],
)
def test_bad_matrices(tmp_path, member, message):
    np.save(tmp_path / "member.npy", member, allow_pickle=True)
    with pytest.raises(InputError, match=message) as caught:
        read_membership(tmp_path / "member.npy", 3, 4)
    assert str(caught.value).startswith("sweep.membership_file is ")
    assert str(caught.value).endswith(".")


def test_files_that_are_no_array(tmp_path):
    with pytest.raises(
        InputError, match=r"sweep\.membership_file is '.*absent\.npy', but there is no such file"
    ):
        read_membership(tmp_path / "absent.npy", 3, 4)
    with pytest.raises(InputError, match="cannot be read"):
        read_membership(tmp_path, 3, 4)
    np.savez(tmp_path / "archive.npz", member=GOOD)
    np.save(tmp_path / "member.npy", GOOD)
    whole = (tmp_path / "member.npy").read_bytes()
    (tmp_path / "text.npy").write_text("1 0 1 0")
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "short.npy").write_bytes(whole[:-1])
    (tmp_path / "shorter.npy").write_bytes(whole[:50])
    (tmp_path / "header.npy").write_bytes(whole.replace(b"(3, 4)", b"(3, 4("))
    (tmp_path / "key.npy").write_bytes(whole.replace(b"'shape'", b"b'sape'"))
    for name in ("archive.npz", "text.npy", "empty.npy", "short.npy", "shorter.npy", "header.npy", "key.npy"):
        with pytest.raises(InputError, match="holds no plain NumPy array, but one .npy array was expected"):
            read_membership(tmp_path / name, 3, 4)


def test_embed_by_hand():
    embedded = embed_membership(matrix("101", "010"), np.array([4, 0, 2]), 6)
    np.testing.assert_array_equal(embedded, matrix("001010", "100000"))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 1000), candidates=st.integers(20, 40), others=st.integers(0, 20))
def test_embedding_keeps_the_columns_and_adds_no_member(seed, candidates, others):
    member = draw_membership("pairs", [4], candidates, seed)
    rows = np.random.default_rng(seed).permutation(candidates + others)[:candidates]
    embedded = embed_membership(member, rows, candidates + others)
    np.testing.assert_array_equal(embedded[:, rows], member)
    assert embedded.sum() == member.sum()


@pytest.mark.parametrize("rows", [[0, 1, 1], [0, 1, 6], [-1, 1, 2]])
def test_embed_refuses_positions_that_are_no_places_of_their_own(rows):
    with pytest.raises(InputError, match=r"a repeat or a position outside 0\.\.5"):
        embed_membership(matrix("101", "010"), np.array(rows), 6)
