"""A plan carried out in a run folder: from its newest checkpoint, with its lines in metrics.jsonl and on the screen."""

import pathlib

from mu_jax.experiments.progress import TrainingProgress
from mu_jax.experiments.run_folder import RunFolder
from mu_jax.experiments.setting import Trained
from mu_jax.training.checkpoints import Checkpoints
from mu_jax.training.loop import ChunkReport, TrainingRun
from mu_jax.unlearning.plan import Edit, Plan, Task, carry_out


def finished_checkpoints(workdir: pathlib.Path, model: str) -> Checkpoints:
    """Where the weights of a model lie that its training's last checkpoint does not hold.

    Its plan trained another network and made it of that one's weights, or it comes of an edit. They are `params` and
    `batch_stats` alone, without an optimizer's state.
    """
    return Checkpoints(workdir / "checkpoints" / model / "finished")


def carry_out_in(
    folder: RunFolder, plan: Plan | Edit, task: Task, chunk_steps: int, shown: TrainingProgress
) -> Trained:
    """Run a plan to its end, or what is left of it; its checkpoints and lines go by the plan's name.

    An edit, done already, is kept, and has neither lines nor seconds.
    """
    checkpoints = folder.checkpoints(plan.name)
    done = checkpoints.latest_step() or 0
    earlier = folder.cut_metrics(plan.name, done)
    spent = {"seconds": sum((line["seconds"] for line in earlier), 0.0), "compile": 0.0}

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
        chunk_steps=chunk_steps,
        checkpoints=checkpoints,
        on_start=on_start,
        on_chunk=on_chunk,
        on_compiled=on_compiled,
    )
    if isinstance(plan, Edit) or plan.finish is not None:
        finished_checkpoints(folder.path, plan.name).save(checkpoints.latest_step() or 0, outcome.variables)
    return Trained(outcome.variables, spent["seconds"], spent["compile"], outcome.trained_samples)
