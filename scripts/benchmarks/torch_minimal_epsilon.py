"""AMUN's search for the smallest ε in plain PyTorch: rounds of ℓ2 PGD, ε doubled after each, until the label flips.

Algorithm 1 of Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, 2025; as in its code a round goes on from the last
iterate, and the label is tested before each step.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]
"""of pixels in [0, 1]; normalisation is inside"""


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """φ = z_y − logsumexp over j≠y of z_j, [B]: its gradient has the direction of cross-entropy's.

    That of cross-entropy itself vanishes in float32 where the network is sure, and ours attacks φ for that reason.
    """
    true = labels[:, None]
    return (logits.gather(-1, true) - logits.scatter(-1, true, -torch.inf).logsumexp(-1, keepdim=True))[:, 0]


class Search:
    """N images under attack; what was found for each so far.

    Examples leave the batch as they flip, and after each round those that are left make full batches again.
    """

    def __init__(
        self,
        logits_of: Logits,
        images: Tensor,
        labels: Tensor,
        *,
        steps: int,
        step_ratio: float,
        batch: int,
        quantize: bool = False,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._logits_of, self._layout = logits_of, layout
        self._steps, self._step_ratio, self._batch, self._quantize = steps, step_ratio, batch, quantize
        self._origin, self._labels = images, labels
        number, device = len(labels), images.device
        self.images = images.clone(memory_format=layout)
        """where each example is, or at which iterate it flipped"""
        self.epsilon = torch.zeros(number, device=device)
        """at which it flipped, 0 where it needed no step; the last one tried where it did not flip"""
        self.predicted = torch.zeros(number, dtype=torch.long, device=device)
        self.steps = torch.zeros(number, dtype=torch.long, device=device)
        self.flipped = torch.zeros(number, dtype=torch.bool, device=device)

    def run(self, epsilon: float, max_epsilon: float) -> None:
        """From the first ε, doubled while it stays within the largest one."""
        left = torch.arange(len(self._labels), device=self._labels.device)
        before = 0.0
        # The factor: the largest may be a doubled ε that was rounded on its way here.
        while len(left) and epsilon <= max_epsilon * (1 + 1e-6):
            left = torch.cat([self._round(rows, epsilon, before) for rows in left.split(self._batch)])
            before, epsilon = epsilon, 2 * epsilon
        for rows in left.split(self._batch):
            with torch.no_grad():
                predicted = self._logits_of(self._seen(self._take(self.images, rows))).argmax(-1)
            self.flipped[rows] = predicted != self._labels[rows]
            self.predicted[rows], self.epsilon[rows] = predicted, before
        if self._quantize:
            self.images = _to_grid(self.images)

    @property
    def distance(self) -> Tensor:
        """‖x_adv − x‖₂, [N]."""
        return (self.images - self._origin).flatten(1).norm(dim=1)

    def _round(self, rows: Tensor, epsilon: float, before: float) -> Tensor:
        """A round of a batch; the rows that have not flipped."""
        origin, labels = self._take(self._origin, rows), self._labels[rows]
        images = self._take(self.images, rows)
        for step in range(self._steps):
            seen = self._seen(images).requires_grad_(True)
            logits = self._logits_of(seen)
            (gradient,) = torch.autograd.grad(log_odds(logits, labels).sum(), seen)
            with torch.no_grad():
                predicted = logits.argmax(-1)
                left = predicted == labels
                if not left.all():
                    gone = ~left
                    done = rows[gone]
                    self.flipped[done] = True
                    self.images[done], self.predicted[done] = images[gone], predicted[gone]
                    # What flips before the first step of a round had its last step in the round before.
                    self.epsilon[done] = epsilon if step else before
                    rows, labels = rows[left], labels[left]
                    if len(rows) == 0:
                        return rows
                    images, origin, gradient = (
                        self._take(value, left) for value in (images, origin, gradient)
                    )
                direction = gradient / _length(gradient).clamp_min(1e-30)
                delta = images - self._step_ratio * epsilon * direction - origin
                delta *= (epsilon / _length(delta).clamp_min(1e-30)).clamp_max(1.0)
                images = (origin + delta).clamp_(0.0, 1.0)
                self.steps[rows] += 1
        self.images[rows] = images
        return rows

    def _seen(self, images: Tensor) -> Tensor:
        return _to_grid(images) if self._quantize else images.detach()

    def _take(self, images: Tensor, rows: Tensor) -> Tensor:
        return images[rows].contiguous(memory_format=self._layout)


def first_epsilon(tried: Search, smallest: float, share: float = 0.05) -> float:
    """By which `share` of a probe's examples have flipped, as `mu_jax.adversarial.minimal_epsilon` has it."""
    attacked = ~(tried.flipped & (tried.steps == 0))
    found = tried.epsilon[attacked & tried.flipped].sort().values
    if len(found) == 0:
        return smallest
    return float(found[min(math.ceil(share * int(attacked.sum())), len(found)) - 1])


def _length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)[:, None, None, None]


def _to_grid(images: Tensor) -> Tensor:
    return (images * 255).round() / 255
