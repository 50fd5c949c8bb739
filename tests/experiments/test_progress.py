import io

import pytest
from rich.console import Console

from mu_jax.experiments.progress import TrainingProgress
from mu_jax.training.loop import ChunkReport


def report(step, steps=200):
    return ChunkReport(
        step=step, steps=steps, epoch=1.0, loss=0.51234, accuracy=0.875, learning_rate=0.1, steps_done=100,
        seconds=4.0, images=6400,
    )  # fmt: skip


@pytest.fixture(name="file")
def file_fixture():
    return io.StringIO()


def test_without_a_terminal_there_are_plain_lines_with_loss_accuracy_rate_and_time_left(file):
    with TrainingProgress(Console(file=file, force_terminal=False, width=200)) as shown:
        shown.start("finetune", 200, 0)
        shown.update(report(100))
        shown.update(report(150))  # within five seconds of the last line: not worth another
        shown.update(report(200))
        shown.say("saved in runs/[red]x")
    lines = file.getvalue().splitlines()
    assert lines == [
        "finetune: step 100/200  loss 0.5123  accuracy  87.5%  1,600 images/s  4 s left",
        "finetune: step 200/200  loss 0.5123  accuracy  87.5%  1,600 images/s  0 s left",
        "saved in runs/[red]x",
    ]


def test_on_a_terminal_there_is_a_live_bar(file):
    with TrainingProgress(Console(file=file, force_terminal=True, width=120)) as shown:
        shown.start("finetune", 200, 50)
        shown.update(report(100))
    text = file.getvalue()
    assert "resumes at step 50 of 200" in text
    assert "100/200" in text
    assert "accuracy  87.5%" in text
    assert "1,600 images/s" in text
