"""The worker that fits SISA's shards with plain PyTorch: one after another, each slice after slice.

A variant is `{"do": "fit", "execution", "dtype", "channels_last", "device"}`, as `torch_sweep_worker` has them, in
float32; a step is one whole shard, from fresh weights until its last slice's state is on disk. `{"do": "learned", …}`
takes no step; its facts are what the models on disk have learned. A step of `{"do": "delete", "deletions", …}` is so
many deletions from a fitted ensemble, one after another: the example leaves its slice, and its shard is trained from
the state that the slice before has left.

As in ours the optimizer goes on from slice to slice, and what is saved after each is all that it goes on from: the
`state_dict`s of the network and of the optimizer. Which examples a slice sees, and for how many steps, is the case's.
"""

import itertools
import pathlib
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.sisa_case import SisaCase, learning_rates
from benchmarks.sweep_case import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails

_WARM_UP_STEPS = 3
_QUERY_BATCH = 128


def prepare(case: SisaCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the training of a shard; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    if variant["do"] == "learned":
        return Prepared(lambda count: 0.0, 0, facts=Shards(case, variant).learned())
    try:
        shards = (Deletions if variant["do"] == "delete" else Shards)(case, variant)
        shards.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    if variant["do"] == "delete":
        return Prepared(shards.delete, variant["deletions"], facts=variant, most=1, found=shards.found)
    return Prepared(shards.run, 1, facts=variant, most=case.shards, found=shards.found)


class Shards:
    """The shards of a case, one after another, again and again."""

    def __init__(self, case: SisaCase, variant: dict[str, Any]) -> None:
        self._case, self._variant, self._device = case, variant, variant["device"]
        self._layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
            positions, sizes, self._order = arrays["positions"], arrays["sizes"], iter(arrays["order"])
            classes = len(arrays["class_names"])
        ends = np.cumsum(sizes)
        parts = iter(np.split(positions, ends[:-1]))
        self._slices = [list(itertools.islice(parts, case.slices)) for _ in range(case.shards)]
        self.steps = [case.steps(row.tolist()) for row in sizes]
        """of each slice of each shard"""
        # Normalised once, not in each step: nothing is random about the images.
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        self._images = pixels.contiguous(memory_format=self._layout).to(self._device)
        self._labels = torch.from_numpy(labels).long().to(self._device)
        # One network is kept, and its weights drawn anew for each shard, so that nothing is compiled twice.
        self._network = ResNet18(case.width, classes, channels=images.shape[3])
        self._network.to(self._device, memory_format=self._layout)
        self._loss_of = _loss
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            mode = "reduce-overhead" if variant["execution"] == "graphs" else "default"
            self._loss_of = torch.compile(_loss, mode=mode)
        form = f"{'delete_' if variant['do'] == 'delete' else ''}{variant['execution']}_{variant['channels_last']}"
        self.folder = pathlib.Path(case.file).parent / f"torch_{form}"
        self.folder.mkdir(exist_ok=True)
        self._next = itertools.cycle(range(case.shards))
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """A few steps."""
        optimizer = self._fresh(0)
        self._train(optimizer, np.concatenate(self._slices[0]), _WARM_UP_STEPS)

    def run(self, count: int) -> float:
        """The next so many shards; the mean of their last losses. Unavailable where one diverges."""
        shards = list(itertools.islice(self._next, count))
        fitted = {shard: self._fit(shard) for shard in shards}
        losses = [loss for loss, _ in fitted.values()]
        if not np.isfinite(losses).all():
            raise Unavailable(f"{np.count_nonzero(~np.isfinite(losses))} of {count} shards diverged")
        self.found.update(
            models_a_round=count, steps_of_shards={str(shard): steps for shard, (_, steps) in fitted.items()}
        )
        return float(np.mean(losses))

    @torch.inference_mode()
    def learned(self) -> dict[str, float]:
        """The accuracy of the shards' models on disk on their own shard's images, and on those they never saw."""
        network, right, member = self._network.eval(), [], []
        for shard, slices in enumerate(self._slices):
            path = self._path(shard, self._case.slices - 1)
            if not path.exists():
                continue
            network.load_state_dict(torch.load(path, weights_only=True)["network"])
            logits = torch.cat([network(block) for block in self._images.split(_QUERY_BATCH)])
            right.append((logits.argmax(-1) == self._labels).cpu().numpy())
            member.append(np.isin(np.arange(len(self._labels)), np.concatenate(slices)))
        right, member = np.array(right), np.array(member)
        return {
            "member_accuracy": float(right[member].mean()),
            "nonmember_accuracy": float(right[~member].mean()),
        }

    def _fresh(self, shard: int) -> torch.optim.Optimizer:
        torch.manual_seed(shard)
        self._network.train().reset_parameters()
        return torch.optim.SGD(
            self._network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )

    def _fit(self, shard: int, first: int = 0) -> tuple[float, int]:
        """One shard from a slice on: the last loss, and the steps that were taken."""
        optimizer, last, taken = self._fresh(shard), torch.tensor(0.0), 0
        if first > 0:
            state = torch.load(self._path(shard, first - 1), weights_only=True)
            self._network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])
        for slice_, steps in list(enumerate(self.steps[shard]))[first:]:
            if steps:
                seen = np.concatenate(self._slices[shard][: slice_ + 1])
                last = self._train(optimizer, seen, steps)
                taken += steps
            state = {"network": self._network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, self._path(shard, slice_))
        return last.item(), taken

    def _train(self, optimizer: torch.optim.Optimizer, seen: np.ndarray, steps: int) -> Tensor:
        """So many steps on these examples; the last loss, on the device."""
        for rows, rate in zip(self._batches(seen, steps), learning_rates(steps), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = self._loss_of(self._network, self._images[rows], self._labels[rows])
            loss.backward()
            optimizer.step()
        return loss.detach().clone()

    def _batches(self, seen: np.ndarray, steps: int) -> Tensor:
        """Rows of the data [steps,batch]: epochs in a new order each, in one stream that is cut into full batches."""
        size, members = self._case.batch, torch.from_numpy(seen)
        epochs = -(-steps * size // len(members))
        stream = torch.cat([members[torch.randperm(len(members))] for _ in range(epochs)])
        return stream[: steps * size].view(steps, size).to(self._device)

    def _path(self, shard: int, slice_: int) -> pathlib.Path:
        return self.folder / f"shard_{shard:04d}_slice_{slice_:04d}.pt"


class Deletions(Shards):
    """A fitted ensemble, from which examples are deleted one after another."""

    def warm_up(self) -> None:
        """A few steps, and the ensemble."""
        super().warm_up()
        self.run(self._case.shards)
        self.found.clear()
        self.found.update(seconds=[], examples_retrained=[])

    def delete(self, count: int) -> float:
        """So many blocks of deletions; `found` has all so far, each with its time on the wall. The last loss."""
        for _ in range(count * self._variant["deletions"]):
            position, began = next(self._order), time.perf_counter()
            last, taken = self._fit(*self._remove(position))
            self.found["seconds"].append(round(time.perf_counter() - began, 4))
            # As ours counts them: an example in training for e₀ epochs.
            self.found["examples_retrained"].append(round(taken * self._case.batch / self._case.epochs, 3))
        return last

    def _remove(self, position: int) -> tuple[int, int]:
        """Takes an example out of its slice; the shard and the slice."""
        for shard, slices in enumerate(self._slices):
            for slice_, positions in enumerate(slices):
                if position in positions:
                    slices[slice_] = positions[positions != position]
                    self.steps[shard] = self._case.steps([len(part) for part in slices])
                    return shard, slice_
        raise ValueError(f"Position {position} is in no slice.")


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(SisaCase, describe, prepare, device_peak_bytes)
