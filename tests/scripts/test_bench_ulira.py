"""The benchmark of class unlearning, with a small MLP on our side and a ResNet of width 1 on PyTorch's."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import jax_trw_worker, jax_ulira_worker
from benchmarks.ulira_case import BATCH, FORGOTTEN, METHOD_NAMES, UliraCase
from benchmarks.ulira_names import ALL, TABLE, method_settings, parse_case, split_cases
from benchmarks.ulira_table import models_lines, step_figures, step_lines, summary, warnings
from benchmarks.unlearning_names import ALL as METHODS_ALL
from benchmarks.unlearning_names import TABLE as METHODS_TABLE
from mu_jax.config import InputError, ModelConfig
from mu_jax.experiments.blocks import of_block, together
from mu_jax.training.chunk import make_run_chunk
from mu_jax.training.schedules import total_steps
from mu_jax.unlearning.methods import make_plan
from mu_jax.unlearning.plan import carry_out, training_run


def case_of(method, models=2, width=1, share=0.4, training_epochs=4.0, **files):
    name = method if method == "trw_step" else f"ulira_{method}_k{models}"
    return dataclasses.replace(parse_case(name, width, share, training_epochs), **files)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """120 training and 40 test images of 8×8 in 10 classes that a small network tells apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 10
    means = rng.integers(40, 216, (10, 8, 8, 1))
    images = np.clip(means[labels] + rng.normal(0, 20, (160, 8, 8, 1)), 0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("ulira") / "case.npz"
    np.savez(
        path,
        x_train=images[:120],
        y_train=labels[:120].astype(np.int32),
        x_test=images[120:],
        y_test=labels[120:].astype(np.int32),
        class_names=np.array(list("abcdefghij")),
    )
    return str(path)


@pytest.fixture(scope="module")
def worker(file):
    """The worker of our side, an MLP in place of the ResNet; and the case of two models that it has trained."""
    patch = pytest.MonkeyPatch()
    original = jax_ulira_worker.prepare_classes

    def small(config):
        return original(dataclasses.replace(config, model=ModelConfig(name="mlp", width=8)))

    patch.setattr(jax_ulira_worker, "prepare_classes", small)
    patch.setattr(jax_ulira_worker, "_pools", {})
    patch.setattr(jax_ulira_worker, "_latest", {})
    yield jax_ulira_worker
    patch.undo()


@pytest.fixture(scope="module")
def trained(worker, file):
    """The weights' file of two originals."""
    weights = str(pathlib.Path(file).with_name("originals.npz"))
    case = case_of("trw", file=file, weights=weights, training_epochs=30.0)
    facts = worker.prepare(case, {"do": "train"}).facts
    assert facts["kept_from_before"] is False and facts["accuracy"]["forget"] > 0.9
    return case, facts


def test_without_names_both_tables_are_measured():
    methods, cases = split_cases([], 16, 1.0, 15.0)
    assert methods == list(METHODS_TABLE) and [case.name for case in cases] == list(TABLE)
    methods, cases = split_cases(["all"], 16, 1.0, 15.0)
    assert methods == list(METHODS_ALL) and [case.name for case in cases] == list(ALL)
    methods, cases = split_cases(["ulira_delete_k4", "amun"], 8, 0.2, 3.0)
    assert methods == ["amun"] and [case.name for case in cases] == ["ulira_delete_k4_x0.2"]
    assert (cases[0].models, cases[0].width, cases[0].epochs, cases[0].training_epochs) == (4, 8, 1.0, 3.0)
    assert split_cases(["trw_step"], 8, 0.2, 3.0) == ([], [UliraCase("trw_step", 1, 8, training_epochs=3.0)])


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["ulira_trw"], "The case is 'ulira_trw', but expected ulira_METHOD_kK with METHOD one of finetune"),
        (["ulira_trv_k8"], "did you mean 'ulira_trw_k8'?"),
        (["trw_stp"], "did you mean 'trw_step'?"),
        (["ulira_amun_k8"], "The case is 'ulira_amun_k8'"),
        (["ulira_trw_k1"], "has 1 models, but expected 2 to 1024"),
        (["ulira_trw_k8", "amun", "ulira_trw_k8"], "The case 'ulira_trw_k8' stands twice"),
        (["trw"], "The case is 'trw', but expected one of finetune"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        split_cases(names, 16, 1.0, 15.0)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_has_fine_tunings_optimization_and_settings_of_its_own(method):
    case = case_of(method, share=0.3)
    settings = method_settings(method, case.epochs)
    optimization = settings if method == "finetune" else settings.optimization
    assert optimization == method_settings("finetune", 1.5)
    assert (optimization.crop_padding, optimization.flip, optimization.schedule) == (0, False, "constant")
    own = {} if method == "finetune" else dataclasses.asdict(settings)
    own.pop("optimization", None)
    assert case.settings == own
    for examples in (31, 32, 1001):
        assert case.steps(examples) == total_steps(optimization, examples)


def test_models_side_by_side_are_those_of_their_plans_by_themselves(worker, trained):
    case, _ = trained
    prepared = worker.prepare(case, {"do": "unlearn"})
    assert (prepared.items_a_step, prepared.most) == (2, 1)
    assert np.isfinite(prepared.run_steps(1))
    models, pool = worker._latest[case.name], worker._pool(case)
    assert len(models) == 2
    # Two epochs of 120 in batches of 32.
    assert prepared.found["images_a_model"] == BATCH * 8
    for number, original in enumerate(pool.originals(case.weights)):
        task = pool.setting.task(FORGOTTEN, jax.tree.map(jnp.asarray, original))
        name = pool.setting.members("trw", FORGOTTEN)[number].name
        plan = make_plan("trw", task, method_settings("trw", case.epochs), name=name)
        alone = carry_out(plan, task, chunk_steps=100).variables
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), models[number], alone
        )


def test_blocks_and_rows_are_the_experiments(worker, trained):
    case, _ = trained
    unlearning = worker.Unlearning(case, worker._pool(case))
    blocks, runs, _, _ = unlearning._prepared()
    ours, theirs = worker.stacked_blocks(blocks), together(blocks, 160)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    setting, rows = worker._pool(case).setting, np.zeros(1, np.int64)
    for number, (run, original) in enumerate(zip(runs, unlearning._originals, strict=True)):
        task = setting.task(FORGOTTEN, jax.tree.map(jnp.asarray, original))
        plan = make_plan("trw", task, method_settings("trw", case.epochs), name=run.name)
        expected = of_block(training_run(plan, task), 160 * number)
        np.testing.assert_array_equal(run.index, expected.index)
        assert dataclasses.replace(run, index=rows) == dataclasses.replace(expected, index=rows)


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_what_a_class_loses_by_each_method(worker, trained, method):
    case = dataclasses.replace(case_of(method, share=2.0), file=trained[0].file, weights=trained[0].weights)
    case = dataclasses.replace(case, training_epochs=trained[0].training_epochs)
    prepared = worker.prepare(case, {"do": "unlearn"})
    prepared.run_steps(1)
    judged = worker.prepare(case, {"do": "accuracy"}).facts["accuracy"]
    pool = worker._pool(case)
    labels, right = pool.setting.dataset.labels, []
    for variables in worker._latest[case.name]:
        pixels = (np.asarray(pool.setting.images) / 255 - 0.5) / 0.25
        logits, _ = pool.setting.model.apply(variables, jnp.asarray(pixels, jnp.float32), train=False)
        right.append(np.asarray(logits).argmax(-1) == labels)
    of_class = np.mean(right, axis=0)[:120][labels[:120] == FORGOTTEN].mean()
    assert judged["forget"] == pytest.approx(of_class, abs=1e-4)
    assert (judged["forget"] < 0.1) == (method in ("trw", "random_labels")) or method == "delete"
    visited = {"finetune": 108, "delete": 12}.get(method, 120)
    assert prepared.found["images_a_model"] == BATCH * -(-10 * visited // BATCH)


def test_originals_are_kept(worker, trained):
    case, facts = trained
    again = worker.prepare(case, {"do": "train"}).facts
    assert again["kept_from_before"] is True and again["accuracy"] == facts["accuracy"]


def test_a_step_of_trw_is_one_of_fine_tunings_program(worker, trained, monkeypatch):
    case, _ = trained
    pool = worker._pool(case)
    original = jax.tree.map(jnp.asarray, pool.originals(case.weights)[0])
    task = pool.setting.task(FORGOTTEN, original)
    monkeypatch.setattr(jax_trw_worker, "_task", lambda *arguments: task)
    seen, carried = [], jax_trw_worker.carry_out

    def watched(plan, task, **how):
        seen.append((plan, training_run(plan, task).steps))
        return carried(plan, task, **how)

    monkeypatch.setattr(jax_trw_worker, "carry_out", watched)
    both = {
        method: jax_trw_worker.prepare(case, {"do": "step", "method": method})
        for method in ("finetune", "trw")
    }
    assert {name: one.facts["images_an_epoch"] for name, one in both.items()} == {"finetune": 108, "trw": 120}
    assert all(one.facts["preparation_seconds"] > 0 for one in both.values())
    (tuned, _), (tilted, _) = seen
    run_chunk = make_run_chunk(training_run(tuned, task).recipe)
    assert run_chunk is make_run_chunk(training_run(tilted, task).recipe)
    programs = run_chunk._cache_size()
    for steps in (1, 3, 104):
        assert np.isfinite(both["trw"].run_steps(steps))
        assert seen[-1][1] == steps
    both["finetune"].run_steps(2)
    assert run_chunk._cache_size() == programs


FACTS = {
    "preparation_seconds_a_model": 0.25,
    "training_seconds_a_model": 1.75,
    "images_a_model": 7200,
    "compile_seconds": 9.0,
    "accuracy": {"retain": 0.99, "forget": 0.0, "test": 0.97, "test_forget": 0.0},
}


def test_lines_and_warnings_of_models_by_hand():
    lines = models_lines("trw", {"ours": FACTS, "PyTorch, eager": FACTS}).splitlines()
    assert lines[1].split() == ["ours", "2", "0.25", "7,200", "99.0%", "0.0%", "97.0%", "0.0%"]
    assert len(lines) == 3 and warnings("trw", {"ours": FACTS}) == []
    remembers = FACTS | {"accuracy": FACTS["accuracy"] | {"forget": 0.5}, "images_a_model": 7232}
    found = warnings("trw", {"ours": FACTS, "PyTorch": remembers})
    assert [sentence.split()[1] for sentence in found] == ["the", "the", "PyTorch"]
    assert "different numbers of images" in found[0] and "what is forgotten differ" in found[1]
    # Fine-tuning need not forget.
    assert warnings("finetune", {"ours": remembers, "PyTorch": remembers}) == []


def test_figures_of_steps_by_hand():
    rates = {"finetune": [400.0, 500.0, 1000.0], "trw": [400.0, 400.0, 500.0]}
    facts = {
        "finetune": {"preparation_seconds": 0.0, "images_an_epoch": 3200, "compile_seconds": 5.0},
        "trw": {"preparation_seconds": 0.1, "images_an_epoch": 3520, "compile_seconds": 0.1},
    }
    figures = step_figures(rates, facts)
    assert figures["ms_a_step"] == {"finetune": 2.0, "trw": 2.5}
    # 1, 1.25 and 2 in the rounds.
    assert (figures["ratio"], figures["ratios"]) == (1.25, [1.0, 1.25, 2.0])
    # 1,100 steps of 2.5 ms are 2.75 s, and 1,000 of 2 ms are 2.
    assert figures["preparation_share"] == round(0.1 / 2.75, 4)
    assert figures["run_ratio"] == round(2.85 / 2, 3)
    lines = step_lines(figures).splitlines()
    assert "TRW 2.500 ms, fine-tuning 2.000 ms, ratio 1.250 (rounds: 1.000, 1.250, 2.000)" in lines[0]
    assert lines[-1].startswith("WARNING: a step of TRW costs more than 1.1")
    assert "WARNING" not in step_lines(figures | {"ratio": 1.1})


def test_the_summary_has_a_table_of_models_and_one_of_steps():
    details = {
        "ours": {"side by side": FACTS},
        "torch": {"eager float32": FACTS},
        "ours_best": "side by side",
        "torch_reference": "eager float32",
        "torch_missing": None,
    }
    models = {"case": "ulira_trw_k8", "ours": 150.0, "torch": 50.0, "ratio": 3.0, "details": details}
    alone = models | {"torch": None, "ratio": None, "details": details | {"torch_missing": "not installed"}}
    step = {"case": "trw_step", "ours": 2.5, "torch": None, "ratio": 1.05}
    step["details"] = {
        "ms_a_step": {"finetune": 2.4},
        "preparation_seconds": 0.02,
        "preparation_share": 0.004,
    }
    lines = summary([models, alone, step]).splitlines()
    right = "99.0%, 0.0%"
    assert lines[2] == f"| ulira_trw_k8 | 150 | 50 | 3.00 | eager float32 | 9.0 | {right} | {right} |"
    assert lines[3] == f"| ulira_trw_k8 | 150 | not installed | – | – | 9.0 | {right} | – |"
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[4] == "" and lines[7] == "| trw_step | 2.500 | 2.400 | 1.050 | 20.0 | 0.4% |"
    assert summary([step]).splitlines() == lines[5:]
