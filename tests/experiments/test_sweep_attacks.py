"""A sweep ends with attacks on its own models."""

import dataclasses
import json

import numpy as np
import pytest

from mu_jax.attacks.taylor_softmax import taylor_softmax
from mu_jax.config import (
    AttackConfig,
    DataConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    ShadowSweep,
    SweepConfig,
)
from mu_jax.experiments.audit import Audit, pool_targets
from mu_jax.experiments.audit import run as audit
from mu_jax.experiments.membership_attacks import attack_all
from mu_jax.experiments.shadow_sweep import run
from mu_jax.experiments.signal_pool import read_pool
from tiny_sweep import changed


def test_results_have_a_row_for_each_attack_and_mode(finished):
    folder, results = finished
    rows = results["tables"]["attacks"]
    forms = {(row["attack"], row["mode"]) for row in rows}
    assert forms == {
        ("lira", "online"),
        ("lira", "offline"),
        ("rmia", "online"),
        ("rmia", "offline"),
        ("calibrated_loss", None),
        ("loss", None),
    }
    for row in rows:
        low, high = row["interval"]["auc"]
        assert low <= row["auc"] <= high
        assert row["false_positives"] == [point["false_positives"] for point in row["tpr_at_fpr"]]
        assert (row["targets"], row["members"], row["nonmembers"]) == (6, 240, 240)
    assert "impossible_attacks" not in results["tables"]
    with np.load(folder / "scores.npz", allow_pickle=False) as scores:
        np.testing.assert_array_equal(scores["is_member"], read_pool(folder).member)
    assert "LiRA" in (folder / "report.html").read_text()


def test_few_models_leave_attacks_out_and_say_so(tmp_path):
    results, _ = run(changed(sweep={"models": 2}), tmp_path / "run")
    left = results["tables"]["impossible_attacks"]
    assert {row["attack"] for row in left} == {"lira", "rmia", "calibrated_loss"}
    assert all(row["reason"] for row in left)
    assert {row["attack"] for row in results["tables"]["attacks"]} == {"loss"}
    json.dumps(results, allow_nan=False)


def test_no_attack_where_none_is_asked_for(tmp_path):
    config = dataclasses.replace(changed(sweep={"models": 2}), attack=AttackConfig(names=()))
    results, _ = run(config, tmp_path / "run")
    assert results["tables"] == {}
    assert not (tmp_path / "run" / "scores.npz").exists()


def test_an_audit_of_the_pool_finds_the_same(finished, tmp_path):
    folder, results = finished
    again, _ = audit(Audit(str(folder)), tmp_path / "audit")
    assert again["tables"]["attacks"] == json.loads(json.dumps(results["tables"]["attacks"]))
    assert again["tables"]["exposed"] == results["tables"]["exposed"]
    assert again["data"]["name"] == results["data"]["name"]
    signals_alone, _ = audit(Audit(str(folder / "signals")), tmp_path / "audit2")
    assert signals_alone["tables"]["attacks"] == again["tables"]["attacks"]


def test_taylor_softmax_is_of_the_logits_that_a_pool_kept(finished, tmp_path):
    config = changed(query={"logits": True}, sweep={"models": 4})
    run(dataclasses.replace(config, attack=AttackConfig(names=())), tmp_path / "run")
    pool = read_pool(tmp_path / "run")
    settings = AttackConfig(names=("rmia",), probability="taylor_softmax")
    targets, examples = pool_targets(pool, settings)
    assert len(examples) == 80
    for view in range(2):
        expected = taylor_softmax(pool.logits[3, :, view], pool.labels)
        np.testing.assert_array_equal(targets._probability[3, :, view], expected)
    with pytest.raises(InputError, match="the pool has no logits"):
        pool_targets(read_pool(finished[0]), settings)


def test_test_images_that_are_no_candidates_are_not_attacked(tmp_path):
    config = changed(sweep={"candidates": "train", "models": 4})
    results, _ = run(config, tmp_path / "run")
    assert results["tables"]["attacks"][0]["members"] == 4 * 30
    with np.load(tmp_path / "run" / "scores.npz", allow_pickle=False) as scores:
        np.testing.assert_array_equal(scores["examples"], np.arange(60))


def test_on_digits_lira_beats_the_loss_attack_clearly(tmp_path):
    config = ShadowSweep(
        data=DataConfig(source="digits", train_examples=300, test_examples=100, label_noise=0.2),
        model=ModelConfig(name="mlp", width=128),
        train=OptimizationConfig(epochs=60.0, batch_size=32, learning_rate=0.05, weight_decay=0.0),
        sweep=SweepConfig(models=16, mapping="pmap_map"),
        loop=LoopConfig(chunk_steps=500),
        attack=AttackConfig(names=("lira", "loss"), modes=("online",), variances=("global",)),
    )
    results, _ = run(config, tmp_path / "run")
    rows = {row["attack"]: row for row in results["tables"]["attacks"]}
    assert rows["lira"]["interval"]["auc"][0] > rows["loss"]["interval"]["auc"][1]
    assert rows["lira"]["auc"] > 0.6


def test_diverged_models_are_neither_targets_nor_references(finished):
    pool = read_pool(finished[0])
    phi = np.array(pool.phi)
    phi[2] = np.nan  # what a diverged model says must be read by nobody
    damaged = dataclasses.replace(pool, phi=phi, diverged={2: 7})
    targets, examples = pool_targets(damaged, AttackConfig())
    assert targets.is_member.shape == (5, len(examples))
    np.testing.assert_array_equal(targets.is_member, np.delete(pool.member, 2, axis=0)[:, examples])
    settings = AttackConfig(bootstrap_samples=100)
    for attack in attack_all(targets, settings, 0, allow_impossible=True).attacks:
        assert np.isfinite(attack.scores).all()
        assert attack.row["targets"] == 5


def test_a_model_with_all_examples_or_none_is_left_out(finished):
    pool = read_pool(finished[0])
    member = np.array(pool.member)
    member[0], member[5] = True, False
    targets, examples = pool_targets(dataclasses.replace(pool, member=member), AttackConfig())
    assert len(targets.is_member) == 4
    one_sided = member[1:5][:, examples]
    assert (one_sided.any(axis=0) & ~one_sided.all(axis=0)).all()
    member[1:] = False
    with pytest.raises(InputError, match="expected at least 2; train it with more models"):
        pool_targets(dataclasses.replace(pool, member=member), AttackConfig())


def test_a_sweep_whose_models_all_diverged_still_ends(tmp_path):
    results, _ = run(changed(train={"learning_rate": 1e6}), tmp_path / "run")
    assert results["sweep"]["diverged"] == 6
    assert results["tables"]["impossible_attacks"]
