"""Aggregates of shards: by hand, against loops, ties as they are stated, and shards that do not vote."""

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mu_jax.config import InputError
from mu_jax.unlearning.sisa import aggregation
from mu_jax.unlearning.sisa.aggregation import majority_vote, mean_logits, mean_posterior


@pytest.fixture
def unchecked():
    """Runs without the annotations' checks, as users have them: there only the function's own words refuse input."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def posteriors(shards, examples, classes, seed=0, coarse=False):
    rng = np.random.default_rng(seed)
    if coarse:  # eighths: exact in float64, and so full of ties
        return rng.multinomial(8, np.full(classes, 1 / classes), (shards, examples)) / 8
    return rng.dirichlet(np.ones(classes), (shards, examples)).astype(np.float32)


def voted(posteriors, votes):
    result = []
    for example in range(posteriors.shape[1]):
        rows = [list(map(float, p[example])) for p, vote in zip(posteriors, votes, strict=True) if vote]
        counts = [0] * posteriors.shape[2]
        for row in rows:
            counts[row.index(max(row))] += 1
        best = sorted(range(len(counts)), key=lambda c: (-counts[c], -sum(row[c] for row in rows), c))[0]
        result.append([float(c == best) for c in range(len(counts))])
    return np.array(result).reshape(posteriors.shape[1:])


@settings(deadline=None, max_examples=100)
@given(
    shards=st.integers(1, 6),
    examples=st.integers(0, 12),
    classes=st.integers(1, 4),
    coarse=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_against_loops(shards, examples, classes, coarse, seed):
    p = posteriors(shards, examples, classes, seed, coarse)
    votes = np.random.default_rng(seed).random(shards) < 0.7
    votes[seed % shards] = True
    assert np.array_equal(majority_vote(p, votes=votes), voted(p, votes))
    mean = sum(p[s].astype(float) for s in range(shards) if votes[s]) / votes.sum()
    np.testing.assert_allclose(mean_posterior(p, votes=votes), mean, atol=1e-12)
    z = np.random.default_rng(seed).normal(0, 5, p.shape).astype(np.float32)
    power = np.exp(sum(z[s].astype(float) for s in range(shards) if votes[s]) / votes.sum())
    np.testing.assert_allclose(mean_logits(z, votes=votes), power / power.sum(1, keepdims=True), atol=1e-12)
    # A shard's place says nothing. (Eighths add up exactly in any order.)
    if coarse:
        assert np.array_equal(majority_vote(p[::-1], votes=votes[::-1]), majority_vote(p, votes=votes))


def test_by_hand():
    p = np.array([[[0.6, 0.4]], [[0.6, 0.4]], [[0.05, 0.95]]])
    assert majority_vote(p).tolist() == [[1.0, 0.0]]  # two against one
    np.testing.assert_allclose(mean_posterior(p), [[1.25 / 3, 1.75 / 3]])  # but the one is surer
    z = np.log(np.array([[[0.5, 0.5]], [[0.8, 0.2]]]))
    np.testing.assert_allclose(mean_logits(z), [[2 / 3, 1 / 3]])  # √(0.5·0.8) to √(0.5·0.2)


def test_ties_go_to_the_larger_mean_posterior_then_to_the_lower_class():
    # One vote each for 0 and 2; of the two, class 2 is larger in the mean. Class 1, the largest, has no vote.
    p = np.array([[[0.42, 0.40, 0.18]], [[0.0, 0.45, 0.55]]])
    assert mean_posterior(p).argmax() == 1
    assert majority_vote(p).tolist() == [[0.0, 0.0, 1.0]]
    # The same mean: the lower class. And a shard that cannot decide votes for the lower class.
    assert majority_vote(np.array([[[0.25, 0.75, 0]], [[0, 0.25, 0.75]]])[:, :, ::-1]).tolist() == [
        [0, 1.0, 0]
    ]
    assert majority_vote(np.array([[[0, 0.75, 0.25]], [[0, 0.25, 0.75]]])).tolist() == [[0, 1.0, 0]]
    assert majority_vote(np.array([[[0.0, 0.5, 0.5]]])).tolist() == [[0, 1.0, 0]]
    # A shard left out has no say in ties either.
    p = np.array([[[0.7, 0.3]], [[0.4, 0.6]], [[0.0, 1.0]]])
    assert majority_vote(p, votes=np.array([True, True, False])).tolist() == [[1.0, 0.0]]


def test_what_does_not_vote_is_not_read():
    p = posteriors(4, 5, 3)
    votes = np.array([True, False, True, False])
    nonsense = p.copy()
    nonsense[1], nonsense[3] = np.nan, -7
    for aggregate in (majority_vote, mean_posterior, mean_logits):
        assert np.array_equal(aggregate(nonsense, votes=votes), aggregate(p[::2]))
        assert np.array_equal(aggregate(p, votes=np.ones(4, bool)), aggregate(p))


def test_one_shard_is_its_own_aggregate():
    p = posteriors(1, 20, 4)
    assert np.array_equal(mean_posterior(p), p[0])
    np.testing.assert_allclose(mean_logits(np.log(p)), p[0], rtol=1e-5)
    assert np.array_equal(majority_vote(p).argmax(1), p[0].argmax(1))


def test_equal_shards_agree_and_large_logits_do_not_overflow():
    p = np.repeat(posteriors(1, 20, 4), 5, axis=0)
    np.testing.assert_allclose(mean_posterior(p), p[0], rtol=1e-12)
    z = np.array([[[3e38, -3e38]], [[3e38, -3e38]]], np.float32)
    assert mean_logits(z).tolist() == [[1.0, 0.0]]
    # A constant added to a shard's logits is no information.
    z = np.random.default_rng(0).normal(size=(3, 8, 4))
    np.testing.assert_allclose(
        mean_logits(z + np.array([5.0, -2, 9])[:, None, None]), mean_logits(z), atol=1e-12
    )


def test_blocks_change_nothing_and_read_only_files_do(tmp_path, monkeypatch):
    p = posteriors(3, 50, 4)
    np.save(tmp_path / "p.npy", p)
    mapped = np.load(tmp_path / "p.npy", mmap_mode="r")
    whole = [f(p) for f in (majority_vote, mean_posterior, mean_logits)]
    monkeypatch.setattr(aggregation, "BLOCK_ELEMENTS", 84)  # 7 examples
    for expected, aggregate in zip(whole, (majority_vote, mean_posterior, mean_logits), strict=True):
        assert np.array_equal(aggregate(mapped), expected)
    bad = p.copy()
    bad[2, 33] *= 2
    with pytest.raises(InputError, match="shard 2, example 33"):
        mean_posterior(bad, votes=np.array([False, True, True]))


def test_float16_and_one_hot_posteriors_pass():
    p = posteriors(3, 50, 10).astype(np.float16)
    np.testing.assert_allclose(mean_posterior(p).sum(axis=1), 1, atol=2e-3)
    votes = (posteriors(3, 50, 10) > 0.99).astype(int)
    votes[..., 0] = 1 - votes[..., 1:].sum(axis=-1)
    assert majority_vote(votes).sum() == 50


def test_bad_input(unchecked):
    p = posteriors(3, 5, 4)
    for aggregate in (majority_vote, mean_posterior, mean_logits):
        with pytest.raises(InputError, match="None of the 3 shards votes"):
            aggregate(p, votes=np.zeros(3, bool))
        for bad in (np.ones(2, bool), np.ones(3, int), np.ones((3, 1), bool)):
            with pytest.raises(InputError, match="a bool for each of the 3 shards"):
                aggregate(p, votes=bad)
        for bad in (p[0], p[:0], p[:, :, :0]):
            with pytest.raises(InputError, match=r"expected \[shards, examples, classes\]"):
                aggregate(bad)
        for value in (np.nan, np.inf):
            bad = p.copy()
            bad[1, 2, 3] = value
            with pytest.raises(InputError, match="of shard 1, example 2, are "):
                aggregate(bad)
    for bad in (np.log(p), 2 * p, p - 0.5):
        with pytest.raises(InputError, match="of shard 0, example 0, .* that sum to 1"):
            majority_vote(bad)
