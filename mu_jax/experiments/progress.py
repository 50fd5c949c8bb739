"""What a person sees while models train: a live bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from mu_jax.training.loop import ChunkReport

# `typing.Self` in a method is refused by the type checker that tests run under.
_Kind = TypeVar("_Kind", bound="LiveProgress")


class LiveProgress:
    """The bar and the lines that all kinds of progress share; use it in a `with` block.

    A kind names its bar's columns, and writes lines where `self._bar` is None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None
        self._task = None
        self._last_line = 0.0

    def __enter__(self: _Kind) -> _Kind:
        if self._console.is_terminal:
            self._bar = Progress(*self._columns(), console=self._console)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, message: str) -> None:
        """One line that stays."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _columns(self) -> tuple[ProgressColumn, ...]:
        raise NotImplementedError

    def _line_is_due(self, always: bool = False) -> bool:
        """Whether to write a line now; logs are for reading, so at most one every five seconds."""
        now = time.monotonic()
        if not always and now - self._last_line <= 5:
            return False
        self._last_line = now
        return True


class TrainingProgress(LiveProgress):
    """Shows one model after another."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._name = ""

    def _columns(self) -> tuple[ProgressColumn, ...]:
        return (
            TextColumn("{task.description:<14}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
        )

    def start(self, name: str, steps: int, done: int) -> None:
        """A model begins, or goes on from step `done`."""
        self._name, self._last_line = name, 0.0
        if done >= steps:
            self.say(f"{name}: already trained, read from its checkpoint")
        elif done:
            self.say(f"{name}: resumes at step {done} of {steps}")
        if self._bar is not None:
            self._task = self._bar.add_task(name, total=steps, completed=done, detail="compiling")

    def compiled(self, seconds: float) -> None:
        """The model's program is ready."""
        if self._bar is None and seconds > 1:
            self.say(f"{self._name}: compiled in {seconds:.0f} s")

    def update(self, report: ChunkReport) -> None:
        """A chunk has ended."""
        rate = report.images / max(report.seconds, 1e-9)
        detail = f"loss {report.loss:.4f}  accuracy {100 * report.accuracy:5.1f}%  {rate:,.0f} images/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=report.step, detail=detail)
            return
        if self._line_is_due(always=report.step == report.steps):
            left = (report.steps - report.step) * report.seconds / max(report.steps_done, 1)
            self.say(f"{self._name}: step {report.step}/{report.steps}  {detail}  {left:.0f} s left")
