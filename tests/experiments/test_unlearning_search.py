import dataclasses
import io
import itertools
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    InputError,
    LoopConfig,
    MethodsConfig,
    ModelConfig,
    NeighboursConfig,
    OptimizationConfig,
    SearchConfig,
    UnlearningMethods,
    UnlearningSearch,
    default_config,
    from_config_dict,
)
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits, another_forget_set, make_splits, splits_of_search
from mu_jax.experiments import registry, search_groups
from mu_jax.experiments.search_answers import load_answer
from mu_jax.experiments.search_grid import KNOBS, Candidate, grid
from mu_jax.experiments.search_setting import prepare_search
from mu_jax.experiments.unlearning_search import best_of, run
from mu_jax.training.parallel import ParallelTrainer
from mu_jax.unlearning.methods import METHODS

OPTIMIZATION = OptimizationConfig(epochs=30.0, batch_size=16, learning_rate=0.05, weight_decay=0.0)
SHORT = dataclasses.replace(OPTIMIZATION, epochs=2.0)


def tiny_methods():
    own = MethodsConfig()
    change = {
        field.name: dataclasses.replace(getattr(own, field.name), optimization=SHORT)
        for field in dataclasses.fields(own)
        if field.name not in ("finetune", "scrub")
    }
    scrub = dataclasses.replace(own.scrub, optimization=SHORT, forget_batch=8)
    return dataclasses.replace(own, finetune=SHORT, scrub=scrub, **change)


CONFIG = UnlearningSearch(
    data=DataConfig(train_examples=160, test_examples=200, label_noise=0.3),
    forget=ForgetConfig(fraction=0.2),
    model=ModelConfig(name="mlp", width=32),
    train=OPTIMIZATION,
    names=("finetune", "gradient_ascent", "negative_gradient_plus", "amun"),
    methods=tiny_methods(),
    neighbours=NeighboursConfig(steps=10, batch_size=32),
    # Ascent at 1e30 leaves the numbers that float32 has.
    search=SearchConfig(
        learning_rates=(1e30, 1e-2, 1e-4),
        step_epochs=(1.0, 5.0, 0.0),
        negative_gradient_alphas=(0.9, 0.99),
        models_per_device=2,
    ),
    loop=LoopConfig(chunk_steps=300),
    evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=60),
)


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope="module", name="finished")
def finished_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("search") / "run"
    results, done_before = run(CONFIG, workdir, console=quiet())
    assert not done_before
    return workdir, results


def test_the_scored_set_is_not_touched_and_its_examples_are_retained_ones(finished):
    workdir, results = finished
    splits = Splits.load(workdir / "splits.npz")
    dataset = load_dataset(CONFIG.data, CONFIG.seed)
    scored = make_splits(dataset, CONFIG.data, CONFIG.forget, CONFIG.seed)
    assert len(splits.forget) == len(scored.forget) == 32
    assert not np.isin(splits.forget, scored.forget).any()
    assert np.isin(scored.forget, splits.retain).all()
    np.testing.assert_array_equal(np.union1d(splits.retain, splits.forget), np.arange(160))
    assert results["data"]["to_be_scored"] == 32
    with np.load(workdir / "neighbours" / "own.npz", allow_pickle=False) as archive:
        assert np.isin(archive["index"], splits.forget).all()


def test_where_half_or_more_is_scored_the_search_takes_what_is_left():
    scored = Splits(np.arange(3), np.arange(3, 10), np.arange(0), np.arange(10, 12))
    own = splits_of_search(scored, 0)
    assert own.forget.tolist() == [0, 1, 2]
    assert own.retain.tolist() == list(range(3, 10))
    other = [
        splits_of_search(dataclasses.replace(scored, retain=scored.forget, forget=scored.retain), s)
        for s in range(9)
    ]
    assert len({tuple(splits.forget) for splits in other}) > 3


def test_further_forget_sets_of_a_study_leave_the_searchs_set_out():
    scored = Splits(np.arange(10, 100), np.arange(10), np.arange(0), np.arange(100, 110))
    own = splits_of_search(scored, 0).forget
    others = [another_forget_set(scored, number, 0) for number in range(1, 30)]
    for other in others:
        assert len(other.forget) == 10
        assert not np.isin(other.forget, own).any()
        np.testing.assert_array_equal(np.union1d(other.retain, other.forget), np.arange(100))
    assert len({tuple(other.forget) for other in others}) == 29
    # They are drawn from the first set too: each is a forget set in its own right.
    assert any(np.isin(other.forget, scored.forget).any() for other in others)


def test_a_grid_has_each_run_once():
    found = grid(dataclasses.replace(CONFIG, names=("finetune", "scrub", "salun", "l1_sparse")))
    # Two epochs: a step after five is none.
    assert [(one.learning_rate, one.step_epochs) for one in found["finetune"]] == [
        (1e30, 1.0), (1e30, 0.0), (1e-2, 1.0), (1e-2, 0.0), (1e-4, 1.0), (1e-4, 0.0),
    ]  # fmt: skip
    assert {len(found[name]) for name in ("finetune", "scrub")} == {6}
    assert {one.knob for one in found["salun"]} == {0.3, 0.5, 0.7}
    assert len(found["l1_sparse"]) == 12
    names = [one.name for candidates in found.values() for one in candidates]
    assert len(set(names)) == len(names)


def test_lengths_of_the_grid_and_the_methods_own_both_count():
    search = dataclasses.replace(CONFIG.search, epochs=(0.0, 6.0, 2.0))
    found = grid(dataclasses.replace(CONFIG, names=("finetune",), search=search))["finetune"]
    assert [one.epochs for one in found] == [6.0] * 9 + [2.0] * 6
    assert {one.settings(CONFIG.methods).schedule for one in found if not one.step_epochs} == {"constant"}


@pytest.mark.parametrize("method", [*MethodsConfig.__dataclass_fields__, "amun_advonly", "amun_l1"])
def test_pasted_flags_give_a_run_the_very_settings(method):
    knob = {"alpha": 0.25, "share": 0.4}.get(KNOBS[method].short) if method in KNOBS else None
    for step in (3.0, 0.0):
        candidate = Candidate(method, 1e-05, step, 4.0, knob)
        wanted = candidate.settings(CONFIG.methods)
        config = default_config("unlearning_methods")
        for flag in candidate.overrides(CONFIG.methods):
            key, value = flag.removeprefix("--config.").split("=")
            place = config
            *path, last = key.split(".")
            for part in path:
                place = place[part]
            kind = type(place[last])
            place[last] = value == "True" if kind is bool else kind(value)
        pasted = METHODS[method].settings_of(from_config_dict(config.to_dict()).methods)
        assert pasted == wanted


def test_every_setting_is_a_row_and_the_best_one_of_each_method_a_model(finished):
    workdir, results = finished
    rows = results["tables"]["search"]
    assert len(rows) == results["search"]["settings"] == 6 + 6 + 12 + 6
    assert list(results["models"]) == ["original", "retrain", "retrain_again", *CONFIG.names]
    for method in CONFIG.names:
        mine = [row for row in rows if row["method"] == method]
        gaps = [row["gap"] for row in mine if row["gap"] is not None]
        best = results["best"][method]
        model = results["models"][method]
        assert best["gap"] == model["gap_to_retrain"] == min(gaps)
        assert model["gap_to_retrain"] == pytest.approx(np.mean(list(model["gap_parts"].values())))
        assert (best["tried"], best["diverged"]) == (len(mine), len(mine) - len(gaps))
    assert results["models"]["retrain"]["gap_to_retrain"] == 0
    assert results["models"]["retrain_again"]["gap_to_retrain"] > 0
    assert json.loads((workdir / "results.json").read_text()) == results
    assert (workdir / "report.html").exists()


def test_settings_that_diverge_are_marked_and_lose(finished):
    _, results = finished
    rows = results["tables"]["search"]
    lost = [row for row in rows if row["diverged_step"] is not None]
    assert {row["learning_rate"] for row in lost} == {1e30}
    assert all(row["gap"] is None and row["retain"] is None for row in lost)
    assert all(best["learning_rate"] < 1 for best in results["best"].values())


def test_the_files_figures_are_those_of_the_kept_answers(finished):
    workdir, results = finished
    splits = Splits.load(workdir / "splits.npz")
    row = next(
        row for row in results["tables"]["search"] if row["setting"].startswith("amun@rate=0.01,step=0.0")
    )
    answer = next(
        answer
        for answer in map(load_answer, (workdir / "answers").glob("amun.*.npz"))
        if row["setting"] in answer.names
    )
    place = answer.names.index(row["setting"])
    loss, correct = answer.loss[place], answer.correct[place]
    members, others = loss[splits.forget][:, None], loss[splits.test][None]
    assert row["loss_auc"] == pytest.approx(np.mean((members < others) + 0.5 * (members == others)))
    assert row["forget"] == pytest.approx(correct[splits.forget].mean())
    retrain = results["models"]["retrain"]
    parts = [abs(row[part] - retrain["accuracy"][part]) for part in ("retain", "forget", "test")]
    parts.append(abs(row["loss_auc"] - retrain["attacks"]["loss_threshold"]["auc"]))
    assert row["gap"] == pytest.approx(np.mean(parts))


def test_best_json_holds_flags_of_the_best_settings_only(finished):
    workdir, results = finished
    best = json.loads((workdir / "best.json").read_text())
    assert best == best_of(results)
    assert list(best["methods"]) == list(CONFIG.names)
    for name, one in best["methods"].items():
        assert f"--config.methods.{'' if name != 'finetune' else 'finetune.'}" in one["overrides"][0]
        assert set(one["overrides"]) <= set(best["flags"].split())
    alpha = results["best"]["negative_gradient_plus"]["knob_value"]
    assert (
        f"--config.methods.negative_gradient_plus.alpha={alpha}"
        in best["methods"]["negative_gradient_plus"]["overrides"]
    )


def test_programs_are_shared_by_all_methods_of_one_loss_and_shape(finished):
    _, results = finished
    # finetune, gradient_ascent and negative_gradient_plus; amun, with its neighbours among the examples.
    assert results["search"]["programs"] == 2


def test_a_killed_search_repeats_no_finished_group_and_ends_alike_in_any_grouping(
    finished, tmp_path, monkeypatch
):
    """Bitwise: neither companions, nor slots, nor what a process did before are in a setting's figures."""
    workdir, results = finished
    folder = tmp_path / "run"
    shutil.copytree(workdir, folder)
    for path in [folder / "results.json", *folder.glob("answers/amun.*"), *folder.glob("answers/finetune.*")]:
        path.unlink()
    train, trained = ParallelTrainer.train, []

    def counted(self, runs, **options):
        if len(trained) == 4 and killed:
            raise KeyboardInterrupt
        trained.append([run.name for run in runs])
        return train(self, runs, **options)

    killed = True
    monkeypatch.setattr(ParallelTrainer, "train", counted)
    monkeypatch.setattr(
        search_groups, "groups_of", lambda batch, width: [batch.candidates[i::3] for i in range(3)]
    )
    with pytest.raises(KeyboardInterrupt):
        run(CONFIG, folder, console=quiet())
    killed = False
    resumed, done_before = run(CONFIG, folder, console=quiet())
    assert not done_before
    names = list(itertools.chain.from_iterable(trained))
    assert len(names) == len(set(names)) == 12
    assert {name.split("@")[0] for name in names} == {"finetune", "amun"}
    for row, before in zip(resumed["tables"]["search"], results["tables"]["search"], strict=True):
        assert row | {"seconds": 0} == before | {"seconds": 0}
    assert resumed["best"] == results["best"]
    told = [json.loads(line)["model"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    # One chunk a group: none tells its story twice.
    groups = [name for name in told if "." in name]
    assert len(groups) == len(set(groups)) == len(list((folder / "answers").iterdir()))


def test_the_same_command_again_only_says_done_and_another_grid_is_refused(finished):
    workdir, results = finished
    again, done_before = run(CONFIG, workdir)
    assert done_before and again == results
    other = dataclasses.replace(CONFIG, search=dataclasses.replace(CONFIG.search, learning_rates=(1e-2,)))
    with pytest.raises(InputError, match="search.learning_rates"):
        run(other, workdir)


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_shows_the_best_by_gap(finished, width):
    workdir, results = finished
    file = io.StringIO()
    registry.print_results(
        results, workdir, False, Console(file=file, width=width, force_terminal=True, color_system=None)
    )
    lines = file.getvalue().splitlines()
    names = [
        line.replace("│", " ").split()[0]
        for line in lines
        if line.strip(" │").startswith(tuple(results["models"]))
    ]
    ordered = sorted(results["models"], key=lambda name: results["models"][name]["gap_to_retrain"])
    assert [name for name in names if name in ordered] == ordered
    assert any("best.json" in line for line in lines) and any("flatters" in line for line in lines)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"names": ("amum",)}, "names is 'amum'.*did you mean 'amun'"),
        ({"names": ()}, "names is \\(\\), but expected one method or more"),
        ({"search": {"learning_rates": (0.1, 0.1)}}, "search.learning_rates.*no value twice"),
        ({"search": {"step_epochs": (-1.0,)}}, "search.step_epochs"),
        ({"search": {"saliency_shares": (1.5,)}}, "search.saliency_shares"),
        ({"names": ("scrub",), "search": {"epochs": (1.0,)}}, "scrub refuses .*ascent_epochs is 2"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(change, message, tmp_path):
    with pytest.raises(InputError, match=message):
        config = from_config_dict({"experiment": "unlearning_search", **change})
        prepare_search(config)
    assert not list(tmp_path.iterdir())


def test_the_original_is_that_of_the_study(finished, tmp_path):
    """Of the same seed, name, recipe and data: the bits that `unlearning_methods` would have."""
    methods_setting = pytest.importorskip("mu_jax.experiments.methods_setting")
    study = methods_setting.prepare_methods(
        UnlearningMethods(data=CONFIG.data, forget=CONFIG.forget, model=CONFIG.model, train=CONFIG.train)
    )
    plan = study.original_plan(study.originals[0])
    own = prepare_search(CONFIG).original_plan()
    assert (plan.name, plan.start, plan.optimization) == (own.name, own.start, own.optimization)
    np.testing.assert_array_equal(plan.index, own.index)
    for mine, theirs in zip(vars(plan.examples).values(), vars(own.examples).values(), strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
