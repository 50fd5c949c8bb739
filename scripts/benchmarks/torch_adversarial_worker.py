"""The worker that searches for adversarial examples with plain PyTorch.

A variant is `{"execution", "channels_last", "device", "batch", "examples", "largest"}`; a step is the search of the
first so many of the case's examples, up to the largest ε. Executions are `eager` and `compiled` (torch.compile of the
network, for batches of any size, because they shrink). Weights take no gradient; the network is in eval mode, and
computes in float32, as ours does.
"""

import pathlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import machine
from benchmarks.adversarial_case import MEAN, STD, STEP_RATIO, AdversarialCase
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_minimal_epsilon import Logits, Search
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails


class PixelNetwork(nn.Module):
    """A network as a function of pixels in [0, 1]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network((pixels - MEAN) / STD)


def prepare(case: AdversarialCase, variant: dict[str, Any]) -> Prepared:
    """Loads the trained weights and warms up; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    try:
        searches = Searches(case, variant)
        searches.warm_up()
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    return Prepared(searches.run, variant["examples"], facts=dict(variant), most=1, found=searches.found)


class Searches:
    """The search of a case, as often as asked for; what it found last is in the case's folder."""

    def __init__(self, case: AdversarialCase, variant: dict[str, Any]) -> None:
        self._case, self._batch = case, variant["batch"]
        self._layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        with np.load(case.file, allow_pickle=False) as arrays:
            images = arrays["x_train"][: variant["examples"]]
            labels = arrays["y_train"][: variant["examples"]]
            classes = len(arrays["class_names"])
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        self._images = pixels.contiguous(memory_format=self._layout).to(variant["device"])
        self._labels = torch.from_numpy(labels).long().to(variant["device"])
        self._largest = variant["largest"]
        network = load_network(case.weights, case.width, classes, images.shape[3])
        network = PixelNetwork(network).eval().requires_grad_(False)
        network.to(variant["device"], memory_format=self._layout)
        self._logits_of = _compiled(network) if variant["execution"] == "compiled" else network
        self.found: dict[str, Any] = {}

    def warm_up(self) -> None:
        """A round of two steps in batches of several sizes."""
        for size in (self._batch, self._batch // 2 + 1, 1):
            rows = torch.arange(size, device=self._labels.device) % len(self._labels)
            self._search(self._images[rows], self._labels[rows], 2).run(1e-6, 1e-6)

    def run(self, count: int) -> float:
        """So many whole searches; there is no loss to give back. Unavailable where torch.compile gives up."""
        for _ in range(count):
            search = self._search(self._images, self._labels, self._case.steps)
            try:
                search.run(self._case.epsilon, self._largest)
            except torch._dynamo.exc.FailOnRecompileLimitHit as error:
                raise Unavailable(why_it_fails("compiled", error)) from None
        names = ("epsilon", "distance", "predicted", "steps", "flipped")
        arrays = {name: getattr(search, name).cpu().numpy() for name in names}
        np.savez(pathlib.Path(self._case.found) / "torch.npz", **arrays)
        self.found.update(gradient_steps=int(arrays["steps"].sum()), flipped=int(arrays["flipped"].sum()))
        return 0.0

    def _search(self, images: Tensor, labels: Tensor, steps: int) -> Search:
        return Search(
            self._logits_of,
            images,
            labels,
            steps=steps,
            step_ratio=STEP_RATIO,
            batch=self._batch,
            layout=self._layout,
        )


def _compiled(network: nn.Module) -> Logits:
    # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    compiled = torch.compile(network)

    def logits_of(pixels: Tensor) -> Tensor:
        # A batch of one is a program of its own to torch.compile, so there is none.
        pair = pixels.expand(2, -1, -1, -1).contiguous() if len(pixels) == 1 else pixels
        torch._dynamo.mark_dynamic(pair, 0)
        return compiled(pair)[: len(pixels)]

    return logits_of


def load_network(path: str, width: int, num_classes: int, channels: int) -> ResNet18:
    """The network with the weights in a file; ValueError where they are another network's."""
    network = ResNet18(width, num_classes, channels)
    with np.load(path, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(f"{path} lacks {missing} and has {unexpected} besides.")
    return network


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = False  # batches have many sizes, and each would be tried anew
    torch.backends.cudnn.allow_tf32 = False  # an attack ends on the decision boundary
    serve(AdversarialCase, describe, prepare, device_peak_bytes)
