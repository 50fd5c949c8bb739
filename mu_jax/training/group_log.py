"""What a group of models says of its training, chunk by chunk."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from mu_jax.training.loop import TrainingRun


@dataclasses.dataclass(frozen=True)
class GroupReport:
    """One chunk of steps of all models of a group."""

    step: int
    """taken by the run with the most steps"""
    steps: int
    """of that run"""
    epoch: float
    """of that run"""
    loss: float
    """Mean over the models with steps in this chunk that have not diverged, each the mean of its steps; NaN without
    any."""
    loss_low: float
    loss_high: float
    accuracy: float
    learning_rate: float
    """the last one of the run with the most steps"""
    images: int
    """shown to all models together"""
    seconds: float
    diverged: int
    """models so far"""


class GroupLog:
    """Reads each chunk's metrics when the next one is under way, and tells `on_chunk`."""

    def __init__(
        self,
        runs: Sequence[TrainingRun],
        order: np.ndarray,
        began: float,
        on_chunk: Callable[[GroupReport], None],
    ) -> None:
        """`order` is the slot of each run; `began` (of `time.perf_counter`) when the first chunk's time begins."""
        self._runs, self._order, self._began, self._on_chunk = runs, order, began, on_chunk
        self._longest = max(range(len(runs)), key=lambda run: runs[run].steps)
        self._failed = np.zeros(len(runs), bool)
        self._waiting: tuple | None = None
        self.loss = np.full(len(runs), np.nan)
        """float64[G], of each run, the mean over its last chunk"""

    def add(
        self, first: int, counts: np.ndarray, rates: np.ndarray, metrics: Mapping[str, jax.Array]
    ) -> None:
        """A chunk was handed to the devices; waits for the one before."""
        self.close()
        self._waiting = (first, counts[self._order], rates[self._order], metrics)

    def close(self) -> None:
        """Wait for the last chunk."""
        if self._waiting is None:
            return
        (first, counts, rates, metrics), self._waiting = self._waiting, None
        loss, accuracy, norm = (
            np.asarray(metrics[name], np.float64)[self._order]
            for name in ("loss", "accuracy", "gradient_norm")
        )
        now = time.perf_counter()
        taken = np.arange(loss.shape[1]) < counts[:, None]
        broken = ~(np.isfinite(loss) & np.isfinite(norm)) & taken
        # A model that diverged takes no more steps, in this chunk and those after.
        steps = np.where(self._failed, 0, np.where(broken.any(axis=1), broken.argmax(axis=1), counts))
        self._failed |= broken.any(axis=1)
        live = (counts > 0) & ~self._failed

        def means(values: np.ndarray) -> np.ndarray:
            return np.where(taken, values, 0.0)[live].sum(axis=1) / counts[live]

        losses, accuracies = means(loss), means(accuracy)
        self.loss[live] = losses
        run = self._runs[self._longest]
        step = first + int(counts[self._longest])
        self._on_chunk(
            GroupReport(
                step=step,
                steps=run.steps,
                epoch=step * run.optimization.batch_size / len(run.index),
                loss=float(losses.mean()) if live.any() else float("nan"),
                loss_low=float(losses.min(initial=np.inf)) if live.any() else float("nan"),
                loss_high=float(losses.max(initial=-np.inf)) if live.any() else float("nan"),
                accuracy=float(accuracies.mean()) if live.any() else float("nan"),
                learning_rate=float(rates[self._longest, max(counts[self._longest] - 1, 0)]),
                images=int(steps.sum()) * run.optimization.batch_size,
                seconds=now - self._began,
                diverged=int(self._failed.sum()),
            )
        )
        self._began = now
