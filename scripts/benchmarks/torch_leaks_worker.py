"""The worker that retrains with plain PyTorch: one model after another, each asked when it is trained.

| variant | a step |
|---|---|
| `{"do": "train", "execution", "threads", "channels_last", "device"}` | the next model of the case, trained and asked |
| the same with `{"do": "rest", "posteriors": FILE}` | none; what the rounds left of the case, and all answers to FILE |

Executions: `eager`; `compiled` (torch.compile of the loss and of the query); `graphs` (the loss in CUDA graphs
besides). On a CPU a network this small may be faster on one thread than on all. One network is kept, and its weights
drawn anew for each model, so that nothing is compiled or captured twice.
"""

import dataclasses
import itertools
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.leaks_answers import read_plan, right_shares
from benchmarks.leaks_case import BATCH, LEARNING_RATE, MEAN, MOMENTUM, STD, WIDTH, LeaksCase
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails

_HIDDEN = 128
"""Units of the CNN's dense layer, as ours has them."""
_WARM_UP_STEPS = 3


class Retraining:
    """The case's models one after another, and what each says of its side's digits."""

    def __init__(self, case: LeaksCase, variant: dict[str, Any]) -> None:
        self._case, self._plan = case, read_plan(case.file)
        self._device, self._threads = variant["device"], variant["threads"]
        layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        # Normalised once, not in each step: nothing is random about the images.
        pixels = (torch.from_numpy(self._plan["images"]).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        self._images = pixels.contiguous(memory_format=layout).to(self._device)
        self._labels = torch.from_numpy(self._plan["labels"]).long().to(self._device)
        self._sides = [self._images[torch.from_numpy(rows)] for rows in self._plan["side_rows"]]
        self._network = make_network(case.network, int(self._plan["classes"]), pixels.shape[1:])
        self._network.to(self._device, memory_format=layout)
        self._loss_of, self._posteriors_of = _loss, _posteriors
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            mode = "reduce-overhead" if variant["execution"] == "graphs" else "default"
            self._loss_of = torch.compile(_loss, mode=mode)
            self._posteriors_of = torch.compile(_posteriors)
        self._next = itertools.cycle(range(case.models))
        self.answers: dict[int, np.ndarray] = {}
        """float32[Q,C] of each model that is trained"""
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """A few steps and a query."""
        torch.set_num_threads(self._threads)
        self._train(0, _WARM_UP_STEPS)
        self._ask(0)

    def run(self, count: int) -> float:
        """The next so many models; the mean of their last losses. Unavailable where one diverges."""
        return self._retrain(list(itertools.islice(self._next, count)))

    def rest(self, path: str) -> dict[str, Any]:
        """Trains the models that no round has had, and writes all answers; facts."""
        began, done = time.perf_counter(), len(self.answers)
        missing = [model for model in range(self._case.models) if model not in self.answers]
        if missing:
            self._retrain(missing)
        answers = np.stack([self.answers[model] for model in range(self._case.models)])
        np.save(path, answers)
        return {
            "models_in_rounds": done,
            "models_after_rounds": len(missing),
            "seconds_after_rounds": round(time.perf_counter() - began, 3),
            "accuracy": right_shares(self._plan, answers),
        }

    def _retrain(self, models: Sequence[int]) -> float:
        torch.set_num_threads(self._threads)
        losses, training, asking = [], 0.0, 0.0
        for model in models:
            began = time.perf_counter()
            losses.append(self._train(model))
            trained = time.perf_counter()
            self.answers[model] = self._ask(int(self._plan["side"][model]))
            training += trained - began
            asking += time.perf_counter() - trained
        if not np.isfinite(losses).all():
            raise Unavailable(f"{np.count_nonzero(~np.isfinite(losses))} of {len(losses)} models diverged")
        self.found.update(
            models_trained=len(models),
            seconds_a_model={
                "train": round(training / len(models), 6),
                "query": round(asking / len(models), 6),
            },
        )
        return float(np.mean(losses))

    def _train(self, model: int, most_steps: int | None = None) -> float:
        """Trains a model of fresh weights; its last loss."""
        torch.manual_seed(model)
        network = self._network.train()
        reset_parameters(network)
        optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, fused=True)
        for rows in self.batches(model)[:most_steps]:
            optimizer.zero_grad()
            loss = self._loss_of(network, self._images[rows], self._labels[rows])
            loss.backward()
            optimizer.step()
        return loss.item()

    def batches(self, model: int) -> Tensor:
        """Rows of the digits [steps,batch]: epochs in a new order each, in one stream cut into full batches."""
        rows = torch.from_numpy(self._plan["rows"][model])
        rows = rows[rows >= 0]
        steps = self._case.steps(len(rows))
        epochs = -(-steps * BATCH // len(rows))
        stream = torch.cat([rows[torch.randperm(len(rows))] for _ in range(epochs)])
        return stream[: steps * BATCH].view(steps, BATCH).to(self._device)

    def _ask(self, side: int) -> np.ndarray:
        """The posteriors float32[Q,C] of the network as it is, on the host."""
        network = self._network.eval()
        trained_with, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        with torch.inference_mode():
            posteriors = self._posteriors_of(network, self._sides[side]).cpu().numpy()
        torch.backends.cudnn.allow_tf32 = trained_with
        return posteriors


def make_network(name: str, classes: int, image_shape: Sequence[int]) -> nn.Sequential:
    """Ours, layer by layer: [B,D,H,W] → logits [B,C]."""
    channels, height, width = image_shape
    size = WIDTH[name]
    if name == "mlp":
        layers = [nn.Linear(channels * height * width, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *layers, nn.Linear(size, classes))
    convolutions = [
        nn.Conv2d(channels, size, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(size, 2 * size, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    flat = 2 * size * (height // 2) * (width // 2)
    return nn.Sequential(*convolutions, nn.Linear(flat, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, classes))


def reset_parameters(network: nn.Module) -> None:
    """Draws all weights anew, from our layers' distributions."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear):
            layer.reset_parameters()


def _loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(network(images), labels)


def _posteriors(network: nn.Module, images: Tensor) -> Tensor:
    return network(images).softmax(-1)


_prepared: dict[str, Retraining] = {}


def prepare(case: LeaksCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms one model's training and its query; Unavailable where torch.compile fails."""
    form = {name: value for name, value in variant.items() if name not in ("do", "posteriors")}
    key = json.dumps([dataclasses.asdict(case), form], sort_keys=True)
    if variant["do"] == "rest":
        return Prepared(lambda count: 0.0, 0, facts=_prepared[key].rest(variant["posteriors"]))
    check_device(variant["device"])
    try:
        retraining = _prepared[key] = Retraining(case, variant)
        retraining.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    return Prepared(retraining.run, 1, facts=form, most=case.models, found=retraining.found)


if __name__ == "__main__":
    torch.backends.cudnn.benchmark = True
    serve(LeaksCase, describe, prepare, device_peak_bytes)
