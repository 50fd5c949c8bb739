"""What a person sees while shadow models train in groups: how many are done, how fast, and how long it still takes."""

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn

from mu_jax.evaluation.report.tables import duration
from mu_jax.experiments.progress import LiveProgress

# What a chunk weighs in the speed, of what the next one weighs.
_MEMORY = 0.8


class SweepProgress(LiveProgress):
    """Shows groups of models. The bar and the time left count images: models end only with their groups."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__(console)
        self._models = self._done = 0
        self._total = self._left = 0
        self._images = self._seconds = 0.0
        self._loss = float("nan")

    def _columns(self) -> tuple[ProgressColumn, ...]:
        return (
            TextColumn("{task.description}"),
            # Of its full width the figures would not fit in 80 columns.
            BarColumn(bar_width=12),
            TextColumn("{task.fields[detail]}"),
        )

    def start(self, models: int, done: int, images_left: int) -> None:
        """The sweep begins, or goes on with `done` of its models trained; `images_left` counts repeats."""
        self._models, self._done, self._last_line = models, done, 0.0
        self._images = self._seconds = 0.0
        self._left = images_left
        # A bar that goes on begins where it stood: the models already trained saw as many images each.
        self._total = max(round(images_left * models / max(models - done, 1)), 1)
        if done >= models:
            self.say(f"all {models:,} models are trained already")
        elif done:
            self.say(f"resumes with {done:,} of {models:,} models trained")
        if self._bar is not None:
            self._task = self._bar.add_task(
                self._count(),
                total=self._total,
                completed=self._total - images_left,
                detail="compiling" if images_left else "",
            )

    def compiled(self, seconds: float) -> None:
        """The program that trains a group is ready."""
        if self._bar is not None:
            self._bar.update(self._task, detail=f"compiled in {duration(seconds)}")
        elif seconds > 1:
            self.say(f"compiled in {duration(seconds)}")

    def update(self, group: int, models_done: int, images: int, seconds: float, loss: float) -> None:
        """A chunk of a group has ended: `images` of all its models together, in `seconds`; `loss` is their mean."""
        self._done, self._loss = models_done, loss
        self._left = max(self._left - images, 0)
        self._images = _MEMORY * self._images + images
        self._seconds = _MEMORY * self._seconds + seconds
        if self._bar is not None:
            self._show()
        elif self._line_is_due():
            self.say(f"{self._count()}  group {group}  {self._detail()}")

    def group_done(self, models_done: int) -> None:
        """A group has ended; `models_done` counts its models too."""
        self._done = models_done
        if self._bar is not None:
            self._show()
        elif self._line_is_due(always=True):
            self.say(f"{self._count()}  {self._detail()}".rstrip())

    def _show(self) -> None:
        completed = self._total - self._left
        self._bar.update(self._task, description=self._count(), completed=completed, detail=self._detail())

    def _count(self) -> str:
        return f"{self._done:,}/{self._models:,} models"

    def _detail(self) -> str:
        # Before the first chunk, or where all models of a group had been trained before, there is no speed.
        if not self._images or not self._seconds:
            return ""
        speed = self._images / self._seconds
        return f"loss {self._loss:.4f}  {speed:,.0f} images/s  {duration(self._left / speed)} left"
