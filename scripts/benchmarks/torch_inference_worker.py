"""The worker that asks a network for logits by plain PyTorch.

A variant is `{"execution", "channels_last", "device", "block"}`. Executions: `eager`; `compiled` (torch.compile of the
network and the normalisation before it); `frozen` (the same with the weights as constants, so that batch-norm is folded
into the kernels). A step is the logits of all images, so many at a time, on the host.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import machine
from benchmarks.inference_case import InferenceCase
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_adversarial_worker import load_network
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails
from benchmarks.training_case import MEAN, NUM_CLASSES, STD


def prepare(case: InferenceCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the query; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    try:
        query = Query(case, variant)
        query.run(1)
    except Exception as error:
        if variant["execution"] == "eager":
            raise
        raise Unavailable(why_it_fails(variant["execution"], error)) from error
    return Prepared(query.run, case.images, facts=dict(variant))


class Query:
    """The logits of a case's images, as often as asked for; the latest are in the case's folder."""

    def __init__(self, case: InferenceCase, variant: dict[str, Any]) -> None:
        self._case, self._block = case, variant["block"]
        layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        network = load_network(case.weights, case.width, NUM_CLASSES, 3)
        network = network.eval().requires_grad_(False).to(variant["device"], memory_format=layout)
        shape = (case.images, case.side, case.side, 3)
        images = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
        images = torch.from_numpy(images).permute(0, 3, 1, 2).to(variant["device"])
        self._images = images.contiguous(memory_format=layout)

        def logits_of(images: Tensor) -> Tensor:
            return network((images.float() / 255 - MEAN) / STD)

        self._logits_of = logits_of
        if variant["execution"] != "eager":
            # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
            torch._dynamo.config.fail_on_recompile_limit_hit = True
            options = {"freezing": True} if variant["execution"] == "frozen" else None
            self._logits_of = torch.compile(logits_of, options=options)

    # Not inference_mode: what torch.compile freezes are ordinary tensors.
    @torch.no_grad()
    def run(self, count: int) -> float:
        """So many times the logits of all images; there is no loss to give back."""
        for _ in range(count):
            logits = torch.cat([self._logits_of(block) for block in self._images.split(self._block)]).cpu()
        np.save(self._case.logits("torch"), logits.numpy())
        return 0.0


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # ours computes logits in full precision
    serve(InferenceCase, describe, prepare, device_peak_bytes)
