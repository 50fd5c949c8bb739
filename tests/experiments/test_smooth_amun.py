import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from mu_jax.config import (
    ClippingConfig,
    DataConfig,
    InputError,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    SmoothAmun,
)
from mu_jax.config.methods import AmunConfig, NeighboursConfig
from mu_jax.config.smooth import SmoothnessConfig, TransferConfig
from mu_jax.config.unlearning import RobustConfig
from mu_jax.experiments.saved_models import load_model
from mu_jax.experiments.smooth_amun import run
from mu_jax.experiments.smooth_answers import load_answer
from mu_jax.experiments.smooth_setting import Kind, Member, prepare_smooth
from mu_jax.smoothness.layers import kernel_fn, kernel_of
from mu_jax.training.checkpoints import Checkpoints

TRAIN = OptimizationConfig(epochs=4.0, batch_size=32, learning_rate=0.1)
SCHEDULE = ClippingConfig(every=4, steps=2, step_size=0.0, composed_every=0, first_iterations=20)
CONFIG = SmoothAmun(
    data=DataConfig(source="digits", train_examples=200, test_examples=60),
    model=ModelConfig(width=4, halve_shortcut=True),
    train=TRAIN,
    smoothness=SmoothnessConfig(norms=("batch",), clips=(0.0, 1.0), models=2),
    clipping=SCHEDULE,
    amun=AmunConfig(optimization=dataclasses.replace(TRAIN, epochs=1.0)),
    neighbours=NeighboursConfig(steps=5, step_ratio=0.3, epsilon=0.5),
    robust=RobustConfig(images=30, norm="l2", epsilon=0.3, steps=5),
    transfer=TransferConfig(images=30, norm="l2", epsilon=2.0, steps=5),
    loop=LoopConfig(chunk_steps=6),
)


@pytest.fixture(scope="module", name="folder")
def folder_fixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("smooth")
    run(CONFIG, folder)
    return folder


@pytest.fixture(scope="module", name="results")
def results_fixture(folder):
    return json.loads((folder / "results.json").read_text())


def test_every_kind_and_role_has_its_figures(results):
    names = {f"{role}@batch_{clip}" for role in ("original", "retrain", "amun") for clip in ("free", "c1")}
    assert set(results["models"]) == names
    for model in results["models"].values():
        assert model["n"] == 2 and 0 <= model["accuracy"]["test"] <= 1
    free, clipped = results["tables"]["kinds"]
    assert (free["clip"], clipped["clip"]) == (0.0, 1.0)
    for row in (free, clipped):
        assert 0 <= row["robust_accuracy"] <= 1 and row["lipschitz_bound"] > 0 and row["distance"] > 0
    assert len(results["tables"]["transfer"]) == 4
    assert len(results["tables"]["layers"]) == 2 * 21


def test_clipped_layers_are_within_the_bound_by_their_singular_values(folder, results):
    assert max(row["largest_norm"] for row in results["tables"]["runs"] if row["kind"] == "batch_c1") <= 1.02
    assert max(row["largest_norm"] for row in results["tables"]["runs"] if row["kind"] == "batch_free") > 1.02
    setting = prepare_smooth(CONFIG)
    model = setting.networks["batch"][0]
    checkpoints = Checkpoints(folder / "checkpoints" / "amun@batch_c1_0")
    variables = checkpoints.restore(checkpoints.latest_step(), jax.eval_shape(model.init, jax.random.key(0)))
    for layer in model.layers():
        if layer.input_shape[0] > 4:
            continue  # the matrix of a small one is soon built
        apply, shape = kernel_fn(layer, "xla"), layer.input_shape
        basis = np.eye(int(np.prod(shape)), dtype=np.float32).reshape(-1, *shape)
        kernel = kernel_of(variables["params"], layer)
        matrix = np.asarray(jax.vmap(lambda x, apply=apply, kernel=kernel: apply(kernel, x))(basis))
        assert np.linalg.norm(matrix.reshape(len(basis), -1), 2) <= 1.02 * (1 + 1e-4)


def test_models_of_all_clips_start_from_the_same_weights_and_only_clipping_tells_them_apart(folder):
    free, clipped = (
        load_answer(folder / "answers" / f"original@batch_{name}_0.npz") for name in ("free", "c1")
    )
    # Rows of the history are steps here; the first clipping is at the fourth.
    np.testing.assert_allclose(free.history[1:4], clipped.history[1:4], rtol=1e-5)
    large = free.history[3] > 1.3
    assert large.sum() > 5
    assert np.all(clipped.history[4][large] < free.history[4][large])


@pytest.mark.slow
def test_a_run_cut_off_goes_on_and_gives_the_same_bits(folder, results, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    (copy / "results.json").unlink()
    lost = ["amun@batch_c1_1", "original@batch_free_0"]
    for name in lost:
        (copy / "answers" / f"{name}.npz").unlink()
        shutil.rmtree(copy / "checkpoints" / name)
    again, done = run(CONFIG, copy)
    assert not done
    for name in lost:
        old, new = (load_answer(where / "answers" / f"{name}.npz") for where in (folder, copy))
        np.testing.assert_array_equal(old.logits, new.logits)
        np.testing.assert_array_equal(old.history, new.history)
    assert again["tables"]["kinds"] == results["tables"]["kinds"]
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    assert len({(line["model"], line["members"][0], line["step"]) for line in lines}) == len(lines)
    assert run(CONFIG, copy)[1]


def test_a_model_of_the_study_can_be_loaded_by_its_name(folder):
    loaded = load_model(folder, "amun@batch_c1_1")
    images = prepare_smooth(CONFIG).dataset.images[:20]
    answer = load_answer(folder / "answers" / "amun@batch_c1_1.npz")
    np.testing.assert_allclose(loaded.predict(images), answer.logits[:20], rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="has no model 'amun', but original@batch_free_0 to"):
        load_model(folder, "amun")


def test_retrained_models_do_not_know_the_forgotten_images():
    setting = prepare_smooth(CONFIG)
    member = Member("retrain", Kind("batch", 1.0), 0)
    assert member.name == "retrain@batch_c1_0"
    assert not np.intersect1d(setting.splits.retain, setting.splits.forget).size
    assert Kind("none", 0.0).name == "none_free"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"smoothness": {"clips": (-1.0,)}}, "smoothness.clips"),
        ({"smoothness": {"clips": (1.0, 1.0)}}, "no value twice"),
        ({"smoothness": {"models": 1}}, "smoothness.models is 1"),
        ({"smoothness": {"norms": ("layer",)}}, "smoothness.norms"),
        ({"model": {"name": "cnn"}}, "model.name is 'cnn'"),
        ({"amun": {"l1": 0.1}}, "amun.saliency_share and amun.l1"),
        ({"transfer": {"epsilon": 0.0}}, "transfer.epsilon"),
        ({"clipping": {"every": -1}}, "clipping.every"),
    ],
)
def test_bad_settings_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        dataclasses.replace(
            CONFIG,
            **{
                name: dataclasses.replace(getattr(CONFIG, name), **values) for name, values in changes.items()
            },
        )
