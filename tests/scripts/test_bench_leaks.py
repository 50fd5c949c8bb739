"""The benchmark of pair attacks as a user meets it, with cases as small as there are."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import jax_leaks_worker, leaks_attack, leaks_attack_worker
from benchmarks.leaks_answers import read_plan, right_shares
from benchmarks.leaks_case import BLOCK, EXAMPLES, LeaksCase
from benchmarks.leaks_data import write_plan
from benchmarks.leaks_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.leaks_table import (
    auc_lines,
    end_to_end,
    extrapolated_stages,
    mean_auc,
    stage_lines,
    summary,
    warnings,
)
from benchmarks.serving import Unavailable
from benchmarks.sweep_data import load_images
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_leaks.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def written(folder, name):
    """The case of this name with its file, and the file's arrays."""
    path = folder / f"{name}.npz"
    case = dataclasses.replace(parse_case(name), file=str(path))
    write_plan(path, case, load_images("digits", None)[0])
    return case, read_plan(case.file)


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """40 models of two steps each, and their plan."""
    return written(tmp_path_factory.mktemp("leaks"), "retrain_k40_e0.15")


@pytest.fixture
def quick_fits(monkeypatch):
    """Two classifiers instead of four."""
    monkeypatch.setattr(leaks_attack, "CLASSIFIERS", ("logistic_regression", "decision_tree"))


def test_case_names_round_trip():
    for name in (*ALL, "retrain_k40", "retrain_cnn_k20000_e0.5", "retrain_k80_e3"):
        assert parse_case(name).name == name
    assert parse_case("retrain_k1000") == LeaksCase("mlp", 1000, 20.0)
    assert parse_case("retrain_cnn_k40_e20").name == "retrain_cnn_k40"
    assert parse_case("retrain_k40_e3", epochs=2.5).name == "retrain_k40_e2.5"
    case = parse_case("retrain_k1000")
    # 50 originals, 950 retrained, two pairs each; 20 epochs of 400 and of 399 are 250 batches, the last one cut.
    assert (case.pairs, case.steps(400), case.steps(399)) == (1900, 250, 250)


def test_cases_without_names_are_the_table():
    assert TABLE == ("retrain_k1000",)
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"], 0.5)] == [f"{name}_e0.5" for name in ALL]


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["retrain_k100o"], "did you mean 'retrain_k1000'?"),
        (["fit"], "The case is 'fit', but expected retrain_[cnn_]kMODELS[_eEPOCHS]"),
        (["retrain_k1"], "has 1 models, but expected a multiple of 40 up to 20000"),
        (["retrain_k60"], "has 60 models, but expected a multiple of 40"),
        (["retrain_k20040"], "has 20040 models, but expected a multiple of 40 up to 20000"),
        (["retrain_k40_e0"], "has 0 epochs, but expected more than 0 and at most 1000"),
        (["retrain_k40_e0.01"], "less than half a batch of 32, but expected at least one step"),
        (["retrain_k1000", "retrain_k1000_e20"], "'retrain_k1000' stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_bad_flag_is_one_sentence():
    done = bench("--mapping=pmap")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "--mapping is 'pmap', but expected auto, one, map" in done.stderr


def test_each_retrained_model_lacks_one_digit_and_each_pair_asks_for_it_or_for_a_strangers(tmp_path):
    case, plan = written(tmp_path, "retrain_k120")
    assert set(plan["side"][:20]) == {0} and set(plan["side"][20:40]) == {1} and plan["side"][40] == 0
    assert len(np.unique(plan["side_rows"])) == plan["side_rows"].size == 2 * 898
    assert plan["rows"].shape == (120, EXAMPLES)
    assert len(plan["before"]) == case.pairs == 228
    asked = {}
    for before, after, place, member in zip(
        *(plan[name] for name in ("before", "after", "place", "is_member")), strict=True
    ):
        side = plan["side"][before]
        assert before % BLOCK == 0 and before < after < before + BLOCK and side == plan["side"][after]
        digit = plan["side_rows"][side, place]
        original, retrained = plan["rows"][before], plan["rows"][after]
        assert len(np.unique(original)) == EXAMPLES and np.isin(original, plan["side_rows"][side]).all()
        assert np.sum(retrained < 0) == 1 and np.all(retrained[retrained >= 0] == original[retrained >= 0])
        assert member == (digit in original) and digit not in retrained
        assert member or place in plan["never"]
        asked.setdefault(before, []).append(digit)
    assert all(len(set(digits)) == 2 * (BLOCK - 1) for digits in asked.values())
    # No model of a side learns what that side keeps for its strangers.
    for side in (0, 1):
        learned = np.unique(plan["rows"][plan["side"] == side])
        assert not np.isin(plan["side_rows"][side][plan["never"]], learned).any()


def test_shares_of_right_answers_by_hand():
    plan = {
        "before": np.array([0, 0]),
        "side": np.array([1, 1]),
        "side_rows": np.array([[5, 4], [0, 2]]),
        "labels": np.array([1, 0, 1, 0, 0, 0]),
        "rows": np.array([[0], [-1]]),
        "never": np.array([1]),
    }
    # The original is right on digit 0, which it learned, and wrong on digit 2; the other model is not asked.
    posteriors = np.array([[[0.4, 0.6], [0.7, 0.3]], [[1.0, 0.0], [0.0, 1.0]]])
    assert right_shares(plan, posteriors) == {"members": 1.0, "others": 0.0}


def answers_of(plan, models, leak):
    """Posteriors at random, by which a model is surer of the digits that it learned, by `leak` logits."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(models, plan["side_rows"].shape[1], 10))
    for model in range(models):
        logits[model, np.isin(plan["side_rows"][plan["side"][model]], plan["rows"][model]), 0] += leak
    odds = np.exp(logits)
    return (odds / odds.sum(-1, keepdims=True)).astype(np.float32)


def test_shared_out_fits_are_those_one_after_another(tmp_path, quick_fits):
    case, plan = written(tmp_path, "retrain_k120")
    leaking = answers_of(plan, case.models, 8.0)
    in_turn, shared = (leaks_attack.attack_pairs(plan, leaking, workers) for workers in (1, 2))
    assert in_turn["auc"] == shared["auc"]
    assert set(in_turn["auc"]) == set(leaks_attack.FEATURES)
    assert set(in_turn["auc"]["l2"]) == {"logistic_regression", "decision_tree"}
    assert min(value for of_kind in in_turn["auc"].values() for value in of_kind.values()) > 0.9
    silent = leaks_attack.attack_pairs(plan, answers_of(plan, case.models, 0.0), 1)["auc"]
    assert 0.35 < silent["sorted_difference"]["logistic_regression"] < 0.65
    assert in_turn["pairs"] > 0 and in_turn["attacks"] > in_turn["pairs"]


def test_the_attackers_classifiers_learn_on_shadow_pairs_only(tmp_path, quick_fits):
    case, plan = written(tmp_path, "retrain_k40")
    posteriors, seen = answers_of(plan, case.models, 8.0), []

    class Watched:
        def confidence(self, features):
            seen.append(("asked", len(features)))
            return features[:, 0]

    def fit(features, is_member, classifier, seed):
        seen.append(("fitted", len(features), int(is_member.sum())))
        return Watched()

    leaks_attack.attack_pairs(plan, posteriors, 1, fit)
    assert seen == [("fitted", 38, 19), ("asked", 38)] * 10
    # The first model of the second block is the target: with its posteriors gone, shadow pairs are as they were.
    posteriors[BLOCK:] = 0.1
    fitted = []
    leaks_attack.attack_pairs(plan, posteriors, 1, lambda x, *_: fitted.append(x) or Watched())
    assert all(np.ptp(x) > 0 for x in fitted)


def test_ours_trains_what_the_plan_says_whatever_the_group(two_steps, quick_fits):
    case, plan = two_steps
    # 8 of 14 slots stay free in the second group of each side.
    grouped = jax_leaks_worker.Retraining(case, {"mapping": "pmap_vmap", "models_per_device": 7})
    assert grouped.facts["placement"] == {"mapping": "vmap", "devices": 2, "models_per_device": 7}
    grouped.warm_up()
    assert np.isfinite(grouped.run(1))
    assert grouped.found["models_trained"] == 40
    assert set(grouped.found["stages"]) == {"train", "query", "pairs", "attacks"}
    assert grouped.found["accuracy"] == right_shares(plan, grouped.posteriors)

    in_turn = jax_leaks_worker.Retraining(case, {"mapping": "one", "models_per_device": 0})
    in_turn._train()
    assert grouped.posteriors.shape == (40, 898, 10)
    np.testing.assert_allclose(grouped.posteriors.sum(-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(in_turn.posteriors, grouped.posteriors, atol=1e-5)
    for model, run in enumerate(grouped.runs):
        np.testing.assert_array_equal(run.index, plan["rows"][model][plan["rows"][model] >= 0])
        assert run.steps == case.steps(len(run.index)) == 2
    # Independent models: no two of a block have the same weights.
    assert len(np.unique(grouped.posteriors[:BLOCK, 0, 0])) == BLOCK

    wild = dataclasses.replace(grouped.runs[3].optimization, learning_rate=float(np.finfo(np.float32).max))
    grouped.runs[3] = dataclasses.replace(grouped.runs[3], optimization=wild)
    with pytest.raises(Unavailable, match="1 of 40 models diverged"):
        grouped.run(1)


def test_theirs_are_attacked_from_a_file(two_steps, quick_fits, tmp_path):
    case, plan = two_steps
    np.save(tmp_path / "posteriors.npy", answers_of(plan, 40, 8.0))
    prepared = leaks_attack_worker.prepare(case, {"posteriors": str(tmp_path / "posteriors.npy")})
    assert (prepared.items_a_step, prepared.most) == (76, 1)
    prepared.run_steps(1)
    assert prepared.found["auc"] == leaks_attack.attack_pairs(plan, answers_of(plan, 40, 8.0), 1)["auc"]
    assert set(prepared.found["stages"]) == {"pairs", "attacks"}


AUC = {"l2": {"mlp": 0.6, "decision_tree": 0.5}}
SIDE = {
    "stages": {"train": 4.0, "query": 1.0, "pairs": 0.5, "attacks": 2.5},
    "accuracy": {"members": 1.0, "others": 0.95},
    "auc": AUC,
}


def test_figures_by_hand():
    # 100 models at 600 a minute are 10 s; with 20 s of attacks 190 pairs take half a minute.
    assert end_to_end(100, 190, 600.0, 20.0) == pytest.approx(380.0)
    stages = extrapolated_stages(100, 600.0, {"train": 0.03, "query": 0.01}, {"pairs": 0.5, "attacks": 19.5})
    assert stages == {"train": 7.5, "query": 2.5, "pairs": 0.5, "attacks": 19.5}
    assert mean_auc(SIDE) == pytest.approx(0.55)


def test_lines_and_warnings_by_hand():
    lines = stage_lines({"ours": SIDE, "PyTorch": SIDE}).splitlines()
    assert lines[1].split() == ["ours", "4", "1", "0.5", "2.5", "8", "100.0%", "95.0%"]
    assert auc_lines({"ours": SIDE, "PyTorch": SIDE}).splitlines()[1].split()[1:] == [
        "0.600", "/", "0.600", "0.500", "/", "0.500",
    ]  # fmt: skip
    assert warnings({"ours": SIDE, "PyTorch": SIDE}, 950) == warnings({"ours": SIDE}, 950) == []
    # The standard error of a difference of AUCs of 950 pairs is √(2 · 951/3) / 950 = 0.0265.
    other = SIDE | {"auc": {"l2": {"mlp": 0.75, "decision_tree": 0.6}}}
    assert len(warnings({"ours": SIDE, "PyTorch": other}, 950)) == 1
    assert "mean AUCs differ by more than chance" in warnings({"ours": SIDE, "PyTorch": other}, 950)[0]
    assert warnings({"ours": SIDE, "PyTorch": other}, 100) == []
    worse = SIDE | {"accuracy": {"members": 0.9, "others": 0.95}}
    assert "accuracies on members differ" in warnings({"ours": SIDE, "PyTorch": worse}, 950)[0]


def test_the_summary_has_both_sides():
    details = {
        "beside": {"ours": SIDE, "PyTorch": SIDE},
        "ours": {"side by side (pmap_vmap)": {"compile_seconds": 3.25}},
        "ours_best": "side by side (pmap_vmap)",
        "torch_reference": "compiled",
        "torch_missing": None,
    }
    row = {"case": "retrain_k1000", "ours": 14250.0, "torch": 1425.0, "ratio": 10.0, "details": details}
    alone = details | {"beside": {"ours": SIDE}, "torch_reference": None, "torch_missing": "left out"}
    lines = summary([row, row | {"torch": None, "ratio": None, "details": alone}]).splitlines()
    seconds = "4 + 1 + 0.5 + 2.5"
    assert lines[2] == (
        f"| retrain_k1000 | 14,250 | 1,425 | 10.00 | compiled | {seconds} | {seconds} | 3.2 | 95.0% | 95.0% | 0.550 | "
        "0.550 |"
    )
    assert (
        lines[3]
        == f"| retrain_k1000 | 14,250 | left out | – | – | {seconds} | – | 3.2 | 95.0% | – | 0.550 | – |"
    )
    assert len({line.count("|") for line in lines}) == 1


def test_forty_models_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    done = bench("--cases=retrain_k40", "--epochs=0.5", "--torch=none", "--rounds=1", f"--json={path}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert (row["case"], row["unit"]) == ("retrain_k40_e0.5", "pairs/min")
    assert row["ours"] > 0 and row["torch"] is None and row["ratio"] is None
    details = row["details"]
    assert (details["network"], details["models"], details["pairs"]) == ("mlp", 40, 76)
    ours = details["beside"]["ours"]
    assert row["ours"] == pytest.approx(60 * 76 / sum(ours["stages"].values()), rel=0.05)
    assert set(ours["auc"]) == set(leaks_attack.FEATURES)
    assert set(ours["auc"]["l2"]) == set(leaks_attack.CLASSIFIERS)
    assert details["ours"][details["ours_best"]]["compile_seconds"] > 0
    assert done.stdout.rstrip().splitlines()[-1].startswith("| retrain_k40_e0.5 | ")
