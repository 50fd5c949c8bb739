import dataclasses
import json

import numpy as np
import pytest

from mu_jax.config import (
    ClassUnlearning,
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    UnlearningMethods,
    UnlearnSaved,
)
from mu_jax.config.class_methods import (
    BoundaryExpandingConfig,
    ClassMethodsConfig,
    ScarConfig,
    SvdProjectionConfig,
)
from mu_jax.config.class_unlearning import ForgetClassesConfig, ShadowsConfig
from mu_jax.config.methods import MethodsConfig
from mu_jax.config.trw import DeleteConfig, TrwConfig
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits
from mu_jax.experiments import class_unlearning, unlearn_saved
from mu_jax.experiments.class_answers import load_answer
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.saved_checkpoint import SavedRun, read_checkpoint
from mu_jax.experiments.saved_models import kept_originals, load_model, name_in_run
from mu_jax.unlearning.methods import CLASS_METHODS, EXAMPLE_METHODS

TRAIN = OptimizationConfig(epochs=8.0, batch_size=16, learning_rate=0.05)
CLASSES = ClassUnlearning(
    seed=3,
    data=DataConfig(train_examples=300, test_examples=200),
    forget=ForgetClassesConfig(classes=(8,)),
    model=ModelConfig(name="mlp", width=16),
    train=TRAIN,
    names=("trw_head",),
    shadows=ShadowsConfig(models=4),
    loop=LoopConfig(chunk_steps=200),
    evaluation=EvaluationConfig(query_batch=100),
)
FORGOTTEN = 3
SHORT = dataclasses.replace(
    TRAIN, epochs=4.0, learning_rate=0.03, schedule="constant", crop_padding=4, flip=True
)
METHODS = ClassMethodsConfig(
    finetune=SHORT,
    boundary_expanding=BoundaryExpandingConfig(dataclasses.replace(SHORT, learning_rate=0.01)),
    delete=DeleteConfig(SHORT),
    svd_projection=SvdProjectionConfig(samples=100),
    scar=ScarConfig(dataclasses.replace(SHORT, optimizer="adam", learning_rate=1e-2)),
    trw=TrwConfig(SHORT),
)
EDITS = ("linear_filtration", "svd_projection", "trw_head")
OTHER_NETWORKS = ("boundary_expanding", "scar")
FAST = ("trw_head", "boundary_expanding", "trw")
OF_CLASSES = (*EDITS, *OTHER_NETWORKS, "delete", "rwft", "trw")
EACH = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in OF_CLASSES]


@pytest.fixture(scope="module", name="trained")
def trained_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_unlearning, "write_class_report", lambda *_: None)
        class_unlearning.run(CLASSES, workdir)
    return workdir


@pytest.fixture(scope="module", name="config")
def config_fixture(trained):
    return UnlearnSaved(
        checkpoint=str(trained),
        method="trw_head",
        forget=ForgetConfig(classes=(FORGOTTEN,)),
        methods=METHODS,
        loop=LoopConfig(chunk_steps=3),
        evaluation=EvaluationConfig(bootstrap_samples=100, query_batch=100, gallery_images=2),
    )


class CutOff(Exception):
    """As a kill would, once the weights are kept."""


@pytest.fixture(scope="module", name="finished")
def finished_fixture(config, tmp_path_factory):
    """method -> (folder, results); that of `trw_head`, with its page, was cut off once."""
    folder, found = tmp_path_factory.mktemp("methods"), {}

    def finish(method):
        one, workdir = dataclasses.replace(config, method=method), folder / method
        with pytest.MonkeyPatch.context() as patch:
            if method == "trw_head":
                with patch.context() as cut:
                    cut.setattr(unlearn_saved, "query_models", cut_off)
                    with pytest.raises(CutOff):
                        unlearn_saved.run(one, workdir)
            else:
                patch.setattr(unlearn_saved, "write_saved_report", lambda *_: None)
            results, done_before = unlearn_saved.run(one, workdir)
        assert not done_before
        return workdir, results

    def lookup(method):
        if method not in found:
            found[method] = finish(method)
        return found[method]

    return lookup


def cut_off(*_):
    raise CutOff


@pytest.fixture(name="no_page")
def no_page_fixture(monkeypatch):
    monkeypatch.setattr(unlearn_saved, "write_saved_report", lambda *_: None)


def logits_of(workdir):
    with np.load(workdir / "logits.npz") as stored:
        return dict(stored)


def test_these_are_the_methods_that_only_classes_know():
    assert set(OF_CLASSES) == set(CLASS_METHODS) - set(EXAMPLE_METHODS)


def test_the_class_is_deleted_from_the_first_original_of_the_run(finished, trained):
    workdir, results = finished("trw")
    assert json.loads((workdir / "results.json").read_text()) == results
    splits, of_run = Splits.load(workdir / "splits.npz"), Splits.load(trained / "splits.npz")
    stored = logits_of(workdir)
    known = np.union1d(of_run.retain, of_run.forget)
    np.testing.assert_array_equal(np.union1d(splits.retain, splits.forget), known)
    np.testing.assert_array_equal(splits.forget, known[stored["labels"][known] == FORGOTTEN])
    answer = load_answer(trained / "answers" / "original_0.npz")
    np.testing.assert_allclose(stored["original"], answer.logits, rtol=1e-5, atol=1e-5)
    assert results["checkpoint"]["model"] == "original_0"
    assert results["checkpoint"]["augmentation"] == [0, False]
    assert results["data"]["forget_classes"] == [FORGOTTEN]
    assert results["data"]["seed"] == CLASSES.seed
    original = results["models"]["original"]
    assert original["seconds"] == answer.seconds + answer.preparation_seconds
    assert original["trained_samples"] == answer.trained_samples == 8 * 300
    assert original["compile_seconds"] is None
    resolved = json.loads((workdir / "config.json").read_text())["config"]
    assert resolved["checkpoint_model"] == "original_0"


@pytest.mark.parametrize("method", EACH)
def test_every_method_of_classes_runs_alone_and_its_model_can_be_loaded(finished, method):
    workdir, results = finished(method)
    stored = logits_of(workdir)
    before, after = (results["models"][name]["accuracy"] for name in ("original", method))
    splits = Splits.load(workdir / "splits.npz")
    right = stored[method].argmax(axis=1) == stored["labels"]
    assert after["forget"] == pytest.approx(right[splits.forget].mean())
    assert after["test"] == pytest.approx(right[splits.test].mean())
    is_gone = stored["labels"][splits.test] == FORGOTTEN
    assert after["test_retain"] == pytest.approx(right[splits.test][~is_gone].mean())
    assert after["test_forget"] == pytest.approx(right[splits.test][is_gone].mean())
    assert before["forget"] > 0.9 and after["forget"] < 0.5 * before["forget"]
    assert after["retain"] > 0.6
    loaded = load_model(workdir, method)
    images = load_dataset(CLASSES.data, CLASSES.seed).images
    assert stored[method].shape == (len(images), 10)
    np.testing.assert_allclose(loaded.predict(images), stored[method], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", EACH)
def test_what_a_method_took_is_what_it_did(finished, method):
    workdir, results = finished(method)
    model = results["models"][method]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    forgotten = results["data"]["forget"]
    visited = {"delete": forgotten, "boundary_expanding": forgotten, "scar": 2 * forgotten}.get(method, 300)
    if method in EDITS:
        assert (model["trained_samples"], model["preparation_seconds"], model["compile_seconds"]) == (0, 0, 0)
        assert model["seconds"] > 0 and lines == []
        # Of both kinds at most 100; all images for the class means; none for the head alone.
        read = {"svd_projection": 100 + forgotten, "linear_filtration": 500, "trw_head": 0}
        assert model["read_samples"] == read[method]
    else:
        # Whole batches; SCAR's epochs begin with a fresh one.
        batches = 4 * -(-visited // 16) if method == "scar" else -(-4 * visited // 16)
        assert model["trained_samples"] == 16 * batches
        assert model["read_samples"] == 0 and model["preparation_seconds"] > 0
        assert json.loads(lines[-1])["step"] * 16 == model["trained_samples"]
        assert model["seconds"] == pytest.approx(sum(json.loads(line)["seconds"] for line in lines), abs=0.01)


def test_the_page_of_an_edit_has_no_curves_of_training(finished, capsys):
    workdir, results = finished("trw_head")
    names = {path.stem for path in (workdir / "figures").iterdir()}
    assert names == {"loss_histograms", "roc", "forgotten_images"}
    page = (workdir / "report.html").read_text()
    assert "of all the work of a method that does not train" in " ".join(page.split())
    print_results(results, workdir, done_before=False)
    shown = capsys.readouterr().out
    stays = [
        f"{100 * results['models'][name]['accuracy']['test_retain']:.1f}" for name in ("original", "trw_head")
    ]
    line = f"test of the classes that stay {stays[0]} → {stays[1]}; test of those forgotten"
    assert "trw_head" in shown and line in " ".join(shown.split()) and line in page


@pytest.mark.parametrize("method", EACH)
def test_only_what_another_network_or_no_training_made_is_kept_beside_the_training(finished, method):
    workdir, _ = finished(method)
    kept = workdir / "checkpoints" / method / "finished"
    assert kept.exists() == (method in (*EDITS, *OTHER_NETWORKS))
    assert any(kept.parent.glob("step_*")) == (method not in EDITS)


class Killed(TrainingProgress):
    def update(self, report):
        if report.step >= 6:
            raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["boundary_expanding", pytest.param("scar", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_training_of_another_network_resumes_to_the_same_bits(
    finished, config, tmp_path, no_page, method
):
    one = dataclasses.replace(config, method=method)
    with pytest.raises(KeyboardInterrupt):
        unlearn_saved.run(one, tmp_path / "run", progress=Killed())
    assert not (tmp_path / "run" / "checkpoints" / method / "finished").exists()
    with pytest.raises(InputError, match="no finished run"):
        load_model(tmp_path / "run", method)
    results, done_before = unlearn_saved.run(one, tmp_path / "run")
    assert not done_before
    workdir, undisturbed = finished(method)
    assert logits_of(workdir)[method].tobytes() == logits_of(tmp_path / "run")[method].tobytes()
    assert results["models"][method]["accuracy"] == undisturbed["models"][method]["accuracy"]
    assert results["models"][method]["trained_samples"] == undisturbed["models"][method]["trained_samples"]
    assert unlearn_saved.run(one, tmp_path / "run") == (results, True)


@pytest.mark.slow
def test_a_second_class_is_deleted_from_an_edited_model(finished, config, tmp_path, no_page):
    workdir, results = finished("trw_head")
    chained = dataclasses.replace(
        config,
        checkpoint=str(workdir),
        checkpoint_model="trw_head",
        forget=ForgetConfig(classes=(5,)),
    )
    second, _ = unlearn_saved.run(chained, tmp_path / "run")
    stored = logits_of(tmp_path / "run")
    np.testing.assert_allclose(stored["original"], logits_of(workdir)["trw_head"], rtol=1e-5, atol=1e-5)
    assert second["data"]["deleted_before"] == results["data"]["forget"]
    assert second["data"]["forget_classes"] == [5]
    # The edit saw no crops either.
    assert second["checkpoint"]["augmentation"] == [0, False]
    assert second["models"]["original"]["trained_samples"] == 0
    assert second["models"]["original"]["seconds"] == results["models"]["trw_head"]["seconds"]
    splits = Splits.load(tmp_path / "run" / "splits.npz")
    assert set(stored["labels"][splits.forget]) == {5}
    assert FORGOTTEN not in stored["labels"][splits.retain]
    gone = dataclasses.replace(chained, forget=ForgetConfig(classes=(FORGOTTEN,)))
    with pytest.raises(InputError, match=r"forget.classes is \(3,\), but none of the checkpoint's"):
        unlearn_saved.run(gone, tmp_path / "refused")


def test_other_originals_have_their_names(config, trained):
    images = load_dataset(CLASSES.data, CLASSES.seed).images
    for name in ("original_2", "original_0"):
        resolved, run = read_checkpoint(dataclasses.replace(config, checkpoint_model=name), {})
        logits = load_answer(trained / "answers" / f"{name}.npz").logits
        assert resolved.checkpoint_model == name
        np.testing.assert_allclose(load_model(trained, name).predict(images), logits, rtol=1e-5, atol=1e-5)
        assert run.kind == "original" and run.facts["seconds"] > 0
    assert np.abs(logits - load_answer(trained / "answers" / "original_2.npz").logits).max() > 0.1


def test_an_original_that_diverged_is_none_to_delete_from():
    runs = [
        {
            "model": model,
            "number": number,
            "diverged_step": 40 if (model, number) == ("original", 0) else None,
        }
        for label in (3, 8)
        for model in ("original", "retrain")
        for number in range(3)
    ]
    results = {"tables": {"runs": runs}}
    assert kept_originals(results) == ["original_1", "original_2"]
    assert name_in_run(CLASSES, results, "original") == "original_1"
    assert name_in_run(CLASSES, results, "original_0") == "original_0"  # and is refused by that name
    assert name_in_run(UnlearnSaved(), results, "original") == "original"
    nothing = {"tables": {"runs": runs[:1]}}
    assert name_in_run(CLASSES, nothing, "original") == "original"


def test_no_method_crops_or_mirrors_what_the_run_did_not(config):
    resolved, _ = read_checkpoint(config, {"methods.scar.optimization.flip": True})
    for name in ("trw", "delete", "boundary_expanding", "scar", "salun", "amun"):
        optimization = getattr(resolved.methods, name).optimization
        assert (optimization.crop_padding, optimization.flip) == (0, name == "scar")
    assert (resolved.methods.finetune.crop_padding, resolved.methods.finetune.flip) == (0, False)
    for name in ("linear_filtration", "svd_projection", "trw_head"):
        assert getattr(resolved.methods, name) == getattr(METHODS, name)


def test_a_method_without_training_adds_no_augmentation(tmp_path):
    def seen(config, name, results):
        return SavedRun(tmp_path, name, config, results, "").augmentation

    before = {"checkpoint": {"augmentation": [2, False]}}
    once = UnlearnSaved(methods=METHODS)
    for name in EDITS:
        assert seen(dataclasses.replace(once, method=name), name, before) == (2, False)
    assert seen(dataclasses.replace(once, method="rwft"), "rwft", before) == (4, True)
    # A comparison on examples has no settings for a method of classes; that it has no such model is said later.
    assert seen(UnlearningMethods(methods=MethodsConfig(), train=TRAIN), "trw", {}) == (0, False)


@pytest.mark.parametrize(
    "method",
    [
        "trw",
        "linear_filtration",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("rwft", "trw_head")),
    ],
)
def test_methods_of_classes_ask_for_classes_before_anything_is_trained(config, tmp_path, method):
    np.save(tmp_path / "some.npy", np.arange(20))
    indices = str(tmp_path / "some.npy")
    for forget in (ForgetConfig(), ForgetConfig(indices=indices, classes=(FORGOTTEN,))):
        bad = dataclasses.replace(config, method=method, forget=forget)
        with pytest.raises(InputError, match=f"'{method}' forgets whole classes, .*; give forget.classes"):
            unlearn_saved.run(bad, tmp_path / "run")
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_bad_input_is_one_sentence_and_writes_nothing(config, tmp_path):
    cases = [
        ({"forget": ForgetConfig(classes=(10,))}, r"forget.classes is \(10,\), but expected classes from 0 to 9"),
        ({"forget": ForgetConfig(classes=(-1,))}, r"forget.classes is \(-1,\), but expected classes from 0"),
        ({"checkpoint_model": "trw_head"}, "no model 'trw_head', but original_0, original_1, original_2, or"),
        ({"checkpoint_model": "original_4"}, "no model 'original_4', but original_0"),
        ({"checkpoint_model": "retrain"}, "no model 'retrain', but original_0"),
    ]  # fmt: skip
    for change, message in cases:
        with pytest.raises(InputError, match=message) as refused:
            unlearn_saved.run(dataclasses.replace(config, **change), tmp_path / "run")
        assert "\n" not in str(refused.value)
        assert not (tmp_path / "run").exists()


def test_too_few_classes_that_stay_are_refused(config, tmp_path):
    all_but_one = dataclasses.replace(config, forget=ForgetConfig(classes=tuple(range(9))))
    with pytest.raises(InputError, match="needs at least two classes that stay, but 10 classes without 9"):
        unlearn_saved.run(all_but_one, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
