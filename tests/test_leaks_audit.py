"""The audit of a deletion as its users start it, from two files that other frameworks wrote."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mu_jax.attacks.leaks import construct_features
from mu_jax.attacks.pair_attack import classical_features, fit_pair_attack
from mu_jax.config import EvaluationConfig, InputError
from mu_jax.config.leaks_audit import LeaksAudit
from mu_jax.evaluation.degradation import evaluate_pair_attack
from mu_jax.experiments.leaks_audit import run
from mu_jax.experiments.registry import print_results

ROOT = pathlib.Path(__file__).parent.parent
QUICK = {
    "features": ("sorted_difference", "direct_concat"),
    "classifiers": ("decision_tree", "logistic_regression"),
    "evaluation": EvaluationConfig(bootstrap_samples=100, fpr=(0.01, 0.1)),
}


def start(*flags):
    return subprocess.run(
        [sys.executable, "-m", "mu_jax.audit", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def one_side(rng, models, pairs, classes=4, moved=3.0, tied=0):
    """Posteriors of pairs half of which were deleted: these move away from their class."""
    rows = models * pairs
    deleted, labels = np.tile(np.arange(pairs) % 2 == 0, models), rng.integers(0, classes, rows)
    before = 2 * rng.normal(size=(rows, classes))
    before[np.arange(rows), labels] += 2
    after = before + 0.2 * rng.normal(size=(rows, classes))
    after[np.arange(rows), labels] -= moved * deleted
    never = np.flatnonzero(~deleted)[:tied]
    after[never] = before[never]
    return softmax(before), softmax(after), deleted, np.repeat(np.arange(models), pairs)


def save(folder, shadow=None, target=None, change=None, without=()):
    """Both files; `change` replaces arrays, `without` leaves some out: names of `before`, or `after/NAME`."""
    rng = np.random.default_rng(0)
    shadow = shadow or one_side(rng, 6, 20)
    target = target or one_side(rng, 8, 10)
    files = {"before": {}, "after": {}}
    for side, (before, after, deleted, model) in (("shadow", shadow), ("target", target)):
        files["before"] |= {side: before, f"{side}_deleted": deleted, f"{side}_model": model}
        files["after"][side] = after
    for key, value in (change or {}).items():
        name, _, array = key.rpartition("/")
        files[name or "before"][array] = value
    for key in without:
        name, _, array = key.rpartition("/")
        del files[name or "before"][array]
    for name, arrays in files.items():
        np.savez(folder / f"{name}.npz", **arrays)
    return LeaksAudit(str(folder / "before.npz"), str(folder / "after.npz"), **QUICK)


@pytest.fixture(scope="module", name="done")
def done_fixture(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("leaks"), np.random.default_rng(0)
    save(folder, one_side(rng, 6, 40), one_side(rng, 8, 30))
    flags = (
        f"--before={folder / 'before.npz'}",
        f"--after={folder / 'after.npz'}",
        "--attacks=leaks",
        "--features=sorted_difference,direct_concat",
        "--classifiers=decision_tree,logistic_regression",
        "--fpr=0.01,0.1",
        "--bootstrap_samples=100",
        f"--workdir={folder / 'run'}",
    )
    return folder, flags, start(*flags)


def test_the_command_leaves_results_scores_and_a_report(done):
    folder, flags, process = done
    assert process.returncode == 0, process.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["experiment"] == "leaks_audit"
    rows = results["tables"]["leaks"]
    assert {(row["feature"], row["classifier"]) for row in rows} == {
        (feature, classifier) for feature in QUICK["features"] for classifier in QUICK["classifiers"]
    }
    assert [row["chosen"] for row in rows] == [True, False, False, False]
    assert rows[0]["selection_auc"] == max(row["selection_auc"] for row in rows)
    assert rows[0]["auc"] > 0.7 and rows[0]["interval"]["auc_gain"][0] > 0
    assert f"{100 * rows[0]['auc']:.1f}" in process.stdout and "helps" in process.stdout
    facts = results["data"]
    assert (facts["shadow_pairs"], facts["target_pairs"], facts["target_models"]) == (240, 240, 8)
    with np.load(folder / "run" / "scores.npz", allow_pickle=False) as scores:
        assert len(scores.files) == 3 + 4 + 2
        assert scores["deleted"].sum() == 120 and not scores["tie"].any()
        assert scores["sorted_difference_decision_tree"].shape == (240,)
    page = (folder / "run" / "report.html").read_text()
    assert page.count("<img") == 1 and page.count("<table") == 1 and "http" not in page
    for text in (f"{100 * rows[0]['auc']:.1f}", "sorted difference, decision tree", "Newly exposed"):
        assert text in page
    again = start(*flags)
    assert again.returncode == 0 and "done already" in again.stdout


def test_figures_are_those_of_the_library(done):
    folder, _, _ = done
    before, after = (dict(np.load(folder / f"{name}.npz")) for name in ("before", "after"))
    results = json.loads((folder / "run" / "results.json").read_text())
    for row in results["tables"]["leaks"]:
        classical, pair = (
            fit_pair_attack(learned, before["shadow_deleted"], row["classifier"], 0).confidence(asked)
            for learned, asked in (
                (classical_features(before["shadow"]), classical_features(before["target"])),
                tuple(
                    construct_features(before[side], after[side], row["feature"])
                    for side in ("shadow", "target")
                ),
            )
        )
        want = evaluate_pair_attack(
            pair, classical, before["target_deleted"], before["target_model"], fpr=(0.01, 0.1), samples=100
        )
        assert {key: row[key] for key in want} == want
        assert row["called_deleted"] == np.mean(pair > 0.5)


def test_without_the_targets_truth_there_are_scores_alone(tmp_path, capsys):
    config = save(tmp_path, without=("target_deleted", "target_model"))
    results, before = run(config, tmp_path / "run")
    assert not before
    for row in results["tables"]["leaks"]:
        assert "auc" not in row and "interval" not in row and set(row["ties"]) == {"all"}
    with np.load(tmp_path / "run" / "scores.npz") as scores:
        assert "deleted" not in scores.files
        deleted = np.tile([True, False], 40)
        confidence = scores["sorted_difference_logistic_regression"]
        assert confidence[deleted].mean() > confidence[~deleted].mean() + 0.2
    page = (tmp_path / "run" / "report.html").read_text()
    assert "does not say who was deleted" in page and "<img" not in page
    print_results(results, tmp_path / "run", False)
    assert "Called deleted %" in capsys.readouterr().out


def test_nothing_leaks_where_models_do_not_differ_by_the_deletion(tmp_path):
    rng = np.random.default_rng(3)
    config = save(tmp_path, one_side(rng, 10, 40, moved=0), one_side(rng, 10, 40, moved=0))
    results, _ = run(config, tmp_path / "run")
    for row in results["tables"]["leaks"]:
        assert row["interval"]["auc"][0] < 0.5 < row["interval"]["auc"][1]
        assert abs(row["selection_auc"] - 0.5) < 0.1


def test_ties_are_counted_and_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    config = save(tmp_path, target=one_side(rng, 5, 16, tied=30))
    results, _ = run(config, tmp_path / "run")
    assert results["tables"]["leaks"][0]["ties"] == {"all": 30 / 80, "deleted": 0, "never": 30 / 40}
    assert "exactly the same posteriors" in (tmp_path / "run" / "report.html").read_text()
    print_results(results, tmp_path / "run", False)
    assert "75.0% of the examples that were never learned" in capsys.readouterr().out


def test_pairs_without_models_count_as_originals_of_their_own(tmp_path):
    config = save(tmp_path, without=("shadow_model", "target_model"))
    results, _ = run(config, tmp_path / "run")
    assert results["tables"]["leaks"][0]["originals"] == 80
    assert results["data"]["target_models"] is None
    one = save(tmp_path, change={"target_model": np.zeros(80, int), "shadow_model": np.zeros(120, int)})
    results, _ = run(one, tmp_path / "one")
    assert results["tables"]["leaks"][0]["resampled"] == "pairs"
    assert "of one original model" in (tmp_path / "one" / "report.html").read_text()


def test_changed_files_and_other_settings_are_refused(tmp_path):
    config = save(tmp_path)
    run(config, tmp_path / "run")
    other = LeaksAudit(config.before, config.after, seed=1, **QUICK)
    with pytest.raises(InputError, match="another config: seed was"):
        run(other, tmp_path / "run")
    save(tmp_path, target=one_side(np.random.default_rng(9), 5, 16))
    with pytest.raises(InputError, match="before it changed"):
        run(config, tmp_path / "run")


P = np.full((120, 4), 0.25, np.float32)


@pytest.mark.parametrize(
    ("change", "without", "match"),
    [
        ({}, ["shadow_deleted"], "before.npz has no array 'shadow_deleted', but expected .* np.savez"),
        ({}, ["after/target"], "after.npz has no array 'target', but expected one in the file of --after"),
        ({"shadow_delete": P[:, 0] > 0}, [], "'shadow_delete', which .* did you mean 'shadow_deleted'"),
        (
            {"after/target_deleted": np.ones(80, bool)},
            [],
            "after.npz has 'target_deleted', but expected it in",
        ),
        ({"after/shadow": P[:100]}, [], "shadow has 120 rows in .*before.npz and 100 in .*after.npz"),
        (
            {"after/shadow": np.full((120, 5), 0.2)},
            [],
            "different numbers of classes .*4 in shadow .*5 in shadow",
        ),
        (
            {"shadow": P * 2},
            [],
            "120 of 120 rows of shadow of .*before.npz do not sum to one, row 0 .* sum is 2",
        ),
        ({"after/shadow": P * np.nan}, [], "rows of shadow of .*after.npz, row 0 the first, are not finite"),
        (
            {"shadow": np.zeros((120, 4), int)},
            [],
            "shadow of .* has dtype int64 and shape .* expected floats",
        ),
        ({"shadow": P[:, 0]}, [], r"shadow of .* shape \[120\], but expected floats"),
        ({"shadow_deleted": np.zeros(120, bool)}, [], "0 of 120 examples of shadow in .* were deleted"),
        ({"target_deleted": np.ones(80, bool)}, [], "80 of 80 examples of target in .* were deleted"),
        (
            {"target_deleted": np.ones(80)},
            [],
            r"target_deleted of .* has dtype float64 .* expected bool\[80\]",
        ),
        ({"shadow_model": np.zeros(7, int)}, [], r"shadow_model of .* shape \[7\], but expected int\[120\]"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, change, without, match):
    config = save(tmp_path, change=change, without=without)
    with pytest.raises(InputError, match=match) as refusal:
        run(config, tmp_path / "run")
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_files_that_are_no_archives_are_refused(tmp_path):
    config = save(tmp_path)
    (tmp_path / "after.npz").write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(InputError, match="after.npz cannot be read as plain arrays .* save it with"):
        run(config, tmp_path / "run")
    with open(tmp_path / "after.npz", "wb") as file:
        np.save(file, P)
    with pytest.raises(InputError, match="after.npz .*is one array"):
        run(config, tmp_path / "run")


PAIR = ("--before=none.npz", "--after=none.npz")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--before=x.npz", "--workdir={tmp}/run"), "--after is missing; for example: --before"),
        pytest.param(
            ("--attacks=leaks", "--workdir={tmp}/run"), "--before is missing", marks=pytest.mark.slow
        ),
        (PAIR, "--workdir is missing"),
        ((*PAIR, "--workdir={tmp}/run"), "--before is 'none.npz', but there is no such file"),
        ((*PAIR, "--workdir={tmp}/run", "--attacks=lira"), "--attacks is 'lira', but expected 'leaks'"),
        ((*PAIR, "--workdir={tmp}/run", "--signals=s.npz"), "--signals is not read with --attacks=leaks"),
        pytest.param(
            (*PAIR, "--workdir={tmp}/run", "--gamma=3"),
            "--gamma is not read with --attacks=leaks",
            marks=pytest.mark.slow,
        ),
        (
            (*PAIR, "--workdir={tmp}/run", "--features=sorted_conkat"),
            "--features is 'sorted_conkat', .*did you mean 'sorted_concat'.* --features=VALUE",
        ),
        pytest.param(
            (*PAIR, "--workdir={tmp}/run", "--classifiers=mlp,mlp"),
            "--classifiers is .*, but expected one entry or more, none twice",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            (*PAIR, "--workdir={tmp}/run", "--fpr=2"),
            r"--fpr is \(2.0,\), but expected rates",
            marks=pytest.mark.slow,
        ),
        (("--signals=x.npz", "--workdir={tmp}/run", "--features=l2"), "--features is of --attacks=leaks"),
    ],
)
def test_bad_flags_are_one_sentence(tmp_path, flags, message):
    process = start(*(flag.format(tmp=tmp_path) for flag in flags))
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert re.search(message, process.stderr), process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.torch
def test_the_readme_fills_the_files_from_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    block = re.search(
        r"<!-- tests/test_leaks_audit.py runs this block -->\n```python\n(.*?)```",
        (ROOT / "README.md").read_text(),
        re.S,
    )[1]
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = torch.randn(600, 6), torch.randint(0, 3, (600,))

    def trained(rows):
        model = torch.nn.Sequential(torch.nn.Linear(6, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return model

    def one():
        rows = rng.permutation(600)
        learned, deleted, never = rows[:60], rows[:10], rows[60:70]
        return {
            "before": trained(learned),
            "after": trained(learned[10:]),
            "x": x[np.concatenate([deleted, never])],
            "deleted": np.arange(20) < 10,
        }

    monkeypatch.chdir(tmp_path)
    exec(block, {"shadows": [one() for _ in range(6)], "targets": [one() for _ in range(6)]})
    config = LeaksAudit("before.npz", "after.npz", **QUICK | {"classifiers": ("logistic_regression",)})
    results, _ = run(config, tmp_path / "run")
    # Labels are noise, so the first model alone says little without them, and its answers move where they were learned.
    assert results["data"]["target_pairs"] == 120
    assert max(row["auc"] for row in results["tables"]["leaks"]) > 0.6
