"""The worker that unlearns with plain PyTorch: fine-tuning, AMUN, and retraining.

A variant is `{"do": "retrain" or "unlearn", "execution", "channels_last", "device"}`, as `torch_training_worker` has
the executions `eager`, `compiled` and `graphs`, in float32. Steps and what they found are as in
`jax_unlearning_worker`. Images stay on the device as bytes, and a batch is cropped, mirrored and normalised there at
once, which is faster than torchvision's transforms in a loader of one image after another. The adversarial search is
eager whatever the execution, because its batches shrink.
"""

import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.adversarial_case import MEAN, STD, largest_epsilon
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_adversarial_worker import PixelNetwork, load_network
from benchmarks.torch_minimal_epsilon import Search, first_epsilon
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails
from benchmarks.unlearning_case import UnlearningCase

_WARM_UP_STEPS = 3
_SMALLEST_EPSILON, _PROBE = 0.01, 100


def prepare(case: UnlearningCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the method; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    try:
        unlearning = Unlearning(case, variant)
        unlearning.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    facts = dict(variant)
    if variant["do"] == "retrain":
        size = case.optimization["batch_size"]
        facts["retrain_images"] = case.steps(len(unlearning.retain)) * size
        return Prepared(unlearning.train_steps, size, facts=facts, found=unlearning.found)
    return Prepared(unlearning.run, 1, facts=facts, most=1, found=unlearning.found)


class Unlearning:
    """A method, as often as asked for, from the same trained model."""

    def __init__(self, case: UnlearningCase, variant: dict[str, Any]) -> None:
        self._case, self._device = case, variant["device"]
        self._layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images, labels = arrays["x_train"], arrays["y_train"]
            self._classes = len(arrays["class_names"])
        forget = np.load(case.forget, allow_pickle=False)
        self.retain = torch.from_numpy(np.setdiff1d(np.arange(len(labels)), forget)).to(self._device)
        self._forget = torch.from_numpy(forget).to(self._device)
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(self._device)
        self._labels = torch.from_numpy(labels).long().to(self._device)
        # One network is kept, and its weights set anew for each run, so that nothing is compiled twice.
        self._network = ResNet18(case.width, self._classes, channels=images.shape[3])
        self._network.to(self._device, memory_format=self._layout)
        self._loss_of = _loss
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            mode = "reduce-overhead" if variant["execution"] == "graphs" else "default"
            self._loss_of = torch.compile(_loss, mode=mode)
        names = ("adversarial_seconds", "plan_seconds", "training_seconds", "images")
        self.found: dict[str, Any] = {name: [] for name in names}
        if case.method == "retrain":
            self.found = {"images_per_second": []}
        self._retraining: torch.optim.Optimizer | None = None

    def warm_up(self) -> None:
        """A few steps, and a few of the attack."""
        self._start_from_the_original()
        self._train(self._images, self._labels, self._all(), self.retain, _WARM_UP_STEPS, self._optimizer())
        if self._case.method == "amun":
            size = self._case.neighbours["batch_size"]
            rows = self._forget[torch.arange(size, device=self._device) % len(self._forget)]
            self._search(rows, 2).run(_SMALLEST_EPSILON, _SMALLEST_EPSILON)

    def train_steps(self, count: int) -> float:
        """So many steps of one retraining, which goes on from call to call; the last loss."""
        if self._retraining is None:
            torch.manual_seed(0)
            self._network.reset_parameters()
            self._retraining = self._optimizer()
        began = time.perf_counter()
        loss, _ = self._train(self._images, self._labels, self._all(), self.retain, count, self._retraining)
        images = count * self._case.optimization["batch_size"]
        self.found["images_per_second"].append(round(images / (time.perf_counter() - began), 2))
        return loss

    def run(self, count: int) -> float:
        """So many times the whole method; the last loss."""
        for _ in range(count):
            began = time.perf_counter()
            self._start_from_the_original()
            images, labels, rows = self._images, self._labels, self.retain
            searched = 0.0
            if self._case.method == "amun":
                adversarial, predicted = self._neighbours()
                self._wait()
                searched = time.perf_counter() - began
                images, labels = torch.cat([images, adversarial]), torch.cat([labels, predicted])
                rows = torch.arange(len(images), device=self._device)
                self.found["neighbours"] = len(adversarial)
            # Neighbours are neither cropped nor mirrored, whatever the others are.
            augmented = torch.arange(len(images), device=self._device) < len(self._images)
            steps, between = self._case.steps(len(rows)), time.perf_counter()
            loss, accuracy = self._train(images, labels, augmented, rows, steps, self._optimizer())
            seconds = time.perf_counter() - between
            for name, value in (
                ("adversarial_seconds", searched),
                ("plan_seconds", between - began - searched),
                ("training_seconds", seconds),
                ("images", steps * self._case.optimization["batch_size"]),
            ):
                self.found[name].append(round(value, 4))
            self.found["last_accuracy"] = round(accuracy, 4)
        return loss

    def _start_from_the_original(self) -> None:
        channels = self._images.shape[1]
        original = load_network(self._case.weights, self._case.width, self._classes, channels)
        self._network.load_state_dict(original.state_dict())

    def _neighbours(self) -> tuple[Tensor, Tensor]:
        """Images uint8[M,D,H,W] and the original's labels of them; the first ε is found by a probe, as ours is."""
        settings = self._case.neighbours
        if settings["attack"] != "pgd" or settings["norm"] != "l2" or settings["epsilon"]:
            raise ValueError(f"The neighbours' settings are {settings}, but expected the search in l2.")
        largest = settings["max_epsilon"] or largest_epsilon(tuple(self._images.shape[1:]))
        # The examples that ours draws: another first ε would be other work.
        number = len(self._forget)
        drawn = np.random.default_rng(0).choice(number, min(_PROBE, number), replace=False)
        tried = self._search(self._forget[torch.from_numpy(drawn).to(self._device)], settings["steps"])
        tried.run(_SMALLEST_EPSILON, largest)
        search = self._search(self._forget, settings["steps"])
        search.run(first_epsilon(tried, _SMALLEST_EPSILON), largest)
        found = (search.images[search.flipped] * 255).round().to(torch.uint8)
        return found, search.predicted[search.flipped]

    def _search(self, rows: Tensor, steps: int) -> Search:
        """The search on the network as it is, in eval mode and without gradients of its weights."""
        self._network.eval().requires_grad_(False)
        pixels = self._images[rows].float() / 255
        return _Attack(
            PixelNetwork(self._network),
            pixels.contiguous(memory_format=self._layout),
            self._labels[rows],
            steps=steps,
            step_ratio=self._case.neighbours["step_ratio"],
            batch=self._case.neighbours["batch_size"],
            quantize=True,
            layout=self._layout,
        )

    def _optimizer(self) -> torch.optim.Optimizer:
        recipe = self._case.optimization
        return torch.optim.SGD(
            self._network.parameters(),
            recipe["learning_rate"],
            recipe["momentum"],
            weight_decay=recipe["weight_decay"],
            fused=True,
        )

    def _train(
        self,
        images: Tensor,
        labels: Tensor,
        augmented: Tensor,
        rows: Tensor,
        steps: int,
        optimizer: torch.optim.Optimizer,
    ) -> tuple[float, float]:
        """So many steps; the last loss, and the accuracy on the last epoch's worth of batches."""
        recipe, right, seen = self._case.optimization, 0, 0
        network = self._network.train().requires_grad_(True)
        last_epoch = steps - max(1, len(rows) // recipe["batch_size"])
        for step, batch in enumerate(_batches(rows, recipe["batch_size"], steps)):
            for group in optimizer.param_groups:
                group["lr"] = self._case.learning_rate(step, len(rows))
            chosen = images[batch]
            if recipe["crop_padding"] or recipe["flip"]:
                shown = augment(chosen, recipe["crop_padding"], recipe["flip"])
                chosen = torch.where(augmented[batch][:, None, None, None], shown, chosen)
            pixels = ((chosen.float() / 255 - MEAN) / STD).contiguous(memory_format=self._layout)
            optimizer.zero_grad()
            loss, logits = self._loss_of(network, pixels, labels[batch])
            loss.backward()
            optimizer.step()
            if step >= last_epoch:
                right += (logits.detach().argmax(-1) == labels[batch]).sum()
                seen += len(batch)
        return loss.item(), float(right) / max(seen, 1)

    def _all(self) -> Tensor:
        """All images are augmented."""
        return torch.ones(len(self._images), dtype=torch.bool, device=self._device)

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def augment(images: Tensor, padding: int, flip: bool) -> Tensor:
    """Each image [B,D,H,W] cropped at random from its zero-padded self, and mirrored with probability ½."""
    number, _, height, width = images.shape
    device = images.device
    offset = torch.randint(0, 2 * padding + 1, (2, number, 1), device=device)
    rows = offset[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(number, -1)
    if flip:
        mirrored = torch.rand(number, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    columns = offset[1] + columns
    padded = F.pad(images, (padding,) * 4)
    where = torch.arange(number, device=device)[:, None, None]
    # Indices apart by a slice put the channels last; permuted back, without a copy.
    return padded[where, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _batches(rows: Tensor, size: int, steps: int) -> Tensor:
    """Rows [steps,size]: epochs in a new order each, in one stream that is cut into full batches."""
    epochs = -(-steps * size // len(rows))
    orders = [rows[torch.randperm(len(rows), device=rows.device)] for _ in range(epochs)]
    return torch.cat(orders)[: steps * size].view(steps, size)


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = network(images)
    return F.cross_entropy(logits, labels), logits


class _Attack(Search):
    """A search in full precision, whatever training computes in."""

    def run(self, epsilon: float, max_epsilon: float) -> None:
        trained_with = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
        # Batches have many sizes, and each would be tried anew.
        torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = False
        super().run(epsilon, max_epsilon)
        torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = trained_with


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(UnlearningCase, describe, prepare, device_peak_bytes)
