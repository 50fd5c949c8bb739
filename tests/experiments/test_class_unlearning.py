import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.config import (
    ClassUnlearning,
    DataConfig,
    EvaluationConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
)
from mu_jax.config.class_methods import BoundaryExpandingConfig, ScarConfig, SvdProjectionConfig
from mu_jax.config.class_unlearning import ClassMethodsConfig, ForgetClassesConfig, ShadowsConfig
from mu_jax.config.methods import (
    GradientAscentConfig,
    L1SparseConfig,
    RandomLabelsConfig,
    SalunConfig,
    ScrubConfig,
)
from mu_jax.config.trw import DeleteConfig, TrwConfig
from mu_jax.experiments.class_answers import load_answer
from mu_jax.experiments.class_setting import Member, parse_row, prepare_classes
from mu_jax.experiments.class_unlearning import run
from mu_jax.experiments.registry import print_results
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.unlearning.methods import CLASS_METHODS, make_plan
from mu_jax.unlearning.plan import carry_out

TRAIN = OptimizationConfig(epochs=8.0, batch_size=16, learning_rate=0.05)
SHORT = dataclasses.replace(TRAIN, epochs=2.0, learning_rate=0.03, schedule="constant")
METHODS = ClassMethodsConfig(
    finetune=SHORT,
    gradient_ascent=GradientAscentConfig(dataclasses.replace(SHORT, epochs=1.0, learning_rate=1e-3)),
    random_labels=RandomLabelsConfig(SHORT),
    l1_sparse=L1SparseConfig(SHORT),
    salun=SalunConfig(SHORT),
    scrub=ScrubConfig(SHORT, forget_batch=8),
    boundary_expanding=BoundaryExpandingConfig(SHORT),
    delete=DeleteConfig(SHORT),
    svd_projection=SvdProjectionConfig(samples=100),
    scar=ScarConfig(dataclasses.replace(SHORT, optimizer="adam", learning_rate=1e-3)),
    trw=TrwConfig(SHORT),
)
NAMES = (
    "finetune",
    "random_labels",
    "salun",
    "scrub",
    "boundary_expanding",
    "delete",
    "svd_projection",
    "scar",
    "linear_filtration",
    "trw_head",
    "rwft",
    "trw",
    "trw:temperature=0.5,optimization.epochs=1",
)
CONFIG = ClassUnlearning(
    data=DataConfig(train_examples=300, test_examples=200),
    forget=ForgetClassesConfig(classes=(3, 8)),
    model=ModelConfig(name="mlp", width=16),
    train=TRAIN,
    names=NAMES,
    methods=METHODS,
    shadows=ShadowsConfig(models=4),
    loop=LoopConfig(chunk_steps=200),
    evaluation=EvaluationConfig(query_batch=100),
)
# One class and the methods of one program, where a test is about the folder.
SMALL = dataclasses.replace(CONFIG, names=("finetune", "trw"), forget=ForgetClassesConfig(classes=(3,)))


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes") / "run"
    results, done_before = run(CONFIG, workdir)
    assert not done_before
    return workdir, results


@pytest.fixture(scope="module", name="small")
def small_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("small") / "run"
    return workdir, run(SMALL, workdir)[0]


def test_every_row_has_its_figures(finished):
    workdir, results = finished
    assert json.loads((workdir / "results.json").read_text()) == results
    assert {"report.html", "figures", "answers", "splits.npz", "plan.json"} <= {
        path.name for path in workdir.iterdir()
    }
    assert list(results["models"]) == ["original", "retrain", *NAMES]
    for name, model in results["models"].items():
        assert model["n"] == 2
        assert model["diverged"] == 0
        assert set(model["accuracy"]) == {"retain", "forget", "test", "test_forget"}
        # Four retrained models are too few to attack one half of them by the other.
        assert (model["attacks"]["ulira"]["auc"] is None) == (name == "retrain")
        assert 0 <= model["total_variation"] <= 1
        attack = model["attacks"]["mia_nn"]
        # A mean of distances is never below the distance of means.
        assert (
            (attack["difference"] is None)
            if name == "retrain"
            else attack["difference"] <= attack["leak"] + 1e-9
        )
        assert (model["rank"] is None) == (name in ("original", "retrain"))
    assert len(results["tables"]["classes"]) == 2 * (2 + len(NAMES))
    for row in results["tables"]["confusion"]:
        assert sum(row["shares"]) == pytest.approx(1)
    assert {row["nearest"] for row in results["tables"]["classes"]}.isdisjoint({-1})


def test_what_each_row_does_to_the_class(finished):
    _, results = finished
    models = results["models"]
    assert models["original"]["accuracy"]["forget"] > 0.9
    assert models["original"]["attacks"]["ulira"]["auc"] > 0.95
    assert models["retrain"]["accuracy"]["forget"] == 0
    assert models["retrain"]["gap_to_retrain"] == 0
    for name in ("delete", "linear_filtration", "trw_head", "trw", "rwft", "random_labels"):
        assert models[name]["accuracy"]["forget"] < 0.3, name
        assert models[name]["accuracy"]["test"] > 0.7, name
    # What is never the forgotten class cannot be so far from a retrained model as what always is.
    assert models["trw"]["total_variation"] < models["original"]["total_variation"]
    assert models["retrain"]["total_variation"] < models["trw"]["total_variation"]


def test_figures_are_those_of_the_answers(finished):
    workdir, results = finished
    setting = prepare_classes(CONFIG)
    rows = setting.rows_of(8)
    right = []
    for number in range(4):
        logits = load_answer(workdir / "answers" / f"trw@8_{number}.npz").logits
        right.append((logits[rows["test"]].argmax(axis=1) == setting.dataset.labels[rows["test"]]).mean())
    (row,) = (row for row in results["tables"]["classes"] if row["model"] == "trw" and row["class"] == 8)
    assert row["accuracy"]["test"] == pytest.approx(np.mean(right))
    assert row["accuracy_sd"]["test"] == pytest.approx(np.std(right, ddof=1))
    shares = np.mean(
        [
            np.bincount(
                load_answer(workdir / "answers" / f"trw@8_{number}.npz")
                .logits[rows["test_forget"]]
                .argmax(axis=1),
                minlength=10,
            )
            / len(rows["test_forget"])
            for number in range(4)
        ],
        axis=0,
    )
    (confusion,) = (
        row for row in results["tables"]["confusion"] if row["model"] == "trw" and row["class"] == 8
    )
    np.testing.assert_allclose(confusion["shares"], shares)


@pytest.mark.parametrize(
    "name",
    [
        "salun",
        "boundary_expanding",
        "trw",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("finetune", "scrub", "scar")),
    ],
)
def test_a_model_of_a_group_is_the_single_model_of_its_plan(finished, name):
    workdir, _ = finished
    setting = prepare_classes(CONFIG)
    like = jax.eval_shape(setting.model.init, jax.random.key(0))
    checkpoints = Checkpoints(workdir / "checkpoints" / "original_2")
    original = checkpoints.restore(checkpoints.latest_step(), like)
    task = setting.task(3, jax.tree.map(jnp.asarray, original))
    row = parse_row(name, CONFIG.methods)
    plan = make_plan(row.method, task, row.settings, name=Member(name, 3, 2).name)
    alone = carry_out(plan, task, chunk_steps=200).variables
    logits = np.asarray(
        setting.query_model.apply(
            jax.tree.map(jnp.asarray, alone), (setting.images / 255.0 - 0.5) / 0.25, train=False
        )[0]
    )
    together = load_answer(workdir / "answers" / f"{name}@3_2.npz").logits
    # Training amplifies rounding; another batch order or another model's targets would be far away.
    np.testing.assert_allclose(together, logits, atol=0.05 * np.abs(logits).max())
    other = load_answer(workdir / "answers" / f"{name}@3_1.npz").logits
    assert np.abs(other - logits).max() > 0.2 * np.abs(logits).max()


def test_a_run_that_was_cut_off_ends_with_the_same_bits(small, tmp_path):
    workdir, results = small
    again = tmp_path / "again"
    shutil.copytree(workdir, again)
    (again / "results.json").unlink()
    for name in ("trw@3_1", "retrain@3_2", "finetune@3_0"):
        (again / "answers" / f"{name}.npz").unlink()
    resumed, done_before = run(SMALL, again)
    assert not done_before
    for path in (workdir / "answers").iterdir():
        assert (
            load_answer(path).logits.tobytes() == load_answer(again / "answers" / path.name).logits.tobytes()
        )
    for name in results["models"]:
        mine, theirs = (dict(one["models"][name]) for one in (resumed, results))
        for one in (mine, theirs):
            one.pop("seconds")
        assert mine == theirs
    assert run(SMALL, again) == (resumed, True)


def test_the_terminal_shows_every_row(finished, capsys):
    workdir, results = finished
    print_results(results, workdir, done_before=False)
    shown = capsys.readouterr().out
    for name in ("retrain", "trw_head", "boundary_expanding", "report.html"):
        assert name in shown


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": ("amun",)}, "names is 'amun'"),
        ({"names": ("trw:temprature=1",)}, "changes 'temprature=1', but expected KEY=VALUE"),
        ({"names": ("trw:temperature=0",)}, "temperature is 0"),
        ({"forget": ForgetClassesConfig(classes=(10,))}, r"holds 10, but digits .* has the classes 0\.\.9"),
        (
            {
                "data": DataConfig(source="synthetic:8,8,1,2,40,20"),
                "forget": ForgetClassesConfig(classes=(0,)),
            },
            "has 2 classes, but forgetting one needs at least 3",
        ),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(SMALL, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_few_models_are_refused():
    with pytest.raises(InputError, match="shadows.models is 3, but expected at least 4"):
        ShadowsConfig(models=3)


def test_every_method_of_classes_may_stand_in_the_table():
    for name in CLASS_METHODS:
        assert parse_row(name, ClassMethodsConfig()).method == name
