import io
import re

import pytest
from rich.console import Console

from mu_jax.experiments.sweep_progress import SweepProgress


@pytest.fixture(name="file")
def file_fixture():
    return io.StringIO()


def lines_of(file, width=200):
    return SweepProgress(Console(file=file, force_terminal=False, width=width))


def bar_of(file, width=80):
    return SweepProgress(Console(file=file, force_terminal=True, color_system=None, width=width))


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_without_a_terminal_there_are_plain_lines_and_one_at_the_end_of_each_group(file):
    with lines_of(file) as shown:
        shown.start(64, 0, 1_000_000)
        shown.compiled(12.3)
        shown.update(0, 0, 50_000, 5.0, 0.51234)
        shown.update(0, 0, 50_000, 5.0, 0.4)  # within five seconds of the last line: not worth another
        shown.group_done(16)
        shown.say("saved in runs/[red]x")
    assert file.getvalue().splitlines() == [
        "compiled in 12 s",
        "0/64 models  group 0  loss 0.5123  10,000 images/s  95 s left",
        "16/64 models  loss 0.4000  10,000 images/s  90 s left",
        "saved in runs/[red]x",
    ]


def test_a_line_at_most_every_five_seconds(file, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("mu_jax.experiments.progress.time.monotonic", lambda: now[0])
    with lines_of(file) as shown:
        shown.start(64, 0, 1_000_000)
        for _ in range(12):
            shown.update(0, 0, 1000, 1.0, 0.5)
            now[0] += 1.0
    assert len(file.getvalue().splitlines()) == 2


def test_the_time_left_follows_the_latest_speed_smoothly(file):
    with lines_of(file) as shown:
        shown.start(64, 0, 1_000_000)
        shown.update(0, 0, 10_000, 1.0, 0.5)
        shown.update(0, 0, 10_000, 2.0, 0.5)
        shown.group_done(16)
        for _ in range(60):
            shown.update(1, 16, 10_000, 2.0, 0.5)
        shown.group_done(32)
    middle, last = file.getvalue().splitlines()[1:]
    assert "6,429 images/s" in middle  # (0.8 + 1) · 10,000 / (0.8 · 1 + 2)
    assert last == "32/64 models  loss 0.5000  5,000 images/s  76 s left"


def test_resumed_and_finished_sweeps_say_so(file):
    with lines_of(file) as shown:
        shown.start(1024, 512, 1_000)
        shown.group_done(1024)
        shown.start(64, 64, 0)
        shown.compiled(0.2)
    assert file.getvalue().splitlines() == [
        "resumes with 512 of 1,024 models trained",
        "1,024/1,024 models",
        "all 64 models are trained already",
    ]


def test_on_a_terminal_there_is_a_live_bar_that_fits_80_columns(file):
    with bar_of(file) as shown:
        shown.start(10_000, 2_500, 7_500_000)
        assert (shown._bar.tasks[0].completed, shown._bar.tasks[0].total) == (2_500_000, 10_000_000)
        shown.compiled(3.0)
        shown.update(3, 2_500, 1_250_000, 10.0, 0.1234)
        shown.group_done(3_750)
        assert shown._bar.tasks[0].percentage == pytest.approx(37.5)
    text = plain(file.getvalue())
    assert "resumes with 2,500 of 10,000 models trained" in text
    last = text.splitlines()[-1].split("\r")[-1]
    assert last.startswith("3,750/10,000 models ") and len(last) <= 80
    assert last.rstrip().endswith("loss 0.1234  125,000 images/s  50 s left")


def test_a_bar_ends_full_when_the_images_do(file):
    with bar_of(file) as shown:
        shown.start(4, 0, 100)
        shown.update(0, 0, 120, 1.0, 0.1)
        shown.group_done(4)
        assert shown._bar.tasks[0].finished
        shown.start(4, 4, 0)
        assert (
            shown._bar.tasks[1].percentage == 100 and "compiling" not in shown._bar.tasks[1].fields["detail"]
        )
