"""After deleting training images, does an unlearning method hide that they were ever there, as retraining would?

Trains an original model, deletes a forget set by each method, retrains without it twice (the second time with other
random numbers: the noise floor), and lets the loss attack compare forgotten with never-seen images on each model.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.attacks.loss import balanced_indices, logistic_loss_attack, loss_scores
from mu_jax.attacks.signals import confidence
from mu_jax.config import InputError, UnlearningComparison, to_dict
from mu_jax.data.dataset import Dataset
from mu_jax.data.sources import load_dataset
from mu_jax.data.splits import Splits, make_splits
from mu_jax.evaluation.comparison import Behaviour, gap_to_retrain
from mu_jax.evaluation.intervals import proportion_interval
from mu_jax.evaluation.membership import evaluate_scores, evaluate_shuffle_splits
from mu_jax.evaluation.report import ReportData, write_report
from mu_jax.experiments.files import atomic_write, write_json
from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results, git_revision, versions
from mu_jax.models import Model, build_model
from mu_jax.ops import choose_lowering
from mu_jax.training.loop import ChunkReport, TrainingRun
from mu_jax.training.query import make_query
from mu_jax.unlearning import Plan, Task, carry_out, finetune, retrain

QUESTION = (
    "After some training images are deleted, does fine-tuning on the rest hide that they were ever there as well "
    "as retraining would, and what does it cost in accuracy?"
)

# scikit-learn's shuffle splits hold out a tenth of each side, so each side needs ten.
_SMALLEST_LOGISTIC_ATTACK = 10


@dataclasses.dataclass
class Trained:
    """One model of the comparison, and what it took."""

    variables: Any
    seconds: float
    compile_seconds: float
    trained_samples: int


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is fixed before the first step: data, splits, and the model in both precisions."""

    config: UnlearningComparison
    dataset: Dataset
    splits: Splits
    lowering: str
    model: Model
    query_model: Model
    """the same network, computing in float32 whatever training uses: attacks read it"""

    @functools.cached_property
    def images(self) -> jax.Array:
        """uint8[N,H,W,D] on the device, training images first: the one copy that everything reads."""
        return jax.numpy.asarray(self.dataset.images)

    @functools.cached_property
    def nonmembers(self) -> np.ndarray:
        """Test rows the forgotten are compared with: of the forgotten classes alone where classes are deleted."""
        forget, test = self.config.forget, self.splits.test
        if forget.indices or not forget.classes:
            return test
        rows = test[np.isin(self.dataset.labels[test], forget.classes)]
        if len(rows) == 0:
            raise InputError(
                f"No test image has a deleted class {forget.classes}, so the attack has nothing to compare with; "
                "use a test set that holds them."
            )
        return rows


def prepare(config: UnlearningComparison) -> Setting:
    """Read and check everything that the config points at; writes nothing."""
    dataset = load_dataset(config.data, config.seed)
    channels = dataset.image_shape[-1]
    for key in ("mean", "std"):
        values = getattr(config.data, key)
        if len(values) not in (1, channels):
            raise InputError(
                f"data.{key} has {len(values)} values, but the images have {channels} channels; give one value, or "
                "one a channel."
            )
    splits = make_splits(dataset, config.data, config.forget, config.seed)
    lowering = choose_lowering(config.model.convolution, jax.default_backend())
    build = functools.partial(
        build_model,
        config.model,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        convolution=lowering,
    )
    model = build()
    # One object where both are the same, so that they share compiled programs.
    query_model = model if config.model.compute_dtype == "float32" else build(compute_dtype="float32")
    setting = Setting(config, dataset, splits, lowering, model, query_model)
    _ = setting.nonmembers  # fails now rather than after training
    return setting


def run(
    config: UnlearningComparison,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: TrainingProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    setting = prepare(config)
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": setting.splits.fingerprint(),
            "convolution": setting.lowering,
            "backend": jax.default_backend(),
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown:
        if folder.changed_versions:
            shown.say(
                f"begun under other versions of {', '.join(folder.changed_versions)}: the result may differ in bits "
                "from that of an undisturbed run"
            )
        setting.splits.save(folder.path / "splits.npz")
        trained = train_models(setting, folder, shown)
        shown.say("querying and attacking the models")
        logits = query_models(setting, trained)
        with atomic_write(folder.path / "logits.npz") as file:
            np.savez(file, labels=setting.dataset.labels, **logits)
        results = evaluate(setting, trained, logits)
        write_report(folder.path, report_data(setting, results, logits, folder.metrics()))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def train_models(setting: Setting, folder: RunFolder, shown: TrainingProgress) -> dict[str, Trained]:
    """Train, unlearn and retrain, each model from its newest checkpoint."""
    config, dataset, splits = setting.config, setting.dataset, setting.splits
    task = Task(
        model=setting.model,
        images=setting.images,
        labels=dataset.labels,
        num_classes=dataset.num_classes,
        retain=splits.retain,
        forget=splits.forget,
        data=config.data,
        seed=config.seed,
    )
    original_plan = Plan(
        name="original",
        start="scratch",
        examples=task.examples(config.train.label_smoothing),
        index=np.union1d(splits.retain, splits.forget),
        optimization=config.train,
    )
    trained = {"original": _train_one(original_plan, task, config, folder, shown)}
    task = dataclasses.replace(task, original=trained["original"].variables)
    for plan in (
        finetune(task, config.finetune),
        retrain(task, config.train),
        retrain(task, config.train, name="retrain_again"),
    ):
        trained[plan.name] = _train_one(plan, task, config, folder, shown)
    return trained


def _train_one(
    plan: Plan, task: Task, config: UnlearningComparison, folder: RunFolder, shown: TrainingProgress
) -> Trained:
    checkpoints = folder.checkpoints(plan.name)
    done = checkpoints.latest_step() or 0
    earlier = folder.cut_metrics(plan.name, done)
    spent = {"seconds": sum(line["seconds"] for line in earlier), "compile": 0.0}

    def on_start(training: TrainingRun) -> None:
        shown.start(plan.name, training.steps, done)

    def on_compiled(seconds: float) -> None:
        spent["compile"] = seconds
        shown.compiled(seconds)

    def on_chunk(report: ChunkReport) -> None:
        spent["seconds"] += report.seconds
        folder.append_metrics(
            {
                "model": plan.name,
                "step": report.step,
                "epoch": round(report.epoch, 4),
                "loss": report.loss,
                "accuracy": report.accuracy,
                "learning_rate": report.learning_rate,
                "seconds": round(report.seconds, 4),
                "images_per_second": round(report.images / max(report.seconds, 1e-9), 1),
            }
        )
        shown.update(report)

    outcome = carry_out(
        plan,
        task,
        chunk_steps=config.loop.chunk_steps,
        checkpoints=checkpoints,
        on_start=on_start,
        on_chunk=on_chunk,
        on_compiled=on_compiled,
    )
    return Trained(outcome.variables, spent["seconds"], spent["compile"], outcome.trained_samples)


def query_models(setting: Setting, trained: Mapping[str, Trained]) -> dict[str, np.ndarray]:
    """Logits float32[N,C] of every model on every image, training images first."""
    data = setting.config.data
    query = make_query(setting.query_model, data.mean, data.std, setting.config.evaluation.query_batch)
    return {name: np.asarray(query(model.variables, setting.images)) for name, model in trained.items()}


def evaluate(
    setting: Setting, trained: Mapping[str, Trained], logits: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Everything that results.json says."""
    config, dataset, splits = setting.config, setting.dataset, setting.splits
    settings, labels = config.evaluation, dataset.labels
    models: dict[str, dict[str, Any]] = {}
    behaviours: dict[str, Behaviour] = {}
    parts = {"retain": splits.retain, "forget": splits.forget, "test": splits.test}
    if len(splits.validation):
        parts["validation"] = splits.validation
    for name, output in logits.items():
        correct = output.argmax(axis=1) == labels
        hits = {part: (int(correct[rows].sum()), len(rows)) for part, rows in parts.items()}
        accuracy = {part: right / total for part, (right, total) in hits.items()}
        attacks = attack(setting, output)
        behaviours[name] = Behaviour(
            unlearn_accuracy=accuracy["forget"],
            retain_accuracy=accuracy["retain"],
            test_accuracy=accuracy["test"],
            forget_vs_test_auc=attacks["loss_threshold"]["auc"],
        )
        models[name] = {
            "accuracy": accuracy,
            "accuracy_interval": {
                part: list(proportion_interval(right, total, level=settings.interval_level))
                for part, (right, total) in hits.items()
            },
            "attacks": attacks,
            "seconds": trained[name].seconds,
            "compile_seconds": trained[name].compile_seconds,
            "trained_samples": trained[name].trained_samples,
        }
    for name, behaviour in behaviours.items():
        gap = gap_to_retrain(behaviour, behaviours["retrain"])
        models[name] |= {"gap_to_retrain": gap.gap, "gap_parts": dict(gap.parts)}
    parameters = jax.tree.leaves(trained["original"].variables["params"])
    return {
        "experiment": config.experiment,
        "question": QUESTION,
        "seed": config.seed,
        "data": {
            "source": config.data.source,
            "name": dataset.name,
            "train": len(splits.retain) + len(splits.forget),
            **{part: len(rows) for part, rows in parts.items()},
            "validation": len(splits.validation),
            "nonmembers": len(setting.nonmembers),
            "classes": dataset.num_classes,
            "image_shape": list(dataset.image_shape),
            "label_noise": config.data.label_noise,
        },
        "model": {
            "name": config.model.name,
            "width": config.model.width,
            "parameters": sum(array.size for array in parameters),
            "compute_dtype": config.model.compute_dtype,
            "convolution": setting.lowering,
        },
        "models": models,
        "tables": {},
        "environment": environment(),
    }


def attack(setting: Setting, logits: np.ndarray) -> dict[str, Any]:
    """The loss attack, forgotten against never-seen images: by threshold, and as the challenge kit does it."""
    config, labels = setting.config, setting.dataset.labels
    scores = np.asarray(loss_scores(logits, labels), np.float64)
    members, nonmembers = scores[setting.splits.forget], scores[setting.nonmembers]
    how = {
        "level": config.evaluation.interval_level,
        "samples": config.evaluation.bootstrap_samples,
        "seed": config.seed,
    }
    is_member = np.arange(len(members) + len(nonmembers)) < len(members)
    attacks = {
        "loss_threshold": evaluate_scores(
            np.concatenate([members, nonmembers]), is_member, fpr=config.evaluation.fpr, **how
        )
    }
    if min(len(members), len(nonmembers)) >= _SMALLEST_LOGISTIC_ATTACK:
        mine, theirs = balanced_indices(len(members), len(nonmembers), config.seed)
        splits = config.evaluation.attack_splits
        predictions = logistic_loss_attack(
            -members[mine], -nonmembers[theirs], splits=splits, seed=config.seed
        )
        attacks["loss_logistic"] = evaluate_shuffle_splits(predictions, level=how["level"])
    return attacks


def report_data(
    setting: Setting,
    results: dict[str, Any],
    logits: Mapping[str, np.ndarray],
    curves: list[dict[str, Any]],
) -> ReportData:
    """What the page shows beyond results.json."""
    dataset, forget = setting.dataset, setting.splits.forget
    scores = {name: np.asarray(loss_scores(output, dataset.labels)) for name, output in logits.items()}
    draw = np.random.default_rng([setting.config.seed, 24])
    gallery = draw.choice(forget, min(setting.config.evaluation.gallery_images, len(forget)), replace=False)
    return ReportData(
        results=results,
        config=to_dict(setting.config),
        curves=curves,
        member_scores={name: score[forget] for name, score in scores.items()},
        nonmember_scores={name: score[setting.nonmembers] for name, score in scores.items()},
        # Forgotten images are training images. A page shows gray or colour: of other channels, the first one or three.
        gallery_images=dataset.x_train[gallery][..., : 3 if dataset.image_shape[-1] >= 3 else 1],
        gallery_labels=[dataset.class_names[label] for label in dataset.labels[gallery]],
        gallery_confidence={
            name: np.asarray(confidence(output[gallery], dataset.labels[gallery]))
            for name, output in logits.items()
        },
    )


def environment() -> dict[str, str]:
    """What the figures were measured on."""
    found = versions()
    device = jax.local_devices()[0]
    return {
        "jax": found["jax"],
        "python": found["python"],
        "device": f"{jax.local_device_count()} × {device.platform} ({device.device_kind})",
        "git": git_revision(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
