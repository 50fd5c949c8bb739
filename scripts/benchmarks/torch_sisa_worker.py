"""The worker that fits SISA's shards with plain PyTorch: one after another, each slice after slice.

A variant is `{"do": "fit", "execution", "dtype", "channels_last", "device"}`, as `torch_sweep_worker` has them, in
float32; a step is one whole shard, from fresh weights until its last slice's state is on disk. `{"do": "learned", …}`
takes no step; its facts are what the models on disk have learned.

As in ours the optimizer goes on from slice to slice, and what is saved after each is all that it goes on from: the
`state_dict`s of the network and of the optimizer. Which examples a slice sees, and for how many steps, is the case's.
"""

import itertools
import pathlib
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
        shards = Shards(case, variant)
        shards.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    return Prepared(shards.run, 1, facts=variant, most=case.shards, found=shards.found)


class Shards:
    """The shards of a case, one after another, again and again."""

    def __init__(self, case: SisaCase, variant: dict[str, Any]) -> None:
        self._case, self._device = case, variant["device"]
        self._layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
            positions, sizes = arrays["positions"], arrays["sizes"]
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
        form = f"{variant['execution']}_{variant['channels_last']}"
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

    def _fit(self, shard: int) -> tuple[float, int]:
        """One shard: the last loss, and the steps that were taken."""
        optimizer, last, taken = self._fresh(shard), torch.tensor(0.0), 0
        for slice_, steps in enumerate(self.steps[shard]):
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


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(SisaCase, describe, prepare, device_peak_bytes)
