"""The worker that sweeps with plain PyTorch: one whole model after another, each trained and then queried.

A variant is `{"execution", "dtype", "channels_last", "device"}`. Executions: `eager`; `compiled` (torch.compile of the
loss and of the query); `graphs` (the loss in CUDA graphs besides). bfloat16 is autocast, and queries are float32. One
network is kept, and its weights drawn anew for each model, so that nothing is compiled or captured twice.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.sweep_case import LEARNING_RATE, MEAN, MOMENTUM, STD, WEIGHT_DECAY, SweepCase
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails

_WARM_UP_STEPS = 3
# Images in one forward pass of a query, at most. At 32×32 on 2 CPU cores, eager: 2,156 images/s by 125, 1,371 by 500;
# at 8×8: 25,715 and 38,940.
_QUERY_BATCH = {"cpu": {"digits": 500, "cifar": 128}, "cuda": {"digits": 1024, "cifar": 512}}


def prepare(case: SweepCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the training of one model and its query; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    try:
        sweep = Sweep(case, variant)
        sweep.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    return Prepared(sweep.run, 1, facts=variant, most=case.models, found=sweep.found)


class Sweep:
    """Models of a case, one after another; the latest signals are `signals`, [models,N,A] each."""

    def __init__(self, case: SweepCase, variant: dict[str, Any]) -> None:
        self._case, self._device = case, variant["device"]
        layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images = np.concatenate([arrays["x_train"], arrays["x_test"]])
            labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
            self._member, classes = arrays["member"], len(arrays["class_names"])
        # Normalised once, not in each step: nothing is random about the images.
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        self._images = pixels.contiguous(memory_format=layout).to(self._device)
        self._labels = torch.from_numpy(labels).long().to(self._device)
        self._blocks = list(self._query_blocks())
        self._network = ResNet18(case.width, classes, channels=images.shape[3])
        self._network.to(self._device, memory_format=layout)
        dtype = torch.bfloat16 if variant["dtype"] == "bfloat16" else None
        self._loss_of = functools.partial(_loss, autocast=dtype)
        self._signals_of = _queried
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            mode = "reduce-overhead" if variant["execution"] == "graphs" else "default"
            self._loss_of = torch.compile(self._loss_of, mode=mode)
            self._signals_of = torch.compile(_queried)
        self._next = itertools.cycle(range(case.models))
        self.signals: dict[str, np.ndarray] = {}
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """A few steps and a query."""
        self._train(0, _WARM_UP_STEPS)
        self._query()

    def run(self, count: int) -> float:
        """The next so many models of the sweep; the mean of their last losses. Unavailable where one diverges."""
        models = list(itertools.islice(self._next, count))
        losses, signals = [], []
        for model in models:
            losses.append(self._train(model))
            signals.append(self._query())
        if not np.isfinite(losses).all():
            raise Unavailable(f"{np.count_nonzero(~np.isfinite(losses))} of {count} models diverged")
        self.signals = {name: np.stack([one[name] for one in signals]) for name in signals[0]}
        right, inside = self.signals["correct"][:, :, 0], self._member[models]
        self.found.update(
            models_a_round=count,
            member_accuracy=float(right[inside].mean()),
            nonmember_accuracy=float(right[~inside].mean()),
        )
        return float(np.mean(losses))

    def _train(self, model: int, most_steps: int | None = None) -> float:
        """Trains a model of fresh weights; its last loss."""
        torch.manual_seed(model)
        network = self._network.train()
        network.reset_parameters()
        optimizer = torch.optim.SGD(
            network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )
        members = torch.from_numpy(np.flatnonzero(self._member[model]))
        rates = self._case.learning_rates(len(members))[:most_steps]
        for rows, rate in zip(self._batches(members, len(rates)), rates, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            loss = self._loss_of(network, self._images[rows], self._labels[rows])
            loss.backward()
            optimizer.step()
        return loss.item()

    def _batches(self, members: Tensor, steps: int) -> Tensor:
        """Rows of the data [steps,batch]: epochs in a new order each, in one stream that is cut into full batches."""
        size = self._case.batch
        epochs = -(-steps * size // len(members))
        stream = torch.cat([members[torch.randperm(len(members))] for _ in range(epochs)])
        return stream[: steps * size].view(steps, size).to(self._device)

    def _query_blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All images as they are, and then mirrored, with their labels.

        Blocks have one size, so that torch.compile sees one shape; the last one is filled up.
        """
        number = len(self._labels)
        size = -(-number // -(-number // _QUERY_BATCH[self._device][self._case.data]))
        rows = torch.arange(-(-number // size) * size, device=self._device) % number
        for images in (self._images, self._images.flip(3)):
            for block in rows.split(size):
                yield images[block], self._labels[block]

    def _query(self) -> dict[str, np.ndarray]:
        """The signals of the network as it is, [N,A] each, on the host."""
        network = self._network.eval()
        trained_with, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        with torch.inference_mode():
            blocks = [self._signals_of(network, images, labels) for images, labels in self._blocks]
            # One transfer a signal waits for the device once.
            joined = [torch.cat(signal).cpu().numpy() for signal in zip(*blocks, strict=True)]
        torch.backends.cudnn.allow_tf32 = trained_with
        views = [signal.reshape(2, -1)[:, : len(self._labels)].T for signal in joined]
        return dict(zip(("phi", "probability", "correct"), views, strict=True))


def signals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(φ, the true class's probability, whether it is the largest), [B] each, of float32 logits [B,C].

    φ = z_y − logsumexp over j≠y of z_j, as `mu_jax.attacks.signals.logit_margin` has it.
    """
    z = logits - logits.amax(-1, keepdim=True)
    true = labels[:, None]
    phi = (z.gather(-1, true) - z.scatter(-1, true, -torch.inf).logsumexp(-1, keepdim=True))[:, 0]
    return phi, phi.sigmoid(), logits.argmax(-1) == labels


def _loss(network: nn.Module, images: Tensor, labels: Tensor, *, autocast: torch.dtype | None) -> Tensor:
    with torch.autocast(images.device.type, autocast, enabled=autocast is not None):
        logits = network(images)
    return F.cross_entropy(logits.float(), labels)


def _queried(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return signals(network(images), labels)


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(SweepCase, describe, prepare, device_peak_bytes)
