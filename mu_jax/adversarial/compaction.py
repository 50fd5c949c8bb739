"""Keeping the compiled batch full: finished examples leave, waiting ones take their slots, on the host.

On the devices a finished example costs nothing as it is (`sharing`), unless there is one block a device. There a chunk
ends once an eighth of the slots is free, and the last few examples go on in an eighth of the slots.
"""

import numpy as np
from jaxtyping import Int32, Shaped

from mu_jax.adversarial.attack import BROKEN, FLIPPED, KEPT, WORKING, Slots
from mu_jax.adversarial.pixels import LEVELS, to_pixels
from mu_jax.adversarial.sharing import all_devices, dealt, device_of, in_small_blocks
from mu_jax.config import InputError

DEALING_STEPS = 10
"""Steps between two dealings on CPUs: devices whose examples finish earlier than those of others wait no longer."""

_FIELDS = ("origin", "images", "labels", "epsilon", "step", "total", "status", "predicted")


class Batch:
    """The slots, which examples are in them, and what has been found so far."""

    def __init__(
        self,
        images: Shaped[np.ndarray, "N H W D"],
        labels: Int32[np.ndarray, "N"],
        epsilon: np.float32,
        size: int,
        norm: str,
        quantize: bool,
    ) -> None:
        self.images, self.labels, self.epsilon, self.norm = images, labels, epsilon, norm
        self.quantize = quantize
        self.small = 0 if in_small_blocks() else max(1, size // 8)
        """slots of the batch in which the last few go on; 0: there is none, because they cost no more in a large one"""
        self.next = self.finished = 0
        number = len(images)
        scalars = {"predicted": np.int32, "epsilon": np.float32, "distance": np.float32}
        scalars |= {"steps": np.int32, "status": np.int32}
        self.found = {name: np.zeros(number, dtype) for name, dtype in scalars.items()}
        self.found["images"] = np.empty(images.shape, np.float32)
        size = size if number > self.small else self.small
        self.rows = np.full(size, -1)
        picture = np.zeros((size, *images.shape[1:]), np.float32)
        none = np.zeros(size, np.int32)
        self.slots = Slots(
            origin=picture,
            images=picture.copy(),
            labels=none,
            epsilon=np.ones(size, np.float32),
            step=none.copy(),
            total=none.copy(),
            status=np.full(size, KEPT, np.int32),
            predicted=none.copy(),
        )

    def fill(self) -> bool:
        """Put waiting examples into free slots, or the last few into a smaller batch; False when all is done."""
        places = dealt(len(self.rows))
        free = places[self.rows[places] < 0][: len(self.images) - self.next]
        rows = np.arange(self.next, self.next + len(free))
        self.next += len(free)
        if len(free):
            slots = self.slots
            self.rows[free] = rows
            pixels = to_pixels(self.images[rows])
            slots.origin[free] = slots.images[free] = pixels
            slots.labels[free] = self.labels[rows]
            slots.epsilon[free] = self.epsilon
            slots.step[free] = slots.total[free] = slots.predicted[free] = 0
            slots.status[free] = WORKING
        at_work, inert = np.flatnonzero(self.rows >= 0), np.flatnonzero(self.rows < 0)
        if self.next == len(self.images) and 0 < len(at_work) <= self.small < len(self.rows):
            # Inert companions fill it up: they are finished, and nobody asks for them.
            self._deal(np.concatenate([at_work, inert])[: self.small])
        elif np.ptp(np.bincount(device_of(at_work, len(self.rows)), minlength=all_devices().size)) > 1:
            self._deal(np.concatenate([at_work, inert]))
        return len(at_work) > 0

    def _deal(self, kept: np.ndarray) -> None:
        """The slots named, and no others, anew in the order in which slots are given out."""
        order = np.empty_like(kept)
        order[dealt(len(kept))] = kept
        self.rows = self.rows[order]
        self.slots = Slots(**{name: getattr(self.slots, name)[order] for name in _FIELDS})

    def steps(self, chunk_steps: int) -> np.int32:
        """So many make a chunk, at most."""
        return np.int32(chunk_steps if self.small else min(chunk_steps, DEALING_STEPS))

    def least(self) -> np.int32:
        """So many must be at work, or the chunk ends: an eighth of the slots is worth refilling."""
        size = len(self.rows)
        if not self.small:
            return np.int32(1)
        if self.next < len(self.images):
            return np.int32(size - size // 8)
        return np.int32(self.small + 1 if size > self.small else 1)

    def take(self, slots: Slots) -> None:
        """Keep what the finished examples found, and free their slots."""
        # Copies: a view of a device's array on a CPU is not ours to write.
        self.slots = slots = Slots(**{name: np.array(getattr(slots, name)) for name in _FIELDS})
        done = np.flatnonzero((self.rows >= 0) & (slots.status != WORKING))
        rows = self.rows[done]
        if np.any(slots.status[done] == BROKEN):
            raise InputError(
                f"The model's logits for image {rows[slots.status[done] == BROKEN][0]} are not finite, so it has no "
                "label to leave; use a model whose training did not diverge."
            )
        images = slots.images[done]
        if self.quantize:
            images = np.round(images * np.float32(LEVELS)) / np.float32(LEVELS)
        delta = np.abs(images - slots.origin[done]).reshape(len(done), int(np.prod(images.shape[1:])))
        found = self.found
        found["images"][rows] = images
        found["predicted"][rows] = slots.predicted[done]
        found["steps"][rows] = slots.total[done]
        found["status"][rows] = slots.status[done]
        untouched = (slots.status[done] == FLIPPED) & (slots.total[done] == 0)
        found["epsilon"][rows] = np.where(untouched, 0, slots.epsilon[done])
        length = np.linalg.norm(delta, axis=1) if self.norm == "l2" else delta.max(axis=1, initial=0)
        found["distance"][rows] = length
        self.rows[done] = -1
        self.finished += len(done)
