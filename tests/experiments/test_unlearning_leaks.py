"""The attack on pairs of models, from data to results.json."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    UnlearningLeaks,
)
from mu_jax.config.leaks import CLASSIFIERS, FEATURES, LeaksConfig
from mu_jax.config.methods import MethodsConfig, SalunConfig
from mu_jax.defenses.accounting import epsilon
from mu_jax.experiments.leaks_attacks import ask
from mu_jax.experiments.leaks_defenses import parse_defense
from mu_jax.experiments.leaks_setting import prepare_leaks
from mu_jax.experiments.leaks_versions import Scenario
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.unlearning_leaks import run

TRAIN = OptimizationConfig(epochs=4.0, batch_size=16, learning_rate=0.05)
SHORT = dataclasses.replace(TRAIN, epochs=1.0, learning_rate=0.02, schedule="constant")
CONFIG = UnlearningLeaks(
    data=DataConfig(train_examples=300, test_examples=100),
    model=ModelConfig(name="mlp", width=8),
    train=TRAIN,
    leaks=LeaksConfig(
        originals=2,
        unlearned=4,
        training_examples=40,
        targets=("mlp", "mlp:train.epochs=12.0,train.weight_decay=0.0"),
        shares=("nothing", "start"),
        scenarios=("single", "intermediates", "remaining"),
        intermediates=(3,),
        group_sizes=(4,),
        online_sizes=(2,),
        features=("direct_concat", "sorted_difference", "l2"),
        classifiers=("logistic_regression", "decision_tree"),
        defenses=("none", "label_only"),
    ),
    loop=LoopConfig(chunk_steps=50),
    evaluation=EvaluationConfig(query_batch=100, bootstrap_samples=100, fpr=(0.1,)),
)
# One scenario, where a test is about the folder or the models.
SMALL = dataclasses.replace(
    CONFIG,
    leaks=dataclasses.replace(
        CONFIG.leaks,
        targets=("mlp",),
        scenarios=("single", "group"),
        defenses=("none",),
        features=("direct_difference",),
        classifiers=("logistic_regression",),
    ),
)


def _with(config, **changes):
    return dataclasses.replace(config, leaks=dataclasses.replace(config.leaks, **changes))


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("leaks") / "run"
    results, done_before = run(CONFIG, workdir)
    assert not done_before
    return workdir, results


@pytest.fixture(scope="module", name="small")
def small_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "run"
    return workdir, run(SMALL, workdir)[0]


def test_every_case_has_its_figures(finished, capsys):
    workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    rows = results["tables"]["leaks"]
    arms = {row["arm"] for row in rows}
    assert len(arms) == 2 * 2
    # Arms × scenarios × defences × features × classifiers.
    assert len(rows) == 4 * 3 * 2 * 3 * 2
    for row in rows:
        assert {row["feature"]} <= set(FEATURES) and {row["classifier"]} <= set(CLASSIFIERS)
        for key in ("auc", "classical_auc", "deg_count", "newly_exposed", "accuracy"):
            assert 0 <= row[key] <= 1, key
        assert -1 <= row["deg_rate"] <= 1
        low, high = row["interval"]["auc"]
        assert 0 <= low <= row["auc"] <= high <= 1
    chosen = [row for row in rows if row["chosen"]]
    assert len(chosen) == 4 * 3 * 2
    for one in chosen:
        others = [
            row for row in rows if all(row[key] == one[key] for key in ("arm", "scenario", "size", "defense"))
        ]
        assert one["selection_auc"] == max(row["selection_auc"] for row in others)
    print_results(results, workdir, False)
    assert "mlp" in capsys.readouterr().out
    assert run(CONFIG, workdir) == (results, True)


def test_tables_of_transfer_and_defences(finished):
    _, results = finished
    # Each kind of model to the other, by the same way of deleting and the same defence.
    assert len(results["tables"]["transfer"]) == 2 * 2 * 2
    for row in results["tables"]["transfer"]:
        assert row["shadow_arm"] != row["arm"]
    defenses = results["tables"]["defenses"]
    assert len(defenses) == 4 * 2
    by_name = {row["defense"]: row for row in defenses if row["arm"] == defenses[0]["arm"]}
    # The label alone is as often right, and says nothing of how sure the model is.
    assert by_name["label_only"]["test_accuracy"] == by_name["none"]["test_accuracy"]
    assert by_name["label_only"]["brier"] == pytest.approx(2 * (1 - by_name["none"]["test_accuracy"]))
    curves = results["tables"]["roc"]
    assert {row["attack"] for row in curves} == {"pair", "classical"}
    for curve in curves:
        assert (curve["fpr"][0], curve["tpr"][-1]) == (0, 1)


def test_questions_are_what_both_models_say_of_the_example(small):
    workdir, _ = small
    setting = prepare_leaks(SMALL)
    side = setting.sides["target"]
    logits = {}
    for path in (workdir / "answers").glob("*target*.npz"):
        with np.load(path) as archive:
            logits |= dict(zip(map(str, archive["names"]), archive["logits"], strict=True))
    from mu_jax.experiments.leaks_lessons import retraining
    from mu_jax.experiments.leaks_models import Answers

    lessons = retraining("mlp", side.plan, SMALL.seed, shares_start=False)
    (scenario, *_) = side.plan.scenarios
    asked = ask(scenario, Answers(lessons, logits, frozenset()), parse_defense("none").release)
    for i, pair in enumerate(scenario.pairs):
        for version, said in ((pair.before, asked.before[i]), (pair.after, asked.after[i])):
            expected = softmax(logits[f"mlp {version}"][pair.row].astype(np.float64))
            np.testing.assert_allclose(said, expected, rtol=1e-12)
        assert (asked.member[i], asked.original[i]) == (pair.member, pair.original)
    # A diverged model takes its pairs with it, and no others.
    broken = scenario.pairs[0].after
    left = ask(
        scenario, Answers(lessons, logits, frozenset({f"mlp {broken}"})), parse_defense("none").release
    )
    gone = sum(pair.after == broken for pair in scenario.pairs)
    assert (len(left.member), left.left_out) == (len(scenario.pairs) - gone, gone)
    with pytest.raises(InputError, match="models diverged"):
        ask(
            Scenario("single", 1, scenario.pairs[:2]),
            Answers(lessons, logits, frozenset({f"mlp {broken}"})),
            parse_defense("none").release,
        )


def test_a_retrained_model_does_not_know_what_was_deleted_nor_the_other_side(small, tmp_path, monkeypatch):
    """Overwriting what a version never learned leaves its answers on the rest bitwise as they were."""
    import mu_jax.experiments.leaks_setting as leaks_setting

    workdir, _ = small
    setting = prepare_leaks(SMALL)
    side = setting.sides["target"]
    version = next(one for one in side.plan.versions if one.name == "target0.group4.0")
    noised = np.setdiff1d(np.arange(len(side.labels)), version.rows)
    whole = leaks_setting.read_data

    def with_noise(*arguments, **named):
        dataset = whole(*arguments, **named)
        images = dataset.images.copy()
        rows = np.concatenate([side.rows[noised], setting.sides["shadow"].rows])
        images[rows] = np.random.default_rng(1).integers(0, 256, images[rows].shape, dtype=np.uint8)
        number = len(dataset.y_train)
        return dataclasses.replace(dataset, x_train=images[:number], x_test=images[number:])

    monkeypatch.setattr(leaks_setting, "read_data", with_noise)
    run(SMALL, tmp_path / "noised")

    def answers(folder):
        found = {}
        for path in (folder / "answers").glob("*target*.npz"):
            with np.load(path) as archive:
                found |= dict(zip(map(str, archive["names"]), archive["logits"], strict=True))
        return found

    before, after = answers(workdir), answers(tmp_path / "noised")
    for name in (f"mlp {version.name}", f"mlp {version.name} start"):
        np.testing.assert_array_equal(before[name][version.rows], after[name][version.rows])
    # The original learned some of them, so that the test would see it if nothing had been overwritten.
    assert not np.array_equal(before["mlp target0"][version.rows], after["mlp target0"][version.rows])


def test_a_shared_start_is_the_originals_first_weights_and_batches():
    setting = prepare_leaks(SMALL)
    from mu_jax.experiments.leaks_lessons import retraining
    from mu_jax.training.loop import TrainingRun

    side, target = setting.sides["target"], setting.targets[0]
    lessons = retraining("mlp", side.plan, SMALL.seed, shares_start=True)
    runs = [
        TrainingRun(lesson.stream, SMALL.seed, lesson.rows, TRAIN, target.recipe)
        for (lesson,) in (lessons["target1"], lessons["target1.single.0"])
    ]
    keys = [jax.random.key_data(jnp.stack(one.keys())) for one in runs]
    np.testing.assert_array_equal(*keys)
    batches = [one.inputs(0, one.steps, one.steps).index for one in runs]
    (deleted,) = next(v for v in side.plan.versions if v.name == "target1.single.0").deleted
    changed = batches[0] != batches[1]
    assert changed.any()
    assert set(batches[0][changed]) == {int(deleted)}
    assert int(deleted) not in batches[1]


def test_a_run_that_was_cut_off_ends_with_the_same_bits(small, tmp_path):
    workdir, results = small
    import shutil

    shutil.copytree(workdir, tmp_path / "cut")
    (tmp_path / "cut" / "results.json").unlink()
    removed = sorted((tmp_path / "cut" / "answers").glob("*.npz"))[1]
    kept = removed.read_bytes()
    removed.unlink()
    again, done_before = run(SMALL, tmp_path / "cut")
    assert not done_before
    with np.load(removed) as made, np.load(workdir / "answers" / removed.name) as first:
        np.testing.assert_array_equal(made["logits"], first["logits"])
    assert kept
    for table in ("leaks", "transfer", "defenses"):
        assert again["tables"][table] == results["tables"][table]


def test_methods_and_shards_beside_retraining(tmp_path):
    config = dataclasses.replace(
        _with(
            SMALL,
            methods=("retrain", "sisa", "finetune", "salun", "amun"),
            shares=("nothing",),
            scenarios=("single", "group", "online"),
            sisa_shards=4,
            unlearned=2,
        ),
        methods=MethodsConfig(
            finetune=SHORT,
            salun=SalunConfig(SHORT),
            amun=dataclasses.replace(MethodsConfig().amun, optimization=SHORT),
        ),
    )
    results, _ = run(config, tmp_path / "run")
    scenarios = {}
    for row in results["tables"]["leaks"]:
        scenarios.setdefault(row["method"], set()).add(row["scenario"])
    # What was deleted can be replaced only where there is a training.
    assert scenarios["retrain"] == scenarios["sisa"] == {"single", "group", "online"}
    assert scenarios["finetune"] == scenarios["salun"] == scenarios["amun"] == {"single", "group"}
    answers = {}
    for path in (tmp_path / "run" / "answers").glob("*target*.npz"):
        with np.load(path) as archive:
            answers |= dict(zip(map(str, archive["names"]), archive["logits"], strict=True))
    # Unlearned models are the originals moved a little, retrained ones others altogether.
    distance = {
        name: np.abs(answers[f"mlp target0.single.0{suffix}"] - answers["mlp target0"]).mean()
        for name, suffix in (("retrain", ""), ("finetune", " finetune"), ("amun", " amun"))
    }
    assert 0 < distance["finetune"] < distance["retrain"]
    assert 0 < distance["amun"] < distance["retrain"]
    # A method's version by itself is that of its group.
    _same_as_alone(config, tmp_path / "run", answers, "salun")


def _same_as_alone(config, workdir, answers, method):
    from mu_jax.experiments.leaks_setting import task_data
    from mu_jax.training.checkpoints import Checkpoints
    from mu_jax.training.query import make_query
    from mu_jax.unlearning.methods import METHODS, make_plan
    from mu_jax.unlearning.plan import Task, carry_out

    setting = prepare_leaks(config)
    side, target = setting.sides["target"], setting.targets[0]
    version = next(one for one in side.plan.versions if one.name == "target1.group4.0")
    checkpoints = Checkpoints(workdir / "checkpoints" / "mlp_target1")
    like = jax.eval_shape(target.model.init, jax.random.key(0))
    original = jax.tree.map(jnp.asarray, checkpoints.restore(checkpoints.latest_step(), like))
    task = Task(
        model=target.model,
        images=side.on_device,
        labels=side.labels,
        num_classes=10,
        retain=version.rows,
        forget=version.deleted,
        data=task_data(setting),
        seed=config.seed,
        original=original,
        query_model=target.query_model,
    )
    name = f"mlp {version.name} {method}"
    plan = make_plan(method, task, METHODS[method].settings_of(config.methods), name=name)
    alone = carry_out(plan, task, chunk_steps=50).variables
    query = make_query(target.query_model, config.data.mean, config.data.std, 100)
    said = query(jax.tree.map(jnp.asarray, alone), side.on_device)
    np.testing.assert_allclose(said, answers[name], rtol=1e-3, atol=1e-3)


@pytest.mark.dp
def test_private_training_and_other_data(tmp_path):
    pytest.importorskip("jax_privacy")
    pytest.importorskip("dp_accounting")
    config = _with(
        SMALL,
        shares=("nothing",),
        scenarios=("single",),
        targets=("mlp:train.epochs=30.0",),
        defenses=("none", "label_only", "dp_sgd:noise_multiplier=4.0"),
        other_source="digits",
    )
    results, _ = run(config, tmp_path / "run")
    rows = {row["defense"]: row for row in results["tables"]["defenses"]}
    private = rows["dp_sgd:noise_multiplier=4.0"]
    # What is released of privately trained models is what they say.
    assert set(rows) == {"none", "label_only", "dp_sgd:noise_multiplier=4.0"}
    # 40 examples, 16 of them expected in a batch, 30 epochs.
    assert private["epsilon"] == pytest.approx(epsilon(4.0, 16 / 40, 75, 1e-5))
    assert "epsilon" not in rows["none"]
    accuracy = {row["defense"]: results["models"][row["arm"]]["accuracy"]["train"] for row in rows.values()}
    assert accuracy["dp_sgd:noise_multiplier=4.0"] < accuracy["none"]
    other = [row for row in results["tables"]["transfer"] if row["shadow_arm"] == row["arm"]]
    assert [row["defense"] for row in other] == ["none", "dp_sgd:noise_multiplier=4.0"]
    with np.load(tmp_path / "run" / "splits.npz") as sides:
        assert set(sides["shadow_rows"]).isdisjoint(sides["target_rows"])
        assert len(sides["other_rows"]) == len(sides["shadow_rows"]) + len(sides["target_rows"])


def test_trees_and_tabular_data(tmp_path):
    config = dataclasses.replace(
        _with(
            SMALL,
            targets=("logistic_regression", "decision_tree"),
            shares=("nothing",),
            scenarios=("single",),
            training_examples=60,
        ),
        data=DataConfig(source="breast_cancer"),
    )
    results, _ = run(config, tmp_path / "run")
    assert results["data"]["tabular"]
    ties = {row["target"]: row["ties"]["never"] for row in results["tables"]["leaks"]}
    # A tree that lost one example says the same of most others; a network never does.
    assert ties["logistic_regression"] == 0
    assert ties["decision_tree"] > 0.2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"targets": ("cnm",)}, "model.name"),
        ({"targets": ("decision_tree:k=1",)}, "has no settings to change"),
        ({"methods": ("retrain", "finetun")}, "leaks.methods has 'finetun'"),
        ({"methods": ("finetune",), "targets": ("decision_tree",)}, "can only be retrained"),
        ({"defenses": ("tok_k",)}, "leaks.defenses"),
        ({"defenses": ("none", "top_k:k=11")}, "k is 11"),
        ({"defenses": ("label_only:k=1",)}, "has no settings"),
        pytest.param(
            {"targets": ("resnet18:model.width=4",), "defenses": ("none", "dp_sgd")},
            "has batch-norm",
            marks=pytest.mark.dp,
        ),
        ({"other_source": "breast_cancer"}, "leaks.other_source has 2 classes"),
        ({"training_examples": 5000}, "leaks.training_examples is 5000"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(changes, words, tmp_path):
    with pytest.raises(InputError, match=words):
        run(_with(SMALL, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
