import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.adversarial.examples import NothingFlipsError
from mu_jax.adversarial.stored import variables_sha256
from mu_jax.config import InputError
from mu_jax.config.unlearning import PoolConfig, RequestsConfig, RobustConfig, StudyConfig
from mu_jax.data.splits import splits_of_search
from mu_jax.experiments import methods_models, methods_requests, unlearning_methods
from mu_jax.experiments.methods_answers import load_answer
from mu_jax.experiments.methods_setting import Case, prepare_methods
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.unlearning_methods import run
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.loop import DivergenceError
from mu_jax.training.state import state_from_variables, variables_of
from mu_jax.training.step import Recipe
from mu_jax.unlearning.methods import METHODS
from tiny_methods import CONFIG, SHORT

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


def test_requests_go_on_from_the_last_model(finished):
    workdir, results = finished
    rows = results["tables"]["requests"]
    assert [(row["kind"], row["request"], row["deleted"]) for row in rows] == [
        ("amun", 1, 12), ("amun", 2, 24), ("amun_adaptive", 1, 12), ("amun_adaptive", 2, 24),
    ]  # fmt: skip
    for row in rows:
        assert row["fr_minus_ft"] == pytest.approx(row["fr_auc"] - row["ft_auc"])
    # The first request finds both kinds at the original model; then one's neighbours are of the model that it left.
    assert {**rows[0], "kind": ""} == {**rows[2], "kind": ""}
    made_on, rows_of = {}, {}
    for name in ("amun_request_1", "amun_request_2", "amun_adaptive_request_2"):
        with np.load(workdir / "neighbours" / f"{name}.npz", allow_pickle=False) as stored:
            made_on[name], rows_of[name] = str(stored["model_sha256"]), set(stored["index"].tolist())
    setting, model = prepare_methods(CONFIG), load_model(workdir, "original")
    assert made_on["amun_request_1"] == made_on["amun_request_2"] == variables_sha256(model.variables)
    after = Checkpoints(workdir / "checkpoints" / "amun_request_1")
    like = jax.eval_shape(
        lambda: state_from_variables(
            model.variables, Recipe.of(model.model, CONFIG.data, SHORT).make_optimizer()
        )
    )
    left = variables_of(after.restore(after.latest_step(), like))
    assert made_on["amun_adaptive_request_2"] == variables_sha256(left)
    assert not rows_of["amun_request_1"] & rows_of["amun_request_2"]
    searched = splits_of_search(setting.splits[0], CONFIG.seed).forget
    assert not set(searched.tolist()) & (rows_of["amun_request_1"] | rows_of["amun_request_2"])


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
    undisturbed, results = small
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
    for name in results["models"]:
        mine, theirs = (load_answer(at / "answers" / f"{name}.npz") for at in (workdir, undisturbed))
        np.testing.assert_array_equal(mine.logits, theirs.logits)
        np.testing.assert_array_equal(mine.neighbour_logits, theirs.neighbour_logits)
        assert resumed["models"][name]["gap_to_retrain"] == results["models"][name]["gap_to_retrain"]


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


def test_a_forget_set_in_which_nothing_flips_is_done_without_the_methods_that_need_it(
    tmp_path, monkeypatch, capsys
):
    config = dataclasses.replace(SMALL, study=StudyConfig(forget_sets=2, runs=2))
    second = prepare_methods(config).splits[1].forget
    search = methods_models.adversarial_neighbours

    def too_near(task, settings):
        if np.array_equal(task.forget, second):
            settings = dataclasses.replace(settings, epsilon=1e-4, max_epsilon=1e-4, steps=1)
        return search(task, settings)

    def killed(*_):
        raise KeyboardInterrupt

    workdir = tmp_path / "run"
    monkeypatch.setattr(methods_models, "adversarial_neighbours", too_near)
    with monkeypatch.context() as patch:
        patch.setattr(unlearning_methods, "write_methods_report", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config, workdir)
    reason = "Forget set 1 of base model 0 has no adversarial neighbours (own): None of the 40 examples"
    assert reason in capsys.readouterr().err
    # A resumed run does not search again.
    monkeypatch.setattr(methods_models, "adversarial_neighbours", None)
    results, done_before = run(config, workdir)
    assert not done_before
    rows = results["tables"]["left_out"]
    assert [(row["method"], row["forget_set"], row["run"]) for row in rows] == [
        ("amun", 1, 0),
        ("amun", 1, 1),
    ]
    for row in rows:
        assert row["reason"].startswith(reason) and "within ε = 0.0001" in row["reason"]
        assert "larger neighbours.max_epsilon" in row["reason"]
    assert results["tables"]["diverged"] == []
    models = results["models"]
    assert {name: (model["n"], model["left_out"]) for name, model in models.items()} == {
        "original": (2, 0), "retrain": (2, 0), "retrain_again": (2, 0), "finetune": (4, 0), "amun": (2, 2),
    }  # fmt: skip
    assert [one["forget_set"] for one in results["neighbours"]] == [0]
    assert {row["forget_set"] for row in results["tables"]["bound"]} == {0}
    assert "Left out, because no image of the forget set has" in (workdir / "report.html").read_text()
    print_results(results, workdir, False)
    assert "no adversarial neighbours: 2 runs left out (amun)" in capsys.readouterr().out


def test_a_request_in_which_nothing_flips_ends_the_requests_and_not_the_run(tmp_path, monkeypatch):
    search = methods_requests.adversarial_neighbours

    def none_of_the_second(task, settings):
        if len(task.retain) < 160 - 12:
            raise NothingFlipsError("None flips: invented here.")
        return search(task, settings)

    monkeypatch.setattr(methods_requests, "adversarial_neighbours", none_of_the_second)
    config = dataclasses.replace(SMALL, names=("finetune",), requests=RequestsConfig(number=2, size=12))
    results, _ = run(config, tmp_path / "run")
    rows = results["tables"]["requests"]
    assert [(row["kind"], row["request"]) for row in rows] == [("amun", 1), ("amun_adaptive", 1)]


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


def test_repeats_and_all_kinds_of_neighbours(tmp_path):
    """Two base models, two runs each; sets by FGSM, and from another model, which is trained for it."""
    config = dataclasses.replace(
        SMALL, names=("amun_fgsm", "amun_transferred"), study=StudyConfig(base_models=2, runs=2)
    )
    results, _ = run(config, tmp_path / "run")
    assert {name: model["n"] for name, model in results["models"].items()} == {
        "original": 2, "retrain": 2, "retrain_again": 2, "amun_fgsm": 4, "amun_transferred": 4,
    }  # fmt: skip
    assert [(one["kind"], one["base"]) for one in results["neighbours"]] == [
        ("fgsm", 0), ("transferred", 0), ("fgsm", 1), ("transferred", 1),
    ]  # fmt: skip
    assert [one["norm"] for one in results["neighbours"]] == ["linf", "l2"] * 2
    runs = [row for row in results["tables"]["runs"] if row["model"] == "amun_fgsm"]
    assert len({row["retain"] + row["test"] / 7 for row in runs}) > 1
    # Without a set of its own there is nothing that the theorem speaks of.
    assert results["tables"]["bound"] == []


def test_weights_that_are_finite_and_say_nothing_count_as_diverged(tmp_path, monkeypatch):
    carry_out_in = methods_models.carry_out_in

    def overflowing(folder, plan, *rest):
        trained = carry_out_in(folder, plan, *rest)
        if plan.name != "finetune":
            return trained
        huge = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3e38), trained.variables)
        return dataclasses.replace(trained, variables=huge)

    monkeypatch.setattr(methods_models, "carry_out_in", overflowing)
    results, _ = run(SMALL, tmp_path / "run")
    assert [row["method"] for row in results["tables"]["diverged"]] == ["finetune"]
    assert "finetune" not in results["models"]


def test_a_finished_pool_serves_another_run_and_one_of_other_data_is_refused(finished, tmp_path):
    workdir, results = finished
    given = dataclasses.replace(SMALL, names=("finetune",), pool=PoolConfig(folder=str(workdir / "pool")))
    again, _ = run(given, tmp_path / "run")
    assert not (tmp_path / "run" / "pool").exists()
    first = next(row for row in results["tables"]["runs"] if row["model"] == "finetune")
    (row,) = (row for row in again["tables"]["runs"] if row["model"] == "finetune")
    assert row["ft_auc"] == pytest.approx(first["ft_auc"], abs=1e-6)
    other = dataclasses.replace(given, seed=1)
    with pytest.raises(InputError, match="examples that are not the data's"):
        run(other, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_pool_whose_first_query_is_not_the_image_as_it_is_is_refused(finished, tmp_path):
    signals = tmp_path / "pool" / "signals"
    shutil.copytree(finished[0] / "pool" / "signals", signals)
    said = json.loads((signals / "pool.json").read_text())
    assert said["queries"] == [{"flip": False, "down": 0, "right": 0}]
    given = dataclasses.replace(SMALL, names=("finetune",), pool=PoolConfig(folder=str(tmp_path / "pool")))
    for first in ({"flip": True, "down": 0, "right": 0}, {"flip": False, "down": 1, "right": 0}, "plain"):
        (signals / "pool.json").write_text(json.dumps(said | {"queries": [first]}))
        with pytest.raises(InputError, match="The first query of the pool .* the image as it is"):
            run(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()
