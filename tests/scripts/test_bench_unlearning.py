"""The benchmark of unlearning methods, with a small MLP on our side and a ResNet of width 1 on PyTorch's."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import jax_unlearning_worker
from benchmarks.orchestrator import Contender
from benchmarks.unlearning_case import TORCH_METHODS, UnlearningCase
from benchmarks.unlearning_names import (
    ALL,
    TABLE,
    method_case,
    method_settings,
    parse_methods,
    retrain_case,
)
from benchmarks.unlearning_table import (
    method_figures,
    parts_table,
    retrain_figures,
    retrain_lines,
    summary,
    unlike,
)
from mu_jax.config import DataConfig, InputError, ModelConfig, OptimizationConfig
from mu_jax.models import build_model
from mu_jax.training.schedules import learning_rates, total_steps
from mu_jax.unlearning.plan import Task

ROOT = pathlib.Path(__file__).parents[2]
FORGET = np.array([3, 8, 20, 21, 30, 44])


def bench(*flags):
    command = [sys.executable, "scripts/bench_unlearning.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def task():
    """64 images of 4×4 and an untrained MLP, which is not sure of its classes, so that attacks are short."""
    model = build_model(
        ModelConfig(name="mlp", width=8), num_classes=4, image_shape=(4, 4, 1), convolution="xla"
    )
    rng = np.random.default_rng(0)
    return Task(
        model=model,
        images=jnp.asarray(rng.integers(0, 256, (64, 4, 4, 1), dtype=np.uint8)),
        labels=rng.integers(0, 4, 64).astype(np.int32),
        num_classes=4,
        retain=np.setdiff1d(np.arange(64), FORGET),
        forget=FORGET,
        data=DataConfig(mean=(0.5,), std=(0.25,)),
        seed=0,
        original=model.init(jax.random.key(0)),
    )


@pytest.fixture
def worker(task, monkeypatch):
    """The worker of our side, its task in place of a trained ResNet's."""

    class Subject:
        lowering = "xla"

    monkeypatch.setattr(jax_unlearning_worker, "_task", lambda case: task)
    monkeypatch.setattr(jax_unlearning_worker, "_subject", lambda file, width: Subject)
    return jax_unlearning_worker


def small(case, **changed):
    """The case in batches of 8, without crops and mirroring."""
    optimization = case.optimization | {"batch_size": 8, "crop_padding": 0, "flip": False} | changed
    return dataclasses.replace(case, optimization=optimization)


def test_methods_without_names_are_the_table():
    assert parse_methods([]) == list(TABLE)
    assert parse_methods(["all"]) == list(ALL) and set(TABLE) < set(ALL)
    # A set from another model would need one; every other variant is a case.
    assert "amun_fgsm" in ALL and "amun_transferred" not in ALL
    assert set(TORCH_METHODS) < set(TABLE)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["finetun"], "The case is 'finetun', but expected one of finetune, gradient_ascent"),
        (["finetun"], "did you mean 'finetune'?"),
        (["amun_transferred"], "The case is 'amun_transferred'"),
        (["retrain"], "The case is 'retrain'"),
        (["amun", "amun"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_methods(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--share=0", "--cases=amun"], "--share is 0, but expected a value in (0, 1]; change it."),
        (["--fraction=1"], "--fraction is 1, but expected a value in (0, 1); change it."),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence):
    done = bench(*flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("method", ALL)
def test_a_share_of_the_epochs_is_that_of_the_published_settings(method):
    whole, tenth = method_case(method, 16, 1.0), method_case(method, 16, 0.1)
    assert tenth.optimization["epochs"] == pytest.approx(whole.optimization["epochs"] / 10)
    assert whole.optimization | {"epochs": 0} == tenth.optimization | {"epochs": 0}
    assert (whole.name, tenth.name) == (method, f"{method}_x0.1")
    assert whole.neighbours["attack"] == ("fgsm" if method == "amun_fgsm" else "pgd")
    settings = method_settings(method, 0.1)
    optimization = settings if isinstance(settings, OptimizationConfig) else settings.optimization
    assert dataclasses.asdict(optimization) == tenth.optimization


def test_scrub_ascends_in_no_more_epochs_than_there_are():
    assert method_settings("scrub", 1.0).ascent_epochs == 2
    assert method_settings("scrub", 0.1).ascent_epochs == 1


@pytest.mark.parametrize(
    "case", [method_case("amun", 16, 1.0), method_case("finetune", 16, 1.0), retrain_case(16, 90.0)]
)
def test_pytorch_has_our_steps_and_learning_rates(case):
    config = OptimizationConfig(**case.optimization)
    steps = total_steps(config, 1001)
    assert case.steps(1001) == steps
    theirs = [case.learning_rate(step, 1001) for step in range(steps)]
    np.testing.assert_allclose(theirs, learning_rates(config, 1001, 0, steps), rtol=1e-6)
    assert len(set(theirs)) == {"amun": 10, "finetune": 1, "retrain": 3}[case.method]


def test_a_schedule_that_pytorch_does_not_know_is_an_error():
    case = UnlearningCase("finetune", 16, dataclasses.asdict(OptimizationConfig(schedule="cosine")), {})
    with pytest.raises(ValueError, match="'cosine', but expected constant or step"):
        case.learning_rate(0, 100)


def test_retraining_is_amuns_recipe_for_the_epochs_asked_for():
    recipe = retrain_case(16, 200.0).optimization
    expected = {
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "batch_size": 128,
        "epochs": 200.0,
    }
    assert {name: recipe[name] for name in expected} == expected
    assert (recipe["schedule"], recipe["step_epochs"], recipe["step_factor"]) == ("step", 40.0, 0.1)
    assert (recipe["crop_padding"], recipe["flip"]) == (4, True)


def test_a_method_runs_whole_and_says_where_its_seconds_went(worker, monkeypatch, task):
    case = small(method_case("amun", 8, 0.1))
    settings = dataclasses.replace(
        method_settings("amun", 0.1), optimization=OptimizationConfig(**case.optimization)
    )
    monkeypatch.setattr(worker, "method_settings", lambda method, share: settings)
    case = dataclasses.replace(case, neighbours=case.neighbours | {"batch_size": 8, "steps": 5})
    prepared = worker.prepare(case, {"do": "unlearn"})
    assert (prepared.items_a_step, prepared.most) == (1, 1)
    assert prepared.facts["compile_seconds"] > 0
    assert prepared.found["images"] == []  # compiling takes no step
    for run in (1, 2):
        loss = prepared.run_steps(1)
        assert np.isfinite(loss)
        neighbours = prepared.found["neighbours"]
        # All that is kept, all that is forgotten, and the neighbours, in one epoch of full batches.
        assert prepared.found["images"] == [8 * -(-(64 + neighbours) // 8)] * run
        for part in ("adversarial_seconds", "plan_seconds", "training_seconds"):
            assert len(prepared.found[part]) == run and min(prepared.found[part]) >= 0
        assert prepared.found["adversarial_seconds"][-1] > 0 < prepared.found["training_seconds"][-1]
    assert 0 < neighbours <= len(task.forget)


def test_retraining_takes_the_steps_asked_for_and_says_how_many_images_the_recipe_has(worker, monkeypatch):
    case = small(retrain_case(8, 2.5))
    prepared = worker.prepare(case, {"do": "retrain"})
    assert (prepared.items_a_step, prepared.most) == (8, None)
    assert prepared.facts["retrain_images"] == 8 * -(-58 * 2.5 // 8)
    seen = []
    original = worker._carry_out

    def watched(plan, task):
        seen.append(original(plan, task))
        assert plan.start == "scratch" and np.array_equal(plan.index, task.retain)
        return seen[-1]

    monkeypatch.setattr(worker, "_carry_out", watched)
    for count in (1, 3, 11):
        prepared.run_steps(count)
        seconds, images, _ = seen[-1]
        assert images == 8 * count
        assert prepared.found["images_per_second"][-1] == round(images / seconds, 2)


def measured(rate, **facts):
    one = Contender("amun", None, {}, rates=[rate])
    one.facts = {
        "adversarial_seconds": [1.0, 2.0, 9.0],
        "plan_seconds": [0.5, 0.5, 0.5],
        "training_seconds": [7.5, 8.0, 8.5],
        "images": [4000, 4000, 4000],
        "last_accuracy": 0.9,
        "compile_seconds": 14.2,
        **facts,
    }
    return one


def test_figures_by_hand():
    # The first two rates are from finding out how many steps a round holds.
    retrain = Contender("retrain", None, {}, rates=[1.0])
    retrain.facts = {"images_per_second": [1.0, 2.0, 400.0, 500.0, 900.0], "retrain_images": 100_000}
    anew = retrain_figures(retrain, 3)
    assert (anew["images_per_second"], anew["seconds"], anew["extrapolated"]) == (500.0, 200.0, True)
    assert retrain_figures(None, 3) is None and retrain_figures(Contender("", None, {}), 3) is None

    figures = method_figures(measured(360.0, neighbours=190), anew)
    # 360 an hour are 10 s each; retraining takes 200.
    assert (figures["seconds"], figures["faster_than_retraining"]) == (10.0, 20.0)
    assert (figures["adversarial_seconds"], figures["training_seconds"]) == (2.0, 8.0)
    assert (figures["images_per_second"], figures["compile_seconds"], figures["neighbours"]) == (
        500.0,
        14.2,
        190,
    )
    assert method_figures(measured(360.0), None)["faster_than_retraining"] is None
    assert method_figures(None, anew) is None

    assert unlike(figures, None) == "" == unlike(figures, figures | {"images": 4050})
    assert "ours trained on 4,000 images and PyTorch on 4,500" in unlike(figures, figures | {"images": 4500})
    lines = parts_table({"ours": figures, "PyTorch": None}).splitlines()
    assert len(lines) == 2 and lines[1].split() == ["ours", "10", "2", "0.5", "8", "14.2", "500", "90.0%"]


def test_the_summary_says_what_is_apart_extrapolated_or_missing():
    anew = {"seconds": 200.0, "images_per_second": 500.0}
    figures = method_figures(measured(360.0), anew)
    row = {"case": "amun", "ratio": None}
    row["details"] = {
        "ours": figures,
        "torch": None,
        "torch_absent": None,
        "retrain": anew,
        "torch_retrain": None,
        "retrain_epochs": 200.0,
    }
    beside = row | {"ratio": 4.0, "details": row["details"] | {"torch": figures | {"seconds": 40.0}}}
    alone = row | {"case": "scrub", "details": row["details"] | {"torch_absent": "ours alone"}}
    lines = summary([beside, alone], None).splitlines()
    assert lines[2] == "| amun | 10 | 2 | 8 | 14.2 | 500 | 20.0× | 40 | 2 | 8 | 4.00 |"
    assert lines[3] == "| scrub | 10 | 2 | 8 | 14.2 | 500 | 20.0× | ours alone | – | – | – |"
    assert len({line.count("|") for line in lines}) == 1
    assert "| not installed | – |" in summary([row], "not installed")
    said = retrain_lines(row["details"])
    assert said == (
        "retraining, ours: 200 s for 200 epochs, extrapolated from 500 images/s at the same recipe"
    )
    both = retrain_lines(row["details"] | {"torch_retrain": {"seconds": 400.0, "images_per_second": 250.0}})
    assert both.splitlines()[1].startswith("retraining, PyTorch: 400 s for 200 epochs, extrapolated from 250")


@pytest.fixture
def torch_case(tmp_path):
    """The files of a case of 40 images of 8×8, and weights drawn by NumPy."""
    from benchmarks.torch_weights import to_state_dict

    model = build_model(ModelConfig(width=1), num_classes=4, image_shape=(8, 8, 1), convolution="xla")
    rng = np.random.default_rng(0)

    def drawn(path, leaf):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value

    variables = jax.tree_util.tree_map_with_path(drawn, jax.eval_shape(model.init, jax.random.key(0)))
    np.savez(tmp_path / "weights.npz", **to_state_dict(variables))
    images = rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    labels = rng.integers(0, 4, 40).astype(np.int32)
    np.savez(
        tmp_path / "case.npz",
        x_train=images,
        y_train=labels,
        x_test=images[:1],
        y_test=labels[:1],
        class_names=np.array(["a", "b", "c", "d"]),
    )
    np.save(tmp_path / "forget.npy", FORGET[:5])
    names = {"weights": "weights.npz", "file": "case.npz", "forget": "forget.npy"}
    return {field: str(tmp_path / name) for field, name in names.items()}


FORM = {"do": "unlearn", "execution": "eager", "channels_last": False, "device": "cpu"}


@pytest.fixture
def torch():
    """PyTorch on one thread: on networks this small several wait for one another, and long on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.mark.torch
def test_pytorchs_crops_and_mirrors_are_those_of_a_padded_image(torch):
    from benchmarks.torch_unlearning_worker import augment

    torch.manual_seed(0)
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4)
    shown = augment(image.expand(300, -1, -1, -1), 1, True)
    assert shown.shape == (300, 1, 4, 4) and shown.dtype == torch.uint8
    padded = torch.nn.functional.pad(image, (1, 1, 1, 1))[0, 0]
    possible = {
        tuple(crop.flatten().tolist())
        for row in range(3)
        for column in range(3)
        for crop in (
            padded[row : row + 4, column : column + 4],
            padded[row : row + 4, column : column + 4].flip(1),
        )
    }
    assert {tuple(one.flatten().tolist()) for one in shown} == possible and len(possible) == 18
    # A colour image's channels move together.
    colours = augment(torch.stack([image[0, 0], image[0, 0] + 100])[None].expand(50, -1, -1, -1), 1, True)
    inside = colours[:, 0] > 0
    assert torch.equal(colours[:, 0][inside] + 100, colours[:, 1][inside])


@pytest.mark.torch
def test_pytorch_finetunes_on_what_is_kept(torch, torch_case):
    from benchmarks.torch_unlearning_worker import Unlearning, prepare

    case = small(dataclasses.replace(method_case("finetune", 1, 0.2), **torch_case))
    prepared = prepare(case, FORM)
    assert (prepared.items_a_step, prepared.most) == (1, 1) and prepared.found["images"] == []
    unlearning, seen = Unlearning(case, FORM), []
    step = unlearning._loss_of
    unlearning._loss_of = lambda network, images, labels: seen.append(images) or step(network, images, labels)
    assert np.isfinite(unlearning.run(1))
    # Two epochs of 35 in batches of 8.
    assert len(seen) == 9 and unlearning.found["images"] == [72]
    with np.load(case.file) as arrays:
        pixels = (arrays["x_train"].reshape(40, -1).astype(np.float32) / 255 - 0.5) / 0.25
    shown = torch.cat(seen).flatten(1).numpy()
    rows = np.abs(shown[:, None] - pixels[None]).max(-1).argmin(1)
    np.testing.assert_allclose(shown, pixels[rows], atol=1e-5)
    np.testing.assert_array_equal(np.unique(rows), np.setdiff1d(np.arange(40), FORGET[:5]))


@pytest.mark.torch
def test_pytorchs_amun_adds_neighbours_with_the_originals_labels(torch, torch_case):
    from benchmarks.torch_unlearning_worker import Unlearning

    case = small(dataclasses.replace(method_case("amun", 1, 0.1), **torch_case), crop_padding=1)
    case = dataclasses.replace(case, neighbours=case.neighbours | {"batch_size": 4, "steps": 5})
    unlearning, trained = Unlearning(case, FORM), []
    original = unlearning._train
    unlearning._train = lambda *arguments: trained.append(arguments) or original(*arguments)
    assert np.isfinite(unlearning.run(1))
    ((images, labels, augmented, rows, steps, _),) = trained
    number = unlearning.found["neighbours"]
    assert 0 < number <= 5 and len(images) == len(labels) == 40 + number and images.dtype == torch.uint8
    # The retained, the forgotten and the neighbours, of which these alone are shown as they are.
    np.testing.assert_array_equal(rows.numpy(), np.arange(40 + number))
    assert augmented.tolist() == [True] * 40 + [False] * number
    assert steps == -(-(40 + number) // 8) and unlearning.found["images"] == [8 * steps]
    unlearning._start_from_the_original()
    with torch.no_grad():
        logits = unlearning._network.eval()((images[40:].float() / 255 - 0.5) / 0.25)
    assert torch.equal(logits.argmax(-1), labels[40:])
    with np.load(case.file) as arrays:
        away = labels[40:].numpy()[:, None] != arrays["y_train"][FORGET[:5]]
    assert away.any(1).all()


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_unlearn(tmp_path):
    pytest.importorskip("torch")
    flags = ["--data=synthetic:8,8,1,10,300,1", "--examples=300", "--width=2", "--training-epochs=6"]
    flags += ["--torch=eager", "--rounds=1", "--seconds=0.1", "--share=0.2", f"--json={tmp_path}/rows.json"]
    done = bench("--cases=finetune,amun,gradient_ascent", *flags)
    assert done.returncode == 0, done.stderr
    finetune, amun, ascent = json.loads((tmp_path / "rows.json").read_text())
    assert list(finetune) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert [row["case"] for row in (finetune, amun, ascent)] == [
        "finetune_x0.2",
        "amun_x0.2",
        "gradient_ascent_x0.2",
    ]
    for row in (finetune, amun):
        assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.05)
        assert row["details"]["torch"]["images"] == pytest.approx(row["details"]["ours"]["images"], rel=0.03)
    assert (ascent["torch"], ascent["details"]["torch_absent"]) == (None, "ours alone")
    details = amun["details"]
    assert details["forget"] == 30 and details["retrain"]["images"] == details["torch_retrain"]["images"]
    assert details["ours"]["adversarial_seconds"] > 0 < details["torch"]["adversarial_seconds"]
    assert finetune["details"]["ours"]["adversarial_seconds"] == 0
    assert "extrapolated from" in done.stdout.splitlines()[-1]
