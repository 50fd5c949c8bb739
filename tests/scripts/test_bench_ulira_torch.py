"""PyTorch's side of the benchmark of class unlearning, with ResNets of width 1; and both sides at once."""

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

from benchmarks.jax_ulira_worker import Pool, class_setting
from benchmarks.torch_weights import to_state_dict
from benchmarks.ulira_case import BATCH, FORGOTTEN, METHOD_NAMES
from benchmarks.ulira_names import method_settings, parse_case
from mu_jax.unlearning.methods import make_plan

ROOT = pathlib.Path(__file__).parents[2]


def case_of(method, **files):
    """Of two models, in two epochs."""
    return dataclasses.replace(parse_case(f"ulira_{method}_k2", 1, 0.4, 4.0), **files)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """120 training and 40 test images of 8×8 in 10 classes."""
    rng, labels = np.random.default_rng(0), np.arange(160, dtype=np.int32) % 10
    images = rng.integers(0, 256, (160, 8, 8, 1), dtype=np.uint8)
    path = tmp_path_factory.mktemp("ulira") / "case.npz"
    np.savez(
        path,
        x_train=images[:120],
        y_train=labels[:120],
        x_test=images[120:],
        y_test=labels[120:],
        class_names=np.array(list("abcdefghij")),
    )
    return str(path)


FORM = {"do": "unlearn", "execution": "eager", "channels_last": False, "device": "cpu"}


@pytest.fixture
def torch():
    """PyTorch on one thread: on networks this small several wait for one another, and long on a busy machine."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def drawn(file):
    """A pool of ResNets of width 1 on our side, whose weights are drawn by NumPy, and their file."""
    case, rng = case_of("trw", file=file), np.random.default_rng(0)
    pool = Pool(class_setting(case), 2)

    def leaf_of(path, leaf):
        value = rng.normal(size=leaf.shape).astype(np.float32)
        return np.abs(value) + 0.5 if path[-1].key in ("var", "scale") else value

    like = jax.eval_shape(pool.setting.model.init, jax.random.key(0))
    arrays = {}
    for number in range(2):
        named = to_state_dict(jax.tree_util.tree_map_with_path(leaf_of, like))
        arrays |= {f"{number}/{name}": leaf for name, leaf in named.items()}
    weights = str(pathlib.Path(file).with_name("drawn.npz"))
    np.savez(weights, **arrays)
    return pool, weights


@pytest.mark.torch
def test_pytorch_has_our_targets_and_rows(torch, drawn, file):
    from benchmarks.torch_ulira_worker import Unlearning

    pool, weights = drawn
    original = jax.tree.map(jnp.asarray, pool.originals(weights)[1])
    task = pool.setting.task(FORGOTTEN, original)
    for method in METHOD_NAMES:
        plan = make_plan(method, task, method_settings(method, 1.0))
        theirs = Unlearning(case_of(method, file=file, weights=weights), FORM)
        theirs._start_from(1)
        targets = theirs.targets()
        if method == "finetune":
            targets = torch.nn.functional.one_hot(targets, 10)
        np.testing.assert_allclose(targets.numpy(), plan.examples.targets, atol=2e-5)
        np.testing.assert_array_equal(theirs.visited().sort().values.numpy(), np.sort(plan.index))


@pytest.mark.torch
def test_pytorch_unlearns_one_original_after_another(torch, drawn, file):
    from benchmarks.torch_ulira_worker import Unlearning, _prepared, prepare

    case = case_of("trw", file=file, weights=drawn[1])
    prepared = prepare(case, FORM)
    assert (prepared.items_a_step, prepared.most) == (1, 2)
    unlearning = Unlearning(case, FORM)
    seen, started = [], []
    step, start = unlearning._loss_of, unlearning._start_from

    def watched(network, images, targets):
        seen.append(targets)
        return step(network, images, targets)

    unlearning._loss_of = watched
    unlearning._start_from = lambda number: started.append(number) or start(number)
    assert np.isfinite(unlearning.run(1)) and np.isfinite(unlearning.run(2))
    assert started == [0, 1, 0] and len(unlearning.models) == 2
    assert len(seen) == 3 * 8 and unlearning.found["images_a_model"] == 8 * BATCH
    # Each epoch shows every image once: what the forgotten class's are learned as has none of it.
    first = torch.cat(seen[:8])[:240]
    assert torch.all(first[:, FORGOTTEN] == 0) and torch.allclose(first.sum(1), torch.ones(240))
    # The 12 of each other class keep their labels; the originals are sure of some of the forgotten class, too.
    own = (first[:120] == 1).sum(0)
    assert all(own[label] >= 12 for label in range(10) if label != FORGOTTEN)
    prepared.run_steps(1)
    judged = prepare(case, FORM | {"do": "accuracy"}).facts["accuracy"]
    assert set(judged) == {"retain", "forget", "test", "test_forget"} and len(_prepared) == 1


@pytest.mark.torch
def test_pytorch_refuses_settings_that_it_does_not_know(torch):
    from benchmarks.torch_ulira_worker import tilted, wrong_labels

    settings = case_of("trw").settings
    with pytest.raises(ValueError, match="expected a fixed β"):
        tilted(torch.zeros(2, 3), torch.ones(3, 2), 0, settings | {"level": 0.3})
    with pytest.raises(ValueError, match="expected the mean over draws"):
        wrong_labels(torch.eye(3), {"redraw": False})


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_unlearn_a_class(tmp_path):
    pytest.importorskip("torch")
    flags = [
        "--width=4",
        "--training-epochs=2",
        "--share=0.4",
        "--torch=eager",
        "--rounds=1",
        "--seconds=0.1",
    ]
    flags += ["--cases=ulira_trw_k2,trw_step", f"--json={tmp_path}/rows.json", f"--workdir={tmp_path}/kept"]
    command = [sys.executable, "scripts/bench_unlearning.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    models, step = json.loads((tmp_path / "rows.json").read_text())
    for row in (models, step):
        assert list(row) == ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    assert (models["case"], models["unit"]) == ("ulira_trw_k2_x0.4", "models/min")
    assert models["ratio"] == pytest.approx(models["ours"] / models["torch"], rel=0.05)
    ours = models["details"]["ours"]["side by side"]
    theirs = models["details"]["torch"]["eager float32"]
    assert ours["images_a_model"] == theirs["images_a_model"] == BATCH * -(-2 * 1297 // BATCH)
    assert ours["accuracy"]["retain"] == pytest.approx(theirs["accuracy"]["retain"], abs=0.1)
    assert max(ours["accuracy"]["forget"], theirs["accuracy"]["forget"]) < 0.1
    assert (step["case"], step["unit"], step["torch"]) == ("trw_step", "ms/step", None)
    assert step["details"]["ms_a_step"]["trw"] == step["ours"] > 0
    kept = sorted(path.name.partition("_w4")[0] for path in (tmp_path / "kept").iterdir())
    assert kept == ["originals_k2_resnet18", "resnet18"]
    assert "| ulira_trw_k2_x0.4 |" in done.stdout and "| trw_step |" in done.stdout.splitlines()[-1]
