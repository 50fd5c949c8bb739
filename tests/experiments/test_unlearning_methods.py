import dataclasses
import json

import numpy as np
import pytest

from mu_jax.config import InputError, to_dict
from mu_jax.config.unlearning import PoolConfig, RequestsConfig, RobustConfig, StudyConfig
from mu_jax.experiments import methods_models
from mu_jax.experiments.methods_answers import load_answer
from mu_jax.experiments.methods_setting import Case, prepare_methods
from mu_jax.experiments.unlearning_methods import run
from mu_jax.training.loop import DivergenceError
from mu_jax.unlearning.methods import METHODS
from tiny_methods import CONFIG

ALL = ["original", "retrain", "retrain_again", *CONFIG.names]
# One forget set and the methods of one program, where a test is about the folder.
SMALL = dataclasses.replace(
    CONFIG,
    names=("finetune", "amun"),
    study=StudyConfig(),
    pool=PoolConfig(models=0),
    robust=RobustConfig(images=0),
    requests=RequestsConfig(),
)


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("methods") / "run"
    results, done_before = run(CONFIG, workdir)
    assert not done_before
    return workdir, results


@pytest.fixture(scope="module", name="small")
def small_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "run"
    return workdir, run(SMALL, workdir)[0]


def test_every_model_has_its_figures_and_retraining_has_no_gap(finished):
    workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    assert {"report.html", "figures", "pool", "answers", "neighbours", "splits_1.npz"} <= {
        path.name for path in workdir.iterdir()
    }
    assert list(results["models"]) == ALL
    for model in results["models"].values():
        assert model["n"] == 2
        assert set(model["accuracy"]) == {"retain", "forget", "test"} == set(model["accuracy_sd"])
        assert set(model["attacks"]) == {
            "loss_threshold", "rmia_forget_vs_test", "rmia_forget_vs_retain", "rmia_retain_vs_test", "svc",
        }  # fmt: skip
        assert 0 <= model["robust_accuracy"] <= 1
    assert results["models"]["retrain"]["gap_to_retrain"] == 0
    assert results["models"]["retrain"]["gap_sd"] == 0
    original, again = results["models"]["original"], results["models"]["retrain_again"]
    assert original["gap_to_retrain"] > 2 * again["gap_to_retrain"]
    # Wrong labels are memorised: the attack sees them in the original, and no longer after retraining.
    assert original["attacks"]["rmia_forget_vs_test"]["auc"] > 0.65
    assert abs(again["attacks"]["rmia_forget_vs_test"]["auc"] - 0.5) < 0.12


def test_means_and_spreads_are_those_of_the_runs(finished):
    _, results = finished
    rows = [row for row in results["tables"]["runs"] if row["model"] == "amun"]
    model = results["models"]["amun"]
    assert [row["forget_set"] for row in rows] == [0, 1]
    for part in ("retain", "forget", "test"):
        values = [row[part] for row in rows]
        assert model["accuracy"][part] == pytest.approx(np.mean(values))
        assert model["accuracy_sd"][part] == pytest.approx(np.std(values, ddof=1))
    assert model["gap_to_retrain"] == pytest.approx(np.mean([row["gap"] for row in rows]))
    other = {row["forget_set"]: row for row in results["tables"]["runs"] if row["model"] == "retrain"}
    for row in rows:  # by the definition, against the retrained model of the same forget set
        at = other[row["forget_set"]]
        parts = [abs(row[key] - at[key]) for key in ("forget", "retain", "test", "ft_auc")]
        assert row["gap"] == pytest.approx(np.mean(parts))


def test_figures_are_those_of_the_stored_logits_and_splits(finished):
    workdir, results = finished
    setting = prepare_methods(CONFIG)
    labels = setting.dataset.labels
    assert setting.splits[0].forget.tolist() != setting.splits[1].forget.tolist()
    for row in results["tables"]["runs"]:
        case = Case(row["model"], row["base"], row["forget_set"], row["run"])
        answer = load_answer(workdir / "answers" / f"{case.name}.npz")
        correct = answer.logits.argmax(axis=1) == labels
        splits = setting.splits[case.forget_set]
        assert row["forget"] == pytest.approx(correct[splits.forget].mean())
        assert row["retain"] == pytest.approx(correct[splits.retain].mean())


def test_the_neighbours_and_the_theorems_terms_are_there(finished):
    _, results = finished
    assert [(one["kind"], one["forget_set"]) for one in results["neighbours"]] == [("own", 0), ("own", 1)]
    for one in results["neighbours"]:
        assert one["examples"] + len(one["not_flipped"]) + len(one["flipped_back"]) == 40
        assert sum(one["count"]) + one["misclassified"] == one["examples"]
    rows = results["tables"]["bound"]
    assert len(rows) == 2 * (len(ALL) - 1)
    for row in rows:
        c = (
            row["loss_original"]
            + row["loss_unlearned"]
            - row["loss_retrained"]
            - row["loss_retrained_adversarial"]
        )
        assert row["c"] == pytest.approx(c)
    retrained = [row for row in rows if row["model"] == "retrain"]
    assert all(row["loss_unlearned"] == pytest.approx(row["loss_retrained_adversarial"]) for row in retrained)


def test_requests_shrink_the_retained_set_and_start_from_the_last_model(finished):
    workdir, results = finished
    rows = results["tables"]["requests"]
    assert [(row["kind"], row["request"], row["deleted"]) for row in rows] == [
        ("amun", 1, 12), ("amun", 2, 24), ("amun_adaptive", 1, 12), ("amun_adaptive", 2, 24),
    ]  # fmt: skip
    for row in rows:
        assert row["fr_minus_ft"] == pytest.approx(row["fr_auc"] - row["ft_auc"])
    first, second = (
        load_answer(workdir / "answers" / f"amun_adaptive_request_{number}.npz") for number in (1, 2)
    )
    # Both kinds meet the first request alike; the adaptive one makes the second's neighbours on the first's model.
    made_on = []
    for kind in ("amun", "amun_adaptive"):
        with np.load(workdir / "neighbours" / f"{kind}_request_2.npz") as stored:
            made_on.append(str(stored["model_sha256"]))
    assert made_on[0] != made_on[1]
    assert second.weights_distance > 0
    assert not np.array_equal(first.logits, second.logits)


def test_a_finished_run_is_not_repeated_and_another_config_is_refused(small, monkeypatch):
    workdir, results = small
    monkeypatch.setattr(methods_models, "carry_out_in", None)
    again, done_before = run(SMALL, workdir)
    assert done_before
    assert again == results
    other = dataclasses.replace(SMALL, names=("finetune",))
    with pytest.raises(InputError, match="names was"):
        run(other, workdir)


def test_a_killed_run_goes_on_to_the_same_figures(small, tmp_path, monkeypatch):
    _, results = small
    workdir = tmp_path / "run"
    carry_out_in = methods_models.carry_out_in

    def killed(folder, plan, *rest):
        if plan.name == "amun":
            raise KeyboardInterrupt
        return carry_out_in(folder, plan, *rest)

    monkeypatch.setattr(methods_models, "carry_out_in", killed)
    with pytest.raises(KeyboardInterrupt):
        run(SMALL, workdir)
    assert not (workdir / "results.json").exists()
    made = []

    def counted(folder, plan, *rest):
        made.append(plan.name)
        return carry_out_in(folder, plan, *rest)

    monkeypatch.setattr(methods_models, "carry_out_in", counted)
    resumed, _ = run(SMALL, workdir)
    # The original is read again, since methods start from it; what has its answers is not even read.
    assert made == ["original", "amun"]
    for name, model in results["models"].items():
        assert resumed["models"][name]["accuracy"] == model["accuracy"]
        assert resumed["models"][name]["gap_to_retrain"] == model["gap_to_retrain"]


def test_without_a_pool_the_gap_has_the_loss_attack(small):
    _, results = small
    assert results["pool"] is None
    for row in results["tables"]["runs"]:
        assert row["ft_auc"] is None
    model, retrain = results["models"]["amun"], results["models"]["retrain"]
    assert model["gap_parts"]["forget_vs_test_auc"] == pytest.approx(
        abs(model["attacks"]["loss_threshold"]["auc"] - retrain["attacks"]["loss_threshold"]["auc"])
    )
    assert model["gap_sd"] is None
    assert model["robust_accuracy"] is None


def test_a_method_that_diverges_is_named_and_the_others_go_on(tmp_path, monkeypatch):
    carry_out_in = methods_models.carry_out_in

    def diverging(folder, plan, *rest):
        if plan.name == "finetune":
            raise DivergenceError("Training of finetune diverged: invented here.")
        return carry_out_in(folder, plan, *rest)

    monkeypatch.setattr(methods_models, "carry_out_in", diverging)
    results, _ = run(SMALL, tmp_path / "run")
    assert "finetune" not in results["models"]
    assert "amun" in results["models"]
    (row,) = results["tables"]["diverged"]
    assert row["method"] == "finetune"
    assert "invented here" in row["reason"]


def test_every_method_has_a_name_that_a_config_may_give():
    assert set(CONFIG.names) < set(METHODS)
    with pytest.raises(InputError, match="names is 'amum'.*did you mean 'amun'"):
        prepare_methods(dataclasses.replace(CONFIG, names=("amum",)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"requests": {"number": 4, "size": 40}}, "are all 160 training examples"),
        ({"pool": {"folder": "nowhere"}}, "signals/pool.json"),
    ],
)
def test_bad_input_is_one_sentence(change, message, tmp_path):
    ((key, values),) = change.items()
    config = dataclasses.replace(SMALL, **{key: dataclasses.replace(getattr(SMALL, key), **values)})
    with pytest.raises(InputError, match=message) as error:
        run(config, tmp_path / "run")
    assert len(str(error.value).splitlines()) == 1


def test_several_forget_sets_of_given_examples_are_refused():
    with pytest.raises(InputError, match="study.forget_sets"):
        dataclasses.replace(CONFIG, forget=dataclasses.replace(CONFIG.forget, indices="some.npy"))


def test_the_config_round_trips():
    assert to_dict(CONFIG)["methods"]["amun_salun"]["saliency_share"] == 0.5
