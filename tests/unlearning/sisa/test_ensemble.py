"""Fit, predict, delete, certify, and go on after a kill."""

import hashlib
import json

import jax
import numpy as np
import pytest

from mu_jax.config import InputError
from mu_jax.unlearning.sisa.aggregation import majority_vote, mean_logits, mean_posterior
from mu_jax.unlearning.sisa.ensemble import Sisa
from mu_jax.unlearning.sisa.requests import RequestLog
from mu_jax.unlearning.sisa.sharding import uniform_sharding
from sisa_case import MODEL, SHARDING, N, bits, copy, images_of, shard_models


def sisa_in(folder, aggregation="mean_posterior", **options):
    models = shard_models(folder / "models", **options)
    return Sisa(
        folder, models, SHARDING, MODEL, mean=(0.5,), std=(0.25,), batch_size=16, aggregation=aggregation
    ), models


@pytest.fixture(scope="module", name="fitted")
def fitted_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    sisa, _ = sisa_in(folder)
    sisa.fit()
    return folder


def test_a_deletion_is_exact_certified_and_remembered(fitted, tmp_path):
    folder = copy(fitted, tmp_path / "run")
    first, second = int(SHARDING.slices[0][2][0]), int(SHARDING.slices[2][3][0])
    sisa, models = sisa_in(folder)
    old = models.parameters_sha256(SHARDING)
    certificate = sisa.unlearn(np.array([first, second]))
    assert [(step["shard"], step["slice"]) for step in certificate["retrained"]] == [(0, 2), (0, 3), (2, 3)]
    assert certificate["indices"] == sorted([first, second])
    assert certificate["trained_samples"] > 0
    assert certificate["examples_retrained"] == round(certificate["trained_samples"] / 3.0, 4)
    assert certificate["repaired"] == []
    assert certificate["removed"] == [
        "models/shard_0000/slice_0002", "models/shard_0000/slice_0003", "models/shard_0002/slice_0003",
    ]  # fmt: skip
    assert certificate["untouched_shards"] == [1]
    assert set(certificate["parameters_sha256"]) == {"0", "2"}
    for shard, hashes in certificate["parameters_sha256"].items():
        assert hashes["before"] == old[int(shard)] != hashes["after"]
    # A process later, on images of which the deleted are noise.
    again, models = sisa_in(folder, noise_at=[first, second])
    assert again.deleted().tolist() == sorted([first, second])
    assert again.certificate(1) == certificate
    fresh, fresh_models = sisa_in(tmp_path / "fresh", noise_at=[first, second])
    left = SHARDING.without(np.array([first, second]))
    fresh_models.train(left)
    assert bits(models, left) == bits(fresh_models, left)
    del fresh
    said = []
    assert again.unlearn(np.array([first]), said.append) is None
    assert said == ["1 of 1 examples were deleted before"]
    third = int(SHARDING.slices[1][0][0])
    certificate = again.unlearn(np.array([first, third]))
    assert certificate["request"] == 2 and certificate["indices"] == [third]
    assert len(certificate["retrained"]) == 4
    log = RequestLog(folder / "requests.jsonl")
    assert log.pending() == []
    text = (folder / "certificates" / "request_000002.json").read_text()
    assert hashlib.sha256(text.encode()).hexdigest() in (folder / "requests.jsonl").read_text()


def test_a_kill_between_request_and_retraining_loses_nothing(fitted, tmp_path, monkeypatch):
    folder = copy(fitted, tmp_path / "run")
    index = int(SHARDING.slices[1][2][1])
    sisa, models = sisa_in(folder)
    whole = sisa.predict(images_of())

    def dying(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(models._trainer, "train", dying)
    with pytest.raises(KeyboardInterrupt):
        sisa.unlearn(np.array([index]))
    # The request is on disk; its shard does not answer, the others do.
    pending, models = sisa_in(folder)
    assert pending.votes().tolist() == [True, False, True]
    logits, _ = models.logits(pending._trained(), MODEL, images_of(), (0.5,), (0.25,), 16)
    expected = mean_posterior(
        np.asarray(jax.nn.softmax(logits, axis=-1)), votes=np.array([True, False, True])
    )
    np.testing.assert_array_equal(pending.predict(images_of()), expected)
    assert np.abs(pending.predict(images_of()) - whole).max() > 1e-4
    pending.fit()
    assert pending.votes().all()
    certificate = pending.certificate(1)
    assert certificate["indices"] == [index]
    assert [step["slice"] for step in certificate["retrained"]] == [2, 3]
    left = SHARDING.without(np.array([index]))
    fresh = shard_models(tmp_path / "fresh")
    fresh.train(left)
    assert bits(models, left) == bits(fresh, left)


def test_a_kill_before_the_certificate_is_finished_too(fitted, tmp_path, monkeypatch):
    folder = copy(fitted, tmp_path / "run")
    index = int(SHARDING.slices[0][3][0])
    sisa, _ = sisa_in(folder)
    monkeypatch.setattr(sisa, "_certify", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        sisa.unlearn(np.array([index]))
    again, _ = sisa_in(folder)
    other = int(SHARDING.slices[2][3][0])
    assert again.unlearn(np.array([other]))["indices"] == [other]
    assert again.certificate(1)["indices"] == [index]
    assert RequestLog(folder / "requests.jsonl").pending() == []


def test_aggregations(fitted):
    models = sisa_in(fitted)[1]
    logits, votes = models.logits(SHARDING, MODEL, images_of(), (0.5,), (0.25,), 16)
    posteriors = np.asarray(jax.nn.softmax(logits, axis=-1))
    assert votes.all()
    np.testing.assert_array_equal(sisa_in(fitted)[0].predict(images_of()), mean_posterior(posteriors))
    majority = sisa_in(fitted, "majority_vote")[0].predict(images_of())
    np.testing.assert_array_equal(majority, majority_vote(posteriors))
    assert set(np.unique(majority)) == {0.0, 1.0}
    mean = sisa_in(fitted, "mean_logits")[0].predict(images_of())
    np.testing.assert_array_equal(mean, mean_logits(logits))
    assert not np.allclose(mean, mean_posterior(posteriors))
    with pytest.raises(
        InputError, match="'median', but expected one of mean_posterior, majority_vote, mean_logits"
    ):
        sisa_in(fitted, "median")


def test_a_whole_shard_may_go(fitted, tmp_path):
    sisa, _ = sisa_in(copy(fitted, tmp_path / "run"))
    certificate = sisa.unlearn(np.concatenate(SHARDING.slices[1]))
    assert certificate["examples_retrained"] == 0
    assert certificate["parameters_sha256"]["1"]["after"] is None
    assert np.isfinite(sisa.predict(images_of())).all()


def test_a_deletion_that_meets_a_damaged_checkpoint_says_so_and_is_exact(fitted, tmp_path):
    clean, _ = sisa_in(copy(fitted, tmp_path / "clean"))
    index = SHARDING.slices[1][2][:1]
    expected = clean.unlearn(index)["parameters_sha256"]["1"]["after"]
    folder = copy(fitted, tmp_path / "damaged")
    for slice_ in (1, 3):  # the one that it goes on from, and the last
        for path in (folder / f"models/shard_0001/slice_{slice_:04d}").rglob("*"):
            if path.is_file() and path.name != "step.json":
                path.write_bytes(b"damage")
    said = []
    certificate = sisa_in(folder)[0].unlearn(index, said.append)
    assert certificate["parameters_sha256"] == {"1": {"before": None, "after": expected}}
    assert certificate["repaired"] == [{"shard": 1, "slice": 1}]
    assert [step["slice"] for step in certificate["retrained"]] == [2, 3]
    assert any("shard 1, slice 1 is damaged" in text for text in said)


def test_a_certificate_that_was_changed_or_lost_is_not_vouched_for(fitted, tmp_path):
    sisa, _ = sisa_in(copy(fitted, tmp_path / "run"))
    sisa.unlearn(np.array([3]))
    path = sisa.certificate_path(1)
    text = path.read_text()
    path.write_text(text.replace('"trained_samples": ', '"trained_samples": 1'))
    with pytest.raises(InputError, match=r"has the SHA-256 \w+, but the log of requests has \w+: the certif"):
        sisa.certificate(1)
    path.unlink()
    with pytest.raises(InputError, match="request_000001.json cannot be read"):
        sisa.certificate(1)
    path.write_text(text)
    assert sisa.certificate(1)["request"] == 1


def test_what_else_is_derived_goes_between_log_and_retraining(fitted, tmp_path, monkeypatch):
    sisa, models = sisa_in(copy(fitted, tmp_path / "run"))
    order = []
    train = models.train
    monkeypatch.setattr(models, "train", lambda *args: order.append("train") or train(*args))

    def clean():
        order.append(("clean", sisa.pending()))
        return ["../figures"]

    assert sisa.unlearn(np.array([3]), on_logged=clean)["removed"][-1] == "../figures"
    assert order == [("clean", [1]), "train"]


@pytest.mark.parametrize("indices", [[N], [-1], [0, N + 5], []])
def test_positions_out_of_range_are_one_sentence_and_are_not_logged(fitted, tmp_path, indices):
    folder = copy(fitted, tmp_path / "run")
    with pytest.raises(InputError, match="but expected positions of the 47 examples"):
        sisa_in(folder)[0].unlearn(np.array(indices, int))
    assert (
        not (folder / "requests.jsonl").exists() or RequestLog(folder / "requests.jsonl").deleted().size == 0
    )


def test_another_sharding_is_refused(fitted):
    models = shard_models(fitted / "models")
    other = uniform_sharding(np.arange(N), 3, 4, seed=2)
    with pytest.raises(InputError, match="deals the examples to other shards or slices"):
        Sisa(fitted, models, other, MODEL, mean=(0.5,), std=(0.25,))


def test_certificates_are_json_anyone_can_read(fitted, tmp_path):
    folder = copy(fitted, tmp_path / "run")
    sisa_in(folder)[0].unlearn(np.array([int(SHARDING.slices[0][0][0])]))
    found = json.loads((folder / "certificates" / "request_000001.json").read_text())
    assert found["places"] == [{"index": found["indices"][0], "shard": 0, "slice": 0}]
    assert found["removed"] == [f"models/shard_0000/slice_{slice_:04d}" for slice_ in range(4)]
    assert len(found["retrained"]) == 4
