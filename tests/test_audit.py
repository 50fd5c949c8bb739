"""The audit as its users start it, from files that other frameworks wrote."""

import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from mu_jax.config import AttackConfig, InputError
from mu_jax.experiments.audit import Audit, run
from mu_jax.experiments.registry import print_results

ROOT = pathlib.Path(__file__).parent.parent


def start(*flags):
    return subprocess.run(
        [sys.executable, "-m", "mu_jax.audit", *map(str, flags)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )


def save_phi(path, targets=4, shadows=24, examples=150, lift=2.0, seed=0, **extra):
    rng = np.random.default_rng(seed)
    member = rng.random((targets + shadows, examples)) < 0.5
    member[targets:] = rng.random((shadows, examples)).argsort(axis=0) < shadows // 2
    phi = 2 * rng.normal(size=examples) + lift * member + rng.normal(size=member.shape)
    np.savez(
        path,
        target_phi=phi[:targets],
        shadow_phi=phi[targets:],
        member_target=member[:targets],
        member_shadow=member[targets:],
        **extra,
    )
    return path


@pytest.fixture(scope="module", name="done")
def done_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    images = np.random.default_rng(0).integers(0, 256, (150, 6, 6), dtype=np.uint8)
    signals = save_phi(folder / "signals.npz", images=images, labels=np.arange(150) % 3)
    return folder, start(f"--signals={signals}", f"--workdir={folder / 'run'}", "--attacks=lira,rmia,loss")


def test_an_audit_leaves_results_scores_and_a_report(done):
    folder, process = done
    assert process.returncode == 0, process.stderr
    results = json.loads((folder / "run" / "results.json").read_text())
    rows = results["tables"]["attacks"]
    assert {(row["attack"], row["mode"], row["variance"]) for row in rows} == {
        ("lira", "online", "per_example"),
        ("lira", "online", "global"),
        ("lira", "offline", "per_example"),
        ("lira", "offline", "global"),
        ("rmia", "online", None),
        ("rmia", "offline", None),
        ("loss", None, None),
    }
    for row in rows:
        assert {"auc", "interval", "tpr_at_fpr", "false_positives"} <= row.keys()
    assert rows[0]["attack"] == "lira" and rows[0]["auc"] > 0.85
    assert f"{100 * rows[0]['auc']:.1f}" in process.stdout
    with np.load(folder / "run" / "scores.npz", allow_pickle=False) as scores:
        assert scores["lira_online_global"].shape == scores["is_member"].shape == (4, 150)
        np.testing.assert_array_equal(scores["examples"], np.arange(150))
    page = (folder / "run" / "report.html").read_text()
    assert "LiRA" in page and page.count("<img") >= 3  # ROC, scores, images
    assert len(results["tables"]["exposed"]) == 10
    again = start(
        f"--signals={folder / 'signals.npz'}", f"--workdir={folder / 'run'}", "--attacks=lira,rmia,loss"
    )
    assert again.returncode == 0 and "done already" in again.stdout


def test_another_file_or_other_settings_are_refused(done):
    folder, _ = done
    config = Audit(str(folder / "signals.npz"), attack=AttackConfig(names=("loss",)))
    with pytest.raises(InputError, match="another config: attack.names was"):
        run(config, folder / "run")
    save_phi(folder / "changed.npz")
    run(Audit(str(folder / "changed.npz"), attack=AttackConfig(names=("loss",))), folder / "other")
    save_phi(folder / "changed.npz", seed=1)
    with pytest.raises(InputError, match="before it changed"):
        run(Audit(str(folder / "changed.npz"), attack=AttackConfig(names=("loss",))), folder / "other")


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "--signals is missing"),
        (("--signals=x.npz",), "--workdir is missing"),
        (("--signals=none.npz", "--workdir={tmp}/run"), "'none.npz', but there is no such file"),
        (("--signals={tmp}", "--workdir={tmp}/run"), "there is no pool.json"),
        (
            ("--signals=x.npz", "--workdir={tmp}/run", "--attacks=lirra"),
            "--attacks is 'lirra'.*did you mean 'lira'",
        ),
        (("--signals=x.npz", "--workdir={tmp}/run", "--fpr=small"), "--fpr is 'small', but expected rates"),
        (
            ("--signals=x.npz", "--workdir={tmp}/run", "--gamma=-1"),
            "--gamma is -1.0, but expected a positive",
        ),
        (("--signal=x.npz",), "Unknown command line flag 'signal'"),
        (("x.npz",), "'x.npz' is not a flag"),
    ],
)
def test_bad_flags_are_one_sentence(tmp_path, flags, message):
    process = start(*(flag.format(tmp=tmp_path) for flag in flags))
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert re.search(message, process.stderr), process.stderr
    assert not (tmp_path / "run").exists()


def test_what_an_attack_cannot_judge_is_refused_and_nothing_is_written(tmp_path):
    member = np.zeros((8, 20), bool)
    member[::2, :19] = True  # nobody was trained on the last example
    phi = np.random.default_rng(0).normal(size=(8, 20))
    target = np.arange(20) % 2 == 0
    np.savez(
        tmp_path / "signals.npz",
        target_phi=phi[:1] + 1,
        shadow_phi=phi,
        member_target=target[None],
        member_shadow=member,
    )
    config = Audit(str(tmp_path / "signals.npz"))
    with pytest.raises(
        InputError, match="1 of 20 examples, 19 the first, have no IN reference.* or attack offline"
    ):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    offline = Audit(str(tmp_path / "signals.npz"), attack=AttackConfig(modes=("offline",)))
    results, _ = run(offline, tmp_path / "run")
    assert {row["mode"] for row in results["tables"]["attacks"]} == {"offline", None}
    print_results(results, tmp_path / "run", False)  # a single target


@pytest.mark.torch
def test_the_readme_fills_the_file_from_pytorch(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    block = re.search(
        r"<!-- tests/test_audit.py runs this block -->\n```python\n(.*?)```",
        (ROOT / "README.md").read_text(),
        re.S,
    )[1]
    torch.manual_seed(0)
    x, y = torch.randn(120, 8), torch.randint(0, 3, (120,))
    member = np.random.default_rng(0).random((10, 120)).argsort(axis=0) < 5

    def trained(rows):
        model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        return model

    models = [trained(rows) for rows in member]
    names = {
        "loader": torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=50),
        "targets": models[:2],
        "shadows": models[2:],
        "member_target": member[:2],
        "member_shadow": member[2:],
    }
    monkeypatch.chdir(tmp_path)
    exec(block, names)
    # Of 8 shadows an example is in 3 to 5.
    config = Audit("signals.npz", attack=AttackConfig(names=("lira", "rmia", "loss"), bootstrap_samples=100))
    results, _ = run(config, tmp_path / "run")
    aucs = {(row["attack"], row["mode"], row["variance"]): row["auc"] for row in results["tables"]["attacks"]}
    # Labels are noise, so models are right about members alone.
    assert aucs["loss", None, None] > 0.8
    assert aucs["lira", "online", "global"] > 0.8
