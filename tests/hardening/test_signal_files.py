"""Files of signals, weights and answers, damaged in every way: read, or refused in one sentence."""

import dataclasses
import io

import jax
import numpy as np
import pytest

from mu_jax.adversarial import stored
from mu_jax.adversarial.pixels import PixelModel
from mu_jax.experiments import (
    class_answers,
    leaks_answers,
    methods_answers,
    search_answers,
    sisa_answers,
    smooth_answers,
)
from mu_jax.experiments.audit_signals import read_audit_signals
from mu_jax.experiments.leaks_audit_files import read_pairs
from mu_jax.experiments.signal_group import open_group
from mu_jax.experiments.signal_parts import SignalParts
from mu_jax.experiments.signal_pool import read_pool
from mu_jax.models.mlp import mlp_model
from mu_jax.models.pytorch_import import load_state_dict, resnet18_from_state_dict
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.unlearning.sisa.ensemble import AGGREGATIONS

RNG = np.random.default_rng(0)
MANY = pytest.param(2_000, marks=pytest.mark.slow)
K, N, A, C = 4, 6, 2, 3
MEMBER = RNG.permuted(np.tile(np.arange(K) < 2, (N, 1)), axis=1).T.copy()
FLOATS = RNG.normal(size=(4, 3)).astype(np.float32)


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def posteriors(rows):
    return RNG.dirichlet(np.ones(C), rows)


def signals(of, shape):
    return {f"target_{of}": RNG.normal(size=(2, *shape)), f"shadow_{of}": RNG.normal(size=(K, *shape))} | {
        "member_target": np.arange(N) % 2 == np.arange(2)[:, None],
        "member_shadow": MEMBER,
        "labels": np.arange(N) % C,
        "images": np.zeros((N, 4, 4, 3), np.uint8),
    }


SIDES = {"shadow": posteriors(12), "target": posteriors(8)}
BEFORE = SIDES | {
    "shadow_deleted": np.arange(12) < 5,
    "target_deleted": np.arange(8) < 4,
    "shadow_model": np.arange(12) // 3,
    "target_model": np.arange(8) // 4,
}


@pytest.mark.parametrize("examples", [40, MANY])
@pytest.mark.parametrize("probability", ["softmax", "taylor_softmax"])
@pytest.mark.parametrize(("of", "shape"), [("logits", (N, C)), ("phi", (N, A))])
def test_an_audits_signals(reads_or_refuses, of, shape, probability, examples):
    if (of, probability) == ("phi", "taylor_softmax"):
        pytest.skip("a Taylor softmax is of logits")

    def read(folder):
        found = read_audit_signals(folder / "s.npz", probability)
        for side in (found.target_phi, found.shadow_phi, found.target_probability, found.shadow_probability):
            assert np.isfinite(side).all()
        return found

    reads_or_refuses({"s.npz": npz(**signals(of, shape))}, read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
def test_pairs_of_an_audited_deletion(reads_or_refuses, examples):
    files = {"before.npz": npz(**BEFORE), "after.npz": npz(**SIDES)}
    reads_or_refuses(files, lambda f: read_pairs(f / "before.npz", f / "after.npz"), examples)


def rows():
    return {name: RNG.random((K, N, A), np.float32) for name in ("phi", "probability")} | {
        "logits": RNG.random((K, N, A, C), np.float32)
    }


@pytest.mark.parametrize("examples", [40, MANY])
def test_a_pool(reads_or_refuses, files_below, tmp_path, examples):
    parts = SignalParts(tmp_path)
    parts.write(0, range(K), rows(), {"diverged_step": np.full(K, -1), "loss": np.ones(K)})
    parts.merge(
        member=MEMBER, labels=np.zeros(N, np.int32), produced_by={"seed": 0}, queries=["as is", {"flip": True}],
        blocks=[2, 2], made_with={"devices": ("cpu",)},
    )  # fmt: skip

    def read(folder):
        pool = read_pool(folder)
        # A map of a file that ends early would die of a bus error here.
        return float(
            pool.phi.sum()
            + pool.probability.sum()
            + pool.logits.sum()
            + pool.member.sum()
            + pool.labels.sum()
        )

    reads_or_refuses(files_below(tmp_path), read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
def test_a_groups_part(reads_or_refuses, files_below, tmp_path, examples):
    SignalParts(tmp_path).write(0, range(K), rows(), {"diverged_step": np.full(K, -1), "loss": np.ones(K)})

    def read(folder):
        group = open_group(folder / "signals" / "parts" / "group_000000.npz")
        return [len(b"".join(group.rows(name))) for name in group.shapes]

    files = {name: content for name, content in files_below(tmp_path).items() if name.endswith(".npz")}
    reads_or_refuses(files, read, examples)


def adversarial_set(tmp_path, shape=(4, 4, 1)):
    columns = {"labels": np.int32, "adversarial_labels": np.int32, "index": np.int64}
    columns |= {"epsilon": np.float32, "distance": np.float32}
    attacked = PixelModel(mlp_model((4,), C, (4, 4, 1)), (0.5,), (0.25,))
    variables = attacked.model.init(jax.random.key(0))
    found = stored.StoredAdversarialSet(
        norm="l2",
        model_sha256=stored.variables_sha256(variables),
        images=RNG.integers(0, 256, (5, *shape), dtype=np.uint8),
        **{name: np.arange(5).astype(dtype) for name, dtype in columns.items()},
        not_flipped=np.arange(2),
        flipped_back=np.arange(0),
    )
    stored.save(tmp_path / "set.npz", found)
    return attacked, variables


@pytest.mark.parametrize("examples", [40, MANY])
def test_an_adversarial_set(reads_or_refuses, files_below, tmp_path, examples):
    attacked, variables = adversarial_set(tmp_path)
    reads_or_refuses(
        files_below(tmp_path),
        lambda folder: stored.load(folder / "set.npz", attacked, variables, transferred=True),
        examples,
    )


def test_an_adversarial_set_of_other_images_is_refused(tmp_path, one_sentence):
    attacked, variables = adversarial_set(tmp_path, shape=(6, 6, 1))
    assert one_sentence(lambda: stored.load(tmp_path / "set.npz", attacked, variables)) is None


def state_dict():
    from mu_jax.config import ModelConfig
    from mu_jax.models import build_model

    model = build_model(ModelConfig(width=1), num_classes=C, image_shape=(8, 8, 1), convolution="xla")
    return jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.torch
@pytest.mark.parametrize("examples", [30, MANY])
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_weights_of_pytorch(reads_or_refuses, tmp_path, kind, examples):
    torch, safetensors = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
    tensors = {
        "module.conv1.weight": torch.ones(2, 1, 3, 3),
        "module.bn1.bias": torch.zeros(2, dtype=torch.bfloat16),
    }
    if kind == "pth":
        torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "w.pth")
    else:
        safetensors.save_file(tensors, tmp_path / "w.safetensors")
    like = state_dict()

    def read(folder):
        found = load_state_dict(folder / f"w.{kind}")
        try:
            resnet18_from_state_dict(found, like)
        except ValueError as error:
            assert "\n" not in str(error)  # two tensors are no network: that is said
        return found

    reads_or_refuses({f"w.{kind}": (tmp_path / f"w.{kind}").read_bytes()}, read, examples)


@pytest.mark.torch
@pytest.mark.parametrize(
    "make",
    [
        lambda torch: torch.eye(2).to_sparse(),
        lambda torch: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        lambda torch: torch.ones(2, dtype=torch.complex64),
        lambda torch: torch.empty(2, device="meta"),
        lambda torch: [torch.ones(2)],
        lambda torch: "text",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tensors_that_are_no_plain_numbers(tmp_path, one_sentence, make):
    torch = pytest.importorskip("torch")
    torch.save({"weight": make(torch)}, tmp_path / "w.pt")
    assert one_sentence(lambda: load_state_dict(tmp_path / "w.pt")) is None


@pytest.mark.parametrize("examples", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_a_checkpoint(reads_or_refuses, files_below, tmp_path, examples):
    state = {"params": {"kernel": FLOATS, "bias": FLOATS[0]}, "step": np.int32(7)}
    Checkpoints(tmp_path).save(3, state)

    def read(folder):
        found = Checkpoints(folder)
        step = found.latest_step()
        like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), state)
        got = found.restore(3 if step is None else step, like)
        assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, state)
        return got

    reads_or_refuses(files_below(tmp_path), read, examples)


@pytest.mark.parametrize(
    "like", [{"kernel": np.zeros((3, 4), np.float32)}, {"kernel": FLOATS, "bias": FLOATS}, {"other": FLOATS}]
)
def test_a_checkpoint_of_another_shape_is_refused(tmp_path, one_sentence, like):
    Checkpoints(tmp_path).save(3, {"kernel": FLOATS})
    assert one_sentence(lambda: Checkpoints(tmp_path).restore(3, like)) is None


ANSWERS = {
    "class": (class_answers.ClassAnswer, {"logits": FLOATS}, class_answers.load_answer),
    "methods": (
        methods_answers.Answer,
        {"logits": FLOATS, "neighbour_logits": FLOATS},
        methods_answers.load_answer,
    ),
    "smooth": (
        smooth_answers.SmoothAnswer,
        {"logits": FLOATS, "logits_before": FLOATS, "history": FLOATS}
        | dict.fromkeys(("norms", "norms_before", "composed"), FLOATS[0]),
        smooth_answers.load_answer,
    ),
}


@pytest.mark.parametrize("examples", [25, MANY])
@pytest.mark.parametrize("kind", ANSWERS)
def test_answers(reads_or_refuses, kind, examples):
    """Of one model; a file of a run's own, so that only its bytes can be damaged."""
    cls, arrays, load = ANSWERS[kind]
    numbers = {
        field.name: 1.5 if field.type is float else 3
        for field in dataclasses.fields(cls)
        if field.name not in arrays
    }
    whole = {"a.npz": npz(**arrays, **numbers)}
    reads_or_refuses(
        whole, lambda f: load(f / "a.npz") if (f / "a.npz").exists() else 0, examples, content=False
    )


@pytest.mark.parametrize("examples", [25, MANY])
def test_answers_of_groups(reads_or_refuses, examples):
    names, numbers = np.array(["a", "b"]), np.arange(2)
    of_search = npz(
        names=names, loss=FLOATS[:2], correct=FLOATS[:2] > 0, diverged_step=numbers, seconds=numbers * 1.0,
        trained_samples=numbers,
    )  # fmt: skip
    of_leaks = npz(
        names=names,
        logits=np.stack([FLOATS] * 2),
        diverged_step=numbers,
        seconds=1.5,
        trained_samples=numbers,
    )
    of_sisa = npz(right=FLOATS > 0, votes=FLOATS[0] > 0, **dict.fromkeys(AGGREGATIONS, FLOATS))

    def read(folder):
        found = [search_answers.load_answer(folder / "search.npz")]
        found.append(leaks_answers.load_answer(folder / "leaks.npz", ("a", "b")))
        return [*found, sisa_answers.Answers.load(folder / "sisa.npz")]

    files = {"search.npz": of_search, "leaks.npz": of_leaks, "sisa.npz": of_sisa}
    reads_or_refuses(files, read, examples, content=False)
