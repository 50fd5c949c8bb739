import dataclasses
import datetime
import json
import shutil

import numpy as np
import pytest

from mu_jax.config import AdversaryConfig, DataConfig, InputError, SisaConfig, to_dict
from mu_jax.data.splits import Splits
from mu_jax.experiments import sisa_posterior
from mu_jax.experiments.sisa_posterior import adversary_rows, run
from mu_jax.experiments.sisa_setting import prepare_sisa
from mu_jax.unlearning.sisa.cost import expected_cost
from mu_jax.unlearning.sisa.ensemble import Sisa
from mu_jax.unlearning.sisa.requests import RequestLog
from tiny_sisa import POSTERIOR, Lines

MODELS = ["base", "base_retrained", "sisa", "sisa_unlearned", "sisa_retrained", "sisa_retrained_again"]
ATTACKS = ["posterior_1", "posterior_1_ensemble", "posterior_2", "posterior_3", "loss_threshold"]


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sisa") / "run"
    results, done_before = run(POSTERIOR, workdir, progress=Lines())
    assert not done_before
    return workdir, results


def answers(workdir, name):
    with np.load(workdir / "answers" / f"{name}.npz") as found:
        return {key: found[key] for key in found.files}


def without_times(value):
    if isinstance(value, dict):
        hidden = ("seconds", "seconds_full", "compile_seconds", "finished")
        return {key: without_times(item) for key, item in value.items() if key not in hidden}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_the_folder_holds_what_the_contract_lists(finished):
    workdir, results = finished
    assert {"config.json", "results.json", "report.html", "figures", "checkpoints", "splits.npz", "sisa"} <= {
        path.name for path in workdir.iterdir()
    }
    assert json.loads((workdir / "results.json").read_text()) == results
    assert json.loads((workdir / "config.json").read_text())["config"] == to_dict(POSTERIOR)
    assert list(results["models"]) == MODELS
    for model in results["models"].values():
        assert set(model["accuracy"]) == {"retain", "forget", "test"}
        assert list(model["attacks"]) == ATTACKS + [f"{name}_retain" for name in ATTACKS]


def test_the_unlearned_ensemble_equals_the_one_that_never_saw_the_data(finished):
    workdir, results = finished
    unlearned, retrained = (results["models"][name] for name in ("sisa_unlearned", "sisa_retrained"))
    for key in ("accuracy", "accuracy_interval", "attacks", "gap_to_retrain", "gap_parts"):
        assert unlearned[key] == retrained[key]
    assert unlearned["gap_to_retrain"] == 0
    mine, theirs = answers(workdir, "sisa_unlearned"), answers(workdir, "sisa_retrained")
    for key in mine:
        np.testing.assert_array_equal(mine[key], theirs[key])
    # And neither is the ensemble as it was.
    assert (answers(workdir, "sisa")["mean_posterior"] != mine["mean_posterior"]).any()
    assert results["models"]["sisa_retrained_again"]["gap_to_retrain"] > 0


def test_memorised_labels_are_seen_before_the_deletion_and_not_after(finished):
    _, results = finished
    models = results["models"]
    for before, after in (("base", "base_retrained"), ("sisa", "sisa_unlearned")):
        assert models[before]["accuracy"]["forget"] > models[after]["accuracy"]["forget"] + 0.1
    # Labels are wrong by chance, so that a model that has seen them is the only one to know them.
    assert models["base"]["attacks"]["loss_threshold"]["auc"] > 0.75
    assert models["base"]["attacks"]["loss_threshold_retain"]["auc"] > 0.75


def test_the_adversarys_images_train_no_target(finished):
    workdir, results = finished
    splits = Splits.load(workdir / "splits.npz")
    assert len(splits.validation) == 80
    assert results["data"]["shadow_members"] == results["data"]["shadow_nonmembers"] == 40
    held = np.load(workdir / "sisa" / "sharding.npz")["positions"]
    np.testing.assert_array_equal(np.sort(held), np.union1d(splits.retain, splits.forget))


def test_counted_and_expected_cost_stand_side_by_side(finished):
    workdir, results = finished
    rows = results["tables"]["deletion_cost"]
    assert [row["requests"] for row in rows] == [1, 3, results["data"]["forget"]]
    assert [row["trained"] for row in rows] == [False, False, True]
    total, epochs = results["data"]["train"], POSTERIOR.train.epochs
    for row in rows:
        expected = expected_cost(total, 3, 2, row["requests"])
        assert row["expected_examples"] == expected["examples_retrained"]
        assert row["speed_up"] == pytest.approx((total - row["requests"]) / row["examples_retrained"])
    # Of 40 examples in a shard one request retrains 39 or, from the second slice on, about two thirds of that.
    assert rows[0]["examples_retrained"] == pytest.approx(rows[0]["expected_examples"], rel=0.2)
    assert rows[0]["examples_retrained_sd"] > 0
    certificate = json.loads((workdir / "sisa/certificates/request_000001.json").read_text())
    assert rows[-1]["examples_retrained"] == certificate["trained_samples"] / epochs
    assert results["models"]["sisa_unlearned"]["trained_samples"] == certificate["trained_samples"]
    for row in rows[:2]:
        assert abs(row["simulated_examples"] - row["expected_examples"]) < 5 * row["simulated_error"]


def test_accuracy_stands_by_number_of_shards_and_by_aggregation(finished):
    _, results = finished
    rows = results["tables"]["accuracy_by_shards"]
    assert [(row["shards"], row["slices"]) for row in rows[::3]] == [(1, 1), (2, 1), (3, 2)]
    single = [row["test_accuracy"] for row in rows[:3]]
    assert single == [results["models"]["base"]["accuracy"]["test"]] * 3  # one shard: every vote is its own
    main = next(row for row in rows if row["shards"] == 3 and row["aggregation"] == "mean_posterior")
    assert main["test_accuracy"] == results["models"]["sisa"]["accuracy"]["test"]
    shards = results["tables"]["constituents"]
    assert [row["examples"] for row in shards] == [40, 40, 40]
    assert main["constituent_test"] == pytest.approx(np.mean([row["test_accuracy"] for row in shards]))


def test_a_finished_run_is_reported_as_done(finished):
    workdir, results = finished
    again, done_before = run(POSTERIOR, workdir)
    assert done_before and again == results
    other = dataclasses.replace(POSTERIOR, sisa=SisaConfig(shards=4, slices=2))
    with pytest.raises(InputError, match="sisa.shards was 3 and is now 4"):
        run(other, workdir)


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("before the deletion", marks=pytest.mark.slow),
        "while deleting",
        pytest.param("after the deletion", marks=pytest.mark.slow),
    ],
)
def test_a_run_cut_off_goes_on_to_the_same_results(finished, tmp_path, monkeypatch, moment):
    _, results = finished

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch:
        if moment == "before the deletion":
            patch.setattr(sisa_posterior.Work, "_delete", stop)
        elif moment == "while deleting":
            patch.setattr(Sisa, "_certify", stop)
        else:
            patch.setattr(sisa_posterior, "other_shadow", stop)
        with pytest.raises(Stopped):
            run(POSTERIOR, tmp_path / "run", progress=Lines())
    assert not (tmp_path / "run" / "results.json").exists()
    again, _ = run(POSTERIOR, tmp_path / "run", progress=Lines())
    assert without_times(again) == without_times(results)


def test_an_ensemble_that_has_had_other_deletions_is_not_measured(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    (workdir / "results.json").unlink()
    another = Splits.load(workdir / "splits.npz").retain[:1]
    RequestLog(workdir / "sisa/requests.jsonl").append(another, datetime.datetime.now(datetime.UTC))
    for name in ("splits.npz", "checkpoints", "answers"):
        shutil.rmtree(workdir / name) if (workdir / name).is_dir() else (workdir / name).unlink()
    before = sorted(workdir.rglob("*"))
    with pytest.raises(InputError, match="has had other deletions than this experiment's"):
        run(POSTERIOR, workdir, progress=Lines())
    assert sorted(workdir.rglob("*")) == before  # nothing was trained, or written, on what was deleted


def test_the_adversarys_models_start_from_their_own_random_numbers(finished):
    # Else the shadow would be the target's twin, which no adversary has.
    setting = prepare_sisa(POSTERIOR)
    keys = [
        json.loads((finished[0] / f"checkpoints/{name}/shard_0000/slice_0000/step.json").read_text())["key"]
        for name in ("base", "shadow")
    ]
    rows = adversary_rows(Splits.load(finished[0] / "splits.npz"), POSTERIOR.seed)[0]
    trainer = setting.make_trainer(setting.first_placement(1))
    sharding = setting.sharding(rows, shards=1, slices=1)
    of_seed = [setting.models(finished[0], trainer, seed) for seed in (POSTERIOR.seed, POSTERIOR.seed + 2)]
    by_seed = [models.steps(sharding)[0][0].key for models in of_seed]
    assert keys[1] == by_seed[1] != by_seed[0]


def test_distribution_aware_shards_are_not_given_the_closed_form_of_even_ones(tmp_path):
    likely = np.full(200, 1e-3)
    likely[:100] = 2e-2
    np.save(tmp_path / "p.npy", likely)
    aware = SisaConfig(slices=2, sharding="distribution_aware", probabilities=str(tmp_path / "p.npy"))
    short = dataclasses.replace(POSTERIOR.train, epochs=1.0)
    config = dataclasses.replace(
        POSTERIOR, sisa=aware, compare_shards=(), adversary=AdversaryConfig(), train=short
    )
    results, _ = run(config, tmp_path / "run", progress=Lines())
    assert results["sisa"]["shards"] > 1
    assert {row["expected_examples"] for row in results["tables"]["deletion_cost"]} == {None}
    assert {row["examples"] for row in results["tables"]["expected_speed_up"]} == {10_000_000}
    assert (tmp_path / "run/report.html").exists()


def test_an_adversary_without_images_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="validation_fraction is 0.0, but expected a share of the training images"
    ):
        dataclasses.replace(POSTERIOR, data=DataConfig())
    few = dataclasses.replace(POSTERIOR.data, validation_fraction=0.01)
    with pytest.raises(InputError, match="leaves the adversary 2 images, but expected at least 4"):
        run(dataclasses.replace(POSTERIOR, data=few), tmp_path / "run")
    assert not (tmp_path / "run").exists()
