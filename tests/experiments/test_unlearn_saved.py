import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from mu_jax.adversarial.pixels import PixelModel
from mu_jax.adversarial.stored import load, save, variables_sha256
from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    NeighboursConfig,
    OptimizationConfig,
    UnlearningComparison,
    UnlearningMethods,
    UnlearnSaved,
    to_dict,
)
from mu_jax.config.class_methods import BoundaryExpandingConfig, ClassMethodsConfig
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits
from mu_jax.evaluation import report
from mu_jax.experiments import unlearn_saved, unlearn_saved_setting, unlearning_comparison
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_checkpoint import SavedRun
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.unlearn_saved_results import left_out_line
from mu_jax.models import build_model
from mu_jax.models.pytorch_import import _torch_name

TRAINING = OptimizationConfig(epochs=40.0, batch_size=20, learning_rate=0.05, weight_decay=0.0)
COMPARISON = UnlearningComparison(
    seed=3,
    data=DataConfig(train_examples=120, test_examples=100, validation_fraction=0.1, label_noise=0.3),
    forget=ForgetConfig(fraction=0.25),
    model=ModelConfig(name="mlp", width=32),
    train=TRAINING,
    finetune=dataclasses.replace(TRAINING, epochs=2.0),
    loop=LoopConfig(chunk_steps=80),
    evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=110, gallery_images=2),
)
AMUN = dataclasses.replace(
    TRAINING, epochs=8.0, optimizer="adam", learning_rate=0.02, schedule="step", step_epochs=4.0,
    crop_padding=4, flip=True,
)  # fmt: skip
METHODS = ClassMethodsConfig(
    amun=dataclasses.replace(ClassMethodsConfig().amun, optimization=AMUN),
    finetune=dataclasses.replace(TRAINING, epochs=1.0),
)


@pytest.fixture(scope="module", name="trained")
def trained_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("comparison") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write_report", lambda *_: None)
        unlearning_comparison.run(COMPARISON, workdir)
    return workdir, Splits.load(workdir / "splits.npz")


@pytest.fixture(scope="module", name="config")
def config_fixture(trained, tmp_path_factory):
    workdir, splits = trained
    forget = tmp_path_factory.mktemp("forget") / "some.npy"
    # Some of the run's own forget set, and some that it retained: the original knows both.
    np.save(forget, np.concatenate([splits.forget[:10], splits.retain[:10]]))
    return UnlearnSaved(
        checkpoint=str(workdir),
        forget=ForgetConfig(indices=str(forget)),
        methods=METHODS,
        neighbours=NeighboursConfig(steps=20, batch_size=32),
        loop=LoopConfig(chunk_steps=10),
        evaluation=COMPARISON.evaluation,
    )


@pytest.fixture(scope="module", name="finished")
def finished_fixture(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("amun") / "run"
    results, done_before = unlearn_saved.run(config, workdir)
    assert not done_before
    return workdir, results


@pytest.fixture(name="no_page")
def no_page_fixture(monkeypatch):
    """Pages take longer to draw than these models to train; one is enough."""
    monkeypatch.setattr(unlearn_saved, "write_saved_report", lambda *_: None)


def with_forget(config, indices, path, **changes):
    np.save(path, np.asarray(indices))
    return dataclasses.replace(config, forget=ForgetConfig(indices=str(path)), **changes)


def test_the_method_deletes_from_the_runs_model_with_the_runs_data(finished, config, trained):
    workdir, results = finished
    names = {path.name for path in workdir.iterdir()}
    assert {
        "config.json", "metrics.jsonl", "results.json", "report.html", "figures", "checkpoints", "splits.npz",
        "logits.npz", "neighbours.npz",
    } <= names  # fmt: skip
    assert json.loads((workdir / "results.json").read_text()) == results
    source, of_run = trained
    splits = Splits.load(workdir / "splits.npz")
    np.testing.assert_array_equal(splits.forget, np.sort(np.load(config.forget.indices)))
    np.testing.assert_array_equal(splits.validation, of_run.validation)
    np.testing.assert_array_equal(
        np.union1d(splits.retain, splits.forget), np.union1d(of_run.retain, of_run.forget)
    )
    with np.load(source / "logits.npz") as before, np.load(workdir / "logits.npz") as now:
        np.testing.assert_array_equal(now["labels"], before["labels"])
        np.testing.assert_allclose(now["original"], before["original"], rtol=1e-5, atol=1e-5)
        correct = now["amun"].argmax(1) == now["labels"]
    models = results["models"]
    assert list(models) == ["original", "amun"]
    for part in ("retain", "forget", "test", "validation"):
        assert models["amun"]["accuracy"][part] == pytest.approx(correct[getattr(splits, part)].mean())
    # The attack tells less; of a gap nothing is said.
    auc = {name: model["attacks"]["loss_threshold"]["auc"] for name, model in models.items()}
    assert models["original"]["accuracy"]["forget"] == 1
    assert auc["amun"] < auc["original"] - 0.02
    assert models["amun"]["gap_to_retrain"] is None
    assert "No model was retrained" in results["note"]


def test_the_runs_settings_hold_and_its_augmentation_too(finished, config):
    workdir, _ = finished
    saved = json.loads((workdir / "config.json").read_text())["config"]
    assert saved["data"] == to_dict(COMPARISON.data)
    assert saved["model"] == to_dict(COMPARISON.model)
    assert saved["seed"] == config.seed  # of the method; the data were drawn by the run's
    amun = saved["methods"]["amun"]["optimization"]
    assert (amun["crop_padding"], amun["flip"], amun["epochs"]) == (0, False, 8.0)
    flag = {"methods.amun.optimization.flip": True}
    resolved, _ = unlearn_saved.read_checkpoint(config, flag)
    assert (resolved.methods.amun.optimization.crop_padding, resolved.methods.amun.optimization.flip) == (
        0,
        True,
    )


def test_the_model_can_be_loaded_and_the_original_is_named(finished, trained):
    workdir, _ = finished
    images = load_dataset(COMPARISON.data, COMPARISON.seed).images
    with np.load(workdir / "logits.npz") as stored:
        np.testing.assert_allclose(
            load_model(workdir, "amun").predict(images), stored["amun"], rtol=1e-5, atol=1e-5
        )
    with pytest.raises(InputError, match=f"which is 'original' of {trained[0]}"):
        load_model(workdir, "original")


def test_a_finished_run_says_so_and_other_settings_are_refused(finished, config):
    workdir, results = finished
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    assert unlearn_saved.run(config, workdir) == (results, True)
    with pytest.raises(InputError, match="method was 'amun' and is now 'finetune'"):
        unlearn_saved.run(dataclasses.replace(config, method="finetune"), workdir)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before


def test_a_finished_run_is_of_the_very_weights_that_the_checkpoint_has(
    config, trained, tmp_path, monkeypatch, no_page
):
    source = tmp_path / "source"
    shutil.copytree(trained[0], source)
    of_copy = dataclasses.replace(config, checkpoint=str(source), method="finetune")
    results, _ = unlearn_saved.run(of_copy, tmp_path / "run")
    monkeypatch.delattr(unlearn_saved_setting, "read_data")  # the checkpoint alone tells
    assert unlearn_saved.run(of_copy, tmp_path / "run") == (results, True)
    kept = source / "checkpoints" / "original"
    kept.rename(source / "kept")
    shutil.copytree(source / "checkpoints" / "retrain", kept)
    with pytest.raises(
        InputError, match="another model in .*: weights of the checkpoint was '.* and is now '"
    ):
        unlearn_saved.run(of_copy, tmp_path / "run")
    shutil.rmtree(kept)
    (source / "kept").rename(kept)
    assert unlearn_saved.run(of_copy, tmp_path / "run") == (results, True)


class Killed(TrainingProgress):
    def update(self, report):
        if report.step >= 20:
            raise KeyboardInterrupt


def test_a_killed_run_resumes_to_the_same_bits_without_a_new_search(
    finished, config, tmp_path, monkeypatch, no_page
):
    undisturbed, _ = finished
    workdir = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        unlearn_saved.run(config, workdir, progress=Killed())
    assert not (workdir / "results.json").exists()
    monkeypatch.delattr(unlearn_saved, "adversarial_neighbours")
    unlearn_saved.run(config, workdir)
    with np.load(undisturbed / "logits.npz") as one, np.load(workdir / "logits.npz") as other:
        np.testing.assert_array_equal(one["amun"], other["amun"])


def test_what_was_forgotten_stays_forgotten_in_a_chain(finished, config, tmp_path, no_page):
    workdir, _ = finished
    before = Splits.load(workdir / "splits.npz")
    chained = with_forget(
        config, before.retain[:5], tmp_path / "more.npy",
        checkpoint=str(workdir), checkpoint_model="amun", method="finetune",
    )  # fmt: skip
    results, _ = unlearn_saved.run(chained, tmp_path / "run")
    splits = Splits.load(tmp_path / "run" / "splits.npz")
    np.testing.assert_array_equal(splits.retain, before.retain[5:])
    assert results["data"]["deleted_before"] == len(before.forget)
    assert results["data"]["seed"] == COMPARISON.seed
    assert results["neighbours"] == []
    again = with_forget(chained, before.forget[:1], tmp_path / "again.npy")
    with pytest.raises(InputError, match=rf"first of them {before.forget[0]} \(deleted before\)"):
        unlearn_saved.run(again, tmp_path / "refused")
    original = dataclasses.replace(chained, checkpoint_model="original")
    with pytest.raises(InputError, match="keeps no copy of the model that it deleted from"):
        unlearn_saved.run(original, tmp_path / "refused")


def test_what_does_not_flip_is_counted_and_named(config, tmp_path, capsys, no_page):
    # So small a radius that many do not flip.
    near = NeighboursConfig(epsilon=0.3, max_epsilon=0.3, steps=10, batch_size=32)
    short = dataclasses.replace(AMUN, epochs=1.0)
    methods = ClassMethodsConfig(amun=dataclasses.replace(METHODS.amun, optimization=short))
    results, _ = unlearn_saved.run(
        dataclasses.replace(config, neighbours=near, methods=methods), tmp_path / "run"
    )
    (neighbours,) = results["neighbours"]
    left_out = neighbours["not_flipped"]
    assert left_out and neighbours["examples"] + len(left_out) == 20
    assert set(left_out) <= set(np.load(config.forget.indices).tolist())
    print_results(results, tmp_path / "run", True)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert f"left out of the adversarial set: {min(left_out)}" in text
        assert f"({len(left_out)} did not flip" in text


def test_a_ready_set_that_covers_a_part_says_which_it_does_not(finished, config, tmp_path, capsys, no_page):
    workdir, _ = finished
    attacked = PixelModel.of(load_model(config.checkpoint, "original").model, COMPARISON.data)
    whole = load(workdir / "neighbours.npz", attacked, None, transferred=True)
    forget = np.sort(np.load(config.forget.indices))
    lost, missing = whole.index[:2], np.sort(whole.index[2:5])
    columns = ("images", "labels", "adversarial_labels", "epsilon", "distance", "index")
    part = dataclasses.replace(
        whole,
        **{name: getattr(whole, name)[5:] for name in columns},
        # The first of them is none that this request forgets.
        flipped_back=np.concatenate([np.setdiff1d(np.arange(120), forget)[:1], lost]),
    )
    save(tmp_path / "part.npz", part)
    methods = ClassMethodsConfig(
        amun=dataclasses.replace(METHODS.amun, optimization=dataclasses.replace(AMUN, epochs=1.0))
    )
    given = dataclasses.replace(config, neighbours_file=str(tmp_path / "part.npz"), methods=methods)
    results, _ = unlearn_saved.run(given, tmp_path / "run")
    (neighbours,) = results["neighbours"]
    assert neighbours["not_covered"] == missing.tolist()
    assert neighbours["flipped_back"] == np.sort(lost).tolist() and neighbours["not_flipped"] == []
    assert neighbours["examples"] + 3 + 2 == len(forget)
    named = ", ".join(map(str, sorted([*lost, *missing])))
    line = (
        f"left out of the adversarial set: {named} (2 flipped back as they are stored, 3 the ready set says"
    )
    print_results(results, tmp_path / "run", True)
    shown = capsys.readouterr()
    assert line in shown.out.replace("\n", " ") and line in shown.err.replace("\n", " ")
    # A set of nothing that is to be forgotten is refused.
    other = with_forget(given, np.setdiff1d(trained_rows(config), forget)[:5], tmp_path / "other.npy")
    with pytest.raises(InputError, match="hold 15 examples that are not to be forgotten") as refused:
        unlearn_saved.run(other, tmp_path / "refused")
    assert "\n" not in str(refused.value)


def trained_rows(config):
    splits = Splits.load(pathlib.Path(config.checkpoint) / "splits.npz")
    return np.union1d(splits.retain, splits.forget)


def test_a_whole_set_leaves_nothing_to_say(finished):
    (neighbours,) = finished[1]["neighbours"]
    assert neighbours["not_covered"] == []
    # Results of a run before ready sets were compared with the forget set.
    older = {key: value for key, value in neighbours.items() if key != "not_covered"}
    assert left_out_line(neighbours) == left_out_line(older)


def test_a_folder_in_which_nothing_flips_may_be_tried_with_other_settings(config, tmp_path):
    nothing = NeighboursConfig(epsilon=1e-4, max_epsilon=1e-4, steps=1, batch_size=32)
    with pytest.raises(InputError, match="None of the 20 examples is adversarial"):
        unlearn_saved.run(dataclasses.replace(config, neighbours=nothing), tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_ready_set_is_taken_and_one_of_another_model_only_by_amun_transferred(
    finished, config, trained, tmp_path, no_page
):
    workdir, _ = finished
    ready = str(workdir / "neighbours.npz")
    transferred = dataclasses.replace(config, method="amun_transferred", checkpoint_model="finetune")
    forget = np.load(config.forget.indices)[10:]  # what the fine-tuned model still knows
    attacked = PixelModel.of(load_model(trained[0], "original").model, COMPARISON.data)
    stored = load(workdir / "neighbours.npz", attacked, None, transferred=True)
    kept = np.isin(stored.index, forget)
    columns = ("images", "labels", "adversarial_labels", "epsilon", "distance", "index")
    save(
        tmp_path / "part.npz",
        dataclasses.replace(stored, **{name: getattr(stored, name)[kept] for name in columns}),
    )
    transferred = with_forget(transferred, forget, tmp_path / "ten.npy")
    with pytest.raises(InputError, match="neighbours_file is empty"):
        unlearn_saved.run(transferred, tmp_path / "refused")
    own = dataclasses.replace(transferred, method="amun", neighbours_file=str(tmp_path / "part.npz"))
    with pytest.raises(InputError, match="was made on a model with SHA-256"):
        unlearn_saved.run(own, tmp_path / "refused")
    needless = dataclasses.replace(config, method="finetune", neighbours_file=ready)
    with pytest.raises(InputError, match="'finetune' needs no adversarial set"):
        unlearn_saved.run(needless, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    given = dataclasses.replace(transferred, neighbours_file=str(tmp_path / "part.npz"))
    results, _ = unlearn_saved.run(given, tmp_path / "run")
    assert results["neighbours"][0]["ready"]
    assert results["neighbours"][0]["examples"] == kept.sum()
    # The whole set holds examples that are not to be forgotten here.
    whole = dataclasses.replace(transferred, neighbours_file=ready)
    with pytest.raises(InputError, match="hold 10 examples that are not to be forgotten"):
        unlearn_saved.run(whole, tmp_path / "other")


def test_bad_input_is_one_sentence_and_writes_nothing(finished, config, trained, tmp_path):
    source, splits = trained
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "config.json").write_bytes((source / "config.json").read_bytes())
    other = dict(np.load(source / "logits.npz"))["labels"]  # same shapes, other images
    images = np.zeros((len(other), 8, 8, 1), np.uint8)
    np.savez(
        tmp_path / "other.npz",
        x_train=images[:120],
        y_train=other[:120],
        x_test=images[120:],
        y_test=other[120:],
    )
    np.savez(
        tmp_path / "large.npz",
        **{f"x_{part}": np.zeros((126, 12, 12, 3), np.uint8) for part in ("train", "test")},
        **{f"y_{part}": np.arange(126) % 9 for part in ("train", "test")},
    )

    def change(**changes):
        return dataclasses.replace(config, **changes)

    def forget(indices):
        return with_forget(config, indices, tmp_path / f"forget_{len(indices)}_{indices[0]}.npy")

    known = np.union1d(splits.retain, splits.forget)
    cases = [
        (change(checkpoint=""), "checkpoint is empty"),
        (change(checkpoint=str(tmp_path / "absent")), "there is no such folder or file"),
        (change(checkpoint=str(tmp_path / "empty")), "holds no run"),
        (change(checkpoint=str(unfinished)), "not finished"),
        (change(checkpoint_model="amun"), "has no model 'amun', but original, finetune"),
        (change(method="amum"), "did you mean 'amun'"),
        (change(model=ModelConfig(name="cnn", width=32)), "model.name is 'cnn', but the checkpoint .* 'mlp'"),
        (change(model=ModelConfig(width=8)), "model.width is 8, but the checkpoint .* was made with 32"),
        (change(data=DataConfig(label_noise=0.1)), "data.label_noise is 0.1, but .* with 0.3"),
        (change(data=DataConfig(source=f"npz:{tmp_path / 'other.npz'}")), "other images or labels"),
        (
            change(data=DataConfig(source=f"npz:{tmp_path / 'large.npz'}")),
            "expects images of 8×8×1 in 10 classes, but .* has images of 12×12×3 in 9",
        ),
        (forget(np.arange(300)), "holds 300 positions, but expected between 1 and 119"),
        (forget([120]), "holds positions 120..120, but expected 0..119"),
        (forget(splits.validation), "set aside for validation"),
        (forget(known), "takes all 108 training examples"),
        (change(forget=ForgetConfig(classes=(10,))), "classes from 0 to 9"),
    ]  # fmt: skip
    for bad, message in cases:
        with pytest.raises(InputError, match=message) as refused:
            unlearn_saved.run(bad, tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists(), message


def test_a_class_is_deleted_by_a_method_of_classes(config, trained, tmp_path, no_page):
    _, of_run = trained
    by_class = dataclasses.replace(config, method="linear_filtration", forget=ForgetConfig(classes=(3,)))
    results, _ = unlearn_saved.run(by_class, tmp_path / "run")
    splits = Splits.load(tmp_path / "run" / "splits.npz")
    with np.load(tmp_path / "run" / "logits.npz") as stored:
        labels, logits = stored["labels"], stored["linear_filtration"]
    known = np.union1d(of_run.retain, of_run.forget)
    np.testing.assert_array_equal(splits.forget, known[labels[known] == 3])
    assert results["models"]["original"]["accuracy"]["forget"] == 1
    assert results["models"]["linear_filtration"]["accuracy"]["forget"] == 0
    assert not (logits.argmax(axis=1) == 3).any()
    assert results["models"]["linear_filtration"]["trained_samples"] == 0
    images = load_dataset(COMPARISON.data, COMPARISON.seed).images
    predicted = load_model(tmp_path / "run", "linear_filtration").predict(images)
    np.testing.assert_allclose(predicted, logits, rtol=1e-5, atol=1e-5)
    # One output more while it trains, as the run's network has none.
    wider = dataclasses.replace(
        by_class,
        method="boundary_expanding",
        checkpoint_model="finetune",
        methods=ClassMethodsConfig(boundary_expanding=BoundaryExpandingConfig(TRAINING)),
    )
    results, _ = unlearn_saved.run(wider, tmp_path / "wider")
    assert results["models"]["boundary_expanding"]["accuracy"]["forget"] < 0.2
    assert load_model(tmp_path / "wider", "boundary_expanding").predict(images).shape == (220, 10)


def test_a_pytorch_file_is_taken_with_the_configs_data_and_model(config, tmp_path):
    numpy_file = pytest.importorskip("safetensors.numpy")
    file = dataclasses.replace(
        config,
        checkpoint=str(tmp_path / "net.safetensors"),
        data=COMPARISON.data,
        model=ModelConfig(width=2),
        forget=ForgetConfig(fraction=0.1),
        method="finetune",
    )
    model = build_model(file.model, num_classes=10, image_shape=(8, 8, 1), convolution="patches")
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    draw = np.random.default_rng(0)
    wanted = jax.tree.map(lambda leaf: draw.random(leaf.shape, np.float32), shapes)
    named = {
        _torch_name(tuple(entry.key for entry in path)): leaf.transpose(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
        for path, leaf in jax.tree_util.tree_leaves_with_path(wanted)
    }  # fmt: skip
    numpy_file.save_file({name: leaf.copy() for name, leaf in named.items()}, file.checkpoint)
    resolved, run = unlearn_saved.read_checkpoint(file, {})
    assert (resolved, run) == (file, None)
    setting = unlearn_saved.prepare_saved(resolved, run)
    jax.tree.map(np.testing.assert_array_equal, setting.original, wanted)
    facts = {
        "checkpoint": {"sha256": variables_sha256(wanted)},
        "data": {"classes": 10, "image_shape": [8, 8, 1]},
        "model": {"convolution": "patches"},
    }
    unlearn_saved_setting.refuse_other_weights(file, None, facts)
    numpy_file.save_file({name: leaf + np.float32(1) for name, leaf in named.items()}, file.checkpoint)
    with pytest.raises(InputError, match="weights of the checkpoint was"):
        unlearn_saved_setting.refuse_other_weights(file, None, facts)
    # The data, validation and all, by the config's own seed.
    assert [len(rows) for rows in vars(setting.splits).values()] == [97, 11, 12, 100]
    assert setting.data_seed == file.seed


def test_a_repeated_run_has_splits_of_its_own(tmp_path):
    whole = np.arange(10)
    for name, forget in (("splits.npz", whole[:2]), ("splits_1.npz", whole[2:5])):
        Splits(np.setdiff1d(whole, forget), forget, whole[:0], whole[:0]).save(tmp_path / name)
    for name, known in (
        ("original", whole),
        ("original@1.0.0", whole),
        ("amun", whole[2:]),
        ("amun@0.0.1", whole[2:]),
        ("amun@1.1.2", np.setdiff1d(whole, [2, 3, 4])),
    ):
        np.testing.assert_array_equal(SavedRun(tmp_path, name, None, {}, "").rows()[0], known)


def test_a_models_augmentation_is_that_of_its_own_training(finished, tmp_path):
    mirrored = dataclasses.replace(TRAINING, crop_padding=2, flip=True)
    methods = ClassMethodsConfig(
        finetune=TRAINING, salun=dataclasses.replace(ClassMethodsConfig().salun, optimization=mirrored)
    )

    def seen(config, name, results):
        return SavedRun(tmp_path, name, config, results, "").augmentation

    # Of a comparison's settings count those of training and of the model's own method.
    plain = UnlearningMethods(train=TRAINING, methods=methods)
    assert [seen(plain, name, {}) for name in ("original", "retrain", "finetune@0.0.1", "salun")] == [
        (0, False), (0, False), (0, False), (2, True),
    ]  # fmt: skip
    assert seen(dataclasses.replace(plain, train=mirrored), "finetune", {}) == (2, True)
    assert seen(dataclasses.replace(COMPARISON, finetune=mirrored), "finetune", {}) == (2, True)
    assert seen(dataclasses.replace(COMPARISON, finetune=mirrored), "retrain", {}) == (0, False)
    # Of a chain those of what came before, which its results say, and of the run's one method.
    once = UnlearnSaved(method="finetune", methods=methods)
    before = {"checkpoint": {"augmentation": [0, False]}}
    assert seen(once, "finetune", before) == (0, False)
    assert seen(dataclasses.replace(once, method="salun"), "salun", before) == (2, True)
    assert seen(once, "finetune", {"checkpoint": {"augmentation": [4, True]}}) == (4, True)
    assert seen(once, "finetune", {"checkpoint": {}}) == (0, False)  # an older run
    # Of a file nobody knows, nor of what was made from it: nothing is held back.
    assert seen(once, "finetune", {"checkpoint": {"augmentation": None}}) is None
    assert finished[1]["checkpoint"]["augmentation"] == [0, False]


def test_a_pytorch_file_says_what_it_is_not(config, tmp_path):
    numpy_file = pytest.importorskip("safetensors.numpy")
    numpy_file.save_file({"conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}, tmp_path / "net.safetensors")
    file = dataclasses.replace(config, checkpoint=str(tmp_path / "net.safetensors"))
    mlp = dataclasses.replace(file, model=COMPARISON.model)
    with pytest.raises(InputError, match="model.name is 'mlp', but expected 'resnet18'"):
        unlearn_saved.run(mlp, tmp_path / "run")
    with pytest.raises(InputError, match="state_dict has no"):
        unlearn_saved.run(file, tmp_path / "run")
    assert not (tmp_path / "run").exists()
