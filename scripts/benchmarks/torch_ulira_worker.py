"""The worker that unlearns a class with plain PyTorch, one original after another.

A variant is `{"do": "unlearn" or "accuracy", "execution", "channels_last", "device"}`, as `torch_training_worker` has
the executions `eager`, `compiled` and `graphs`, in float32. A step is a whole model: the original's weights, the
method's targets (for which the original is asked about the forgotten class alone), all gradient descent, and a copy of
the weights on the host. The originals take turns, round after round. Images are normalised once and stay on the device.
"""

import itertools
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.adversarial_case import MEAN, STD
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails
from benchmarks.ulira_case import BATCH, FORGOTTEN, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, UliraCase

_WARM_UP_STEPS = 3


def prepare(case: UliraCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the method, or judges its models; Unavailable where torch.compile fails."""
    form = {name: value for name, value in variant.items() if name != "do"}
    key = f"{case.name} {json.dumps(form, sort_keys=True)}"
    if variant["do"] == "accuracy":
        return Prepared(lambda count: 0.0, 0, facts={"accuracy": _prepared[key].accuracy()})
    check_device(variant["device"])
    try:
        unlearning = Unlearning(case, variant)
        unlearning.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    _prepared[key] = unlearning
    return Prepared(unlearning.run, 1, facts=form, most=case.models, found=unlearning.found)


class Unlearning:
    """One method on one original after another; `models` are those of the latest call."""

    def __init__(self, case: UliraCase, variant: Mapping[str, Any]) -> None:
        self._case, self._device = case, variant["device"]
        layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images = np.concatenate([arrays["x_train"], arrays["x_test"]])
            labels = np.concatenate([arrays["y_train"], arrays["y_test"]])
            trained, self._classes = len(arrays["y_train"]), len(arrays["class_names"])
        pixels = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        self._images = pixels.contiguous(memory_format=layout).to(self._device)
        self._labels = torch.from_numpy(labels).long().to(self._device)
        self._one_hot = F.one_hot(self._labels, self._classes).float()
        where, of_class = np.arange(len(labels)), labels == FORGOTTEN
        parts = {
            "retain": (where < trained) & ~of_class,
            "forget": (where < trained) & of_class,
            "test": (where >= trained) & ~of_class,
            "test_forget": (where >= trained) & of_class,
        }
        self.rows = {
            part: torch.from_numpy(np.flatnonzero(mask)).to(self._device) for part, mask in parts.items()
        }
        # One network is kept, and its weights set anew for each model, so that nothing is compiled twice.
        self._network = ResNet18(case.width, self._classes, channels=images.shape[3])
        self._network.to(self._device, memory_format=layout)
        self.originals = load_originals(case.weights, case.models, self._device)
        self._loss_of = _loss
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            mode = "reduce-overhead" if variant["execution"] == "graphs" else "default"
            self._loss_of = torch.compile(_loss, mode=mode)
        self._next = itertools.cycle(range(case.models))
        self.models: list[dict[str, Tensor]] = []
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """A preparation, and a few steps."""
        self._start_from(0)
        self._train(self.targets(), _WARM_UP_STEPS)

    def run(self, count: int) -> float:
        """The next so many models; the mean of their last losses. Unavailable where one diverges."""
        models, losses, preparing, training = [], [], 0.0, 0.0
        for number in itertools.islice(self._next, count):
            began = time.perf_counter()
            self._start_from(number)
            targets = self.targets()
            self._wait()
            between = time.perf_counter()
            steps = self._case.steps(len(self.visited()))
            losses.append(self._train(targets, steps))
            models.append(
                {name: leaf.detach().cpu().clone() for name, leaf in self._network.state_dict().items()}
            )
            preparing, training = preparing + between - began, training + time.perf_counter() - between
        if not np.isfinite(losses).all():
            raise Unavailable(f"{np.count_nonzero(~np.isfinite(losses))} of {count} models diverged")
        self.models = models
        self.found.update(
            preparation_seconds_a_model=round(preparing / count, 4),
            training_seconds_a_model=round(training / count, 4),
            images_a_model=steps * BATCH,
        )
        return float(np.mean(losses))

    def visited(self) -> Tensor:
        """Rows [M] that an epoch visits, mixed."""
        if self._case.method == "finetune":
            return self.rows["retain"]
        if not self._case.settings.get("retain", True):
            return self.rows["forget"]
        return torch.cat([self.rows["retain"], self.rows["forget"]])

    def targets(self) -> Tensor:
        """What the images are learned as: labels int64[N] where these are all, else distributions float32[N,C]."""
        if self._case.method == "finetune":
            return self._labels
        targets, forget = self._one_hot.clone(), self.rows["forget"]
        if self._case.method == "random_labels":
            targets[forget] = wrong_labels(targets[forget], self._case.settings)
        else:
            logits = self._logits(forget)
            if self._case.method == "delete":
                targets[forget] = logits.masked_fill(targets[forget].bool(), -torch.inf).softmax(-1)
            else:
                targets[forget] = tilted(
                    logits, self._network.head.weight.detach(), FORGOTTEN, self._case.settings
                )
        return targets

    def accuracy(self) -> dict[str, float]:
        """Of each part of the images, the mean over the models of the latest call."""
        right = []
        for state in self.models:
            self._network.load_state_dict(state)
            found = self._logits(torch.arange(len(self._labels), device=self._device)).argmax(-1)
            right.append(found == self._labels)
        shares = torch.stack(right).float().mean(0)
        return {part: round(float(shares[rows].mean()), 4) for part, rows in self.rows.items()}

    def _start_from(self, number: int) -> None:
        missing, unexpected = self._network.load_state_dict(self.originals[number], strict=False)
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"{self._case.weights} lacks {missing} and has {unexpected} besides.")

    def _logits(self, rows: Tensor) -> Tensor:
        """Of the network as it is, in full precision and with its running moments."""
        network = self._network.eval()
        trained_with, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        with torch.no_grad():
            logits = network(self._images[rows])
        torch.backends.cudnn.allow_tf32 = trained_with
        return logits

    def _train(self, targets: Tensor, steps: int) -> float:
        """So many steps; the last loss."""
        network, rows = self._network.train(), self.visited()
        optimizer = torch.optim.SGD(
            network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
        )
        epochs = -(-steps * BATCH // len(rows))
        stream = torch.cat([rows[torch.randperm(len(rows), device=rows.device)] for _ in range(epochs)])
        for batch in stream[: steps * BATCH].view(steps, BATCH):
            optimizer.zero_grad()
            loss = self._loss_of(network, self._images[batch], targets[batch])
            loss.backward()
            optimizer.step()
        return loss.item()

    def _wait(self) -> None:
        if self._device == "cuda":
            torch.cuda.synchronize()


def load_originals(path: str, models: int, device: str) -> list[dict[str, Tensor]]:
    """The state of each original on the device."""
    with np.load(path, allow_pickle=False) as arrays:
        loaded = {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}
    return [
        {name.partition("/")[2]: leaf for name, leaf in loaded.items() if name.startswith(f"{number}/")}
        for number in range(models)
    ]


def wrong_labels(own: Tensor, settings: Mapping[str, Any]) -> Tensor:
    """The mean over draws of a wrong label, [F,C], for one-hot labels [F,C]."""
    if not settings["redraw"]:
        raise ValueError("redraw is off, but expected the mean over draws.")
    return (1 - own) / (own.shape[1] - 1)


def tilted(logits: Tensor, head: Tensor, forgotten: int, settings: Mapping[str, Any]) -> Tensor:
    """TRW's targets [F,C] of logits [F,C] and a head's weight [C,D].

    q_k ∝ p_k·exp(β·s_k), 0 for what is forgotten; s = softmax over the classes that stay of the cosines of the
    head's centred rows, divided by the temperature.
    """
    if settings["level"] or settings["directions"] or settings["forget_weight"] != 1:
        raise ValueError(
            f"TRW's settings are {settings}, but expected a fixed β, all directions and weight 1."
        )
    rows = head - head.mean(0)
    gone = torch.arange(len(rows), device=rows.device) == forgotten
    cosine = F.cosine_similarity(rows[forgotten][None], rows, dim=1)
    similarity = (cosine / settings["temperature"]).masked_fill(gone, -torch.inf).softmax(0)
    return (logits.masked_fill(gone, -torch.inf) + settings["beta"] * similarity).softmax(-1)


def _loss(network: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(network(images), targets)


_prepared: dict[str, Unlearning] = {}
"""Of each case and form."""


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(UliraCase, describe, prepare, device_peak_bytes)
