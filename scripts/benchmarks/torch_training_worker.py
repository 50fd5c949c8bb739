"""The worker that trains with plain PyTorch.

A variant is `{"execution", "dtype", "channels_last", "device"}`. Executions: `eager`; `compiled` (torch.compile of
the loss); `graphs` (the same in CUDA graphs); `functional` (torch.func: vmap over stacked models, K > 1 only). All
but the last train K models in turn, a batch each.

bfloat16 is autocast. Rejected: the whole model in bfloat16, which also rounds its updates; on 2 CPU cores without AMX
it was slower in separate runs of one case (8×8, width 16: 3,711 against 4,213 images/s channels-last, 2,632 against
3,652 otherwise). OpenMP waits as it does by default: OMP_WAIT_POLICY=PASSIVE cost three quarters of the speed.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.serving import BadRequest, Prepared, Unavailable, serve
from benchmarks.torch_resnet import ResNet18
from benchmarks.training_case import (
    CHUNK_STEPS,
    EXAMPLES,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    STD,
    WEIGHT_DECAY,
    TrainingCase,
)


def describe() -> dict[str, Any]:
    """The device and versions."""
    cuda = torch.cuda.is_available()
    return {
        "backend": "gpu" if cuda else "cpu",
        "device": torch.cuda.get_device_name() if cuda else machine.cpu_name(),
        "versions": {"torch": torch.__version__},
    }


def prepare(case: TrainingCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the case's training; Unavailable where torch.compile or torch.func fails."""
    check_device(variant["device"])
    torch.manual_seed(0)
    execution = variant["execution"]
    try:
        run_steps = (_together if execution == "functional" else _in_turn)(case, variant)
        run_steps(1)
    except Exception as error:
        if execution == "eager":
            raise
        raise Unavailable(why_it_fails(execution, error)) from error
    return Prepared(run_steps, case.images_a_step, facts=variant)


def check_device(device: str) -> None:
    """BadRequest where JAX's device is none of this PyTorch's."""
    if device == "cuda" and not torch.cuda.is_available():
        raise BadRequest(
            "JAX runs on a GPU, but this PyTorch has no CUDA; expected both on one device, give another "
            "interpreter with --torch-python, set JAX_PLATFORMS=cpu, or leave PyTorch out with --torch=none."
        )


def why_it_fails(execution: str, error: Exception) -> str:
    """One sentence for the table."""
    first_line = (str(error).strip().splitlines() or [""])[0]
    return f"{execution} fails here ({type(error).__name__}: {first_line[:200]})"


class _Data:
    """The data on the device, and of each model the rows of its batches."""

    def __init__(self, case: TrainingCase, variant: dict[str, Any]) -> None:
        random = torch.Generator().manual_seed(0)
        shape, drawn = (EXAMPLES, 3, case.side, case.side), (CHUNK_STEPS, case.models, case.batch)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
        self._labels = torch.randint(0, NUM_CLASSES, (EXAMPLES,), generator=random)
        self._rows = torch.randint(0, EXAMPLES, drawn, generator=random)
        if variant["channels_last"]:
            self._images = self._images.contiguous(memory_format=torch.channels_last)
        device = variant["device"]
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        self._rows = self._rows.to(device)

    def batch(self, step: int, model: int | slice) -> tuple[Tensor, Tensor]:
        """Normalised images and labels of one model's step, or of all models', stacked, with `slice(None)`."""
        rows = self._rows[step % CHUNK_STEPS, model]
        return (self._images[rows].float() / 255 - MEAN) / STD, self._labels[rows]


def _forward(
    variant: dict[str, Any], call: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor
) -> Tensor:
    with torch.autocast(variant["device"], torch.bfloat16, enabled=variant["dtype"] == "bfloat16"):
        logits = call(images)
    return F.cross_entropy(logits.float(), labels)


def _in_turn(case: TrainingCase, variant: dict[str, Any]) -> Callable[[int], float]:
    """Each model takes a batch, then the next one does."""
    data = _Data(case, variant)
    layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
    models = [
        ResNet18(case.width, NUM_CLASSES).to(variant["device"], memory_format=layout)
        for _ in range(case.models)
    ]
    optimizers = [
        torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
        for model in models
    ]

    def loss_of(model: ResNet18, images: Tensor, labels: Tensor) -> Tensor:
        return _forward(variant, model, images, labels)

    if variant["execution"] != "eager":
        # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        loss_of = torch.compile(
            loss_of, mode="reduce-overhead" if variant["execution"] == "graphs" else "default"
        )

    def run_steps(count: int) -> float:
        for step in range(count):
            for k, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                optimizer.zero_grad()
                loss = loss_of(model, *data.batch(step, k))
                loss.backward()
                optimizer.step()
        return loss.item()  # waits for the device

    return run_steps


def _together(case: TrainingCase, variant: dict[str, Any]) -> Callable[[int], float]:
    """All models at once: vmap of the gradient over stacked parameters and buffers, SGD by hand."""
    data = _Data(case, variant)
    models = [ResNet18(case.width, NUM_CLASSES).to(variant["device"]) for _ in range(case.models)]
    params, buffers = torch.func.stack_module_state(models)
    params = {name: param.detach() for name, param in params.items()}
    velocity = {name: torch.zeros_like(param) for name, param in params.items()}
    skeleton = models[0]

    def loss_of(
        params: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        def call(images: Tensor) -> Tensor:
            return torch.func.functional_call(skeleton, (params, buffers), (images,))

        # Batch-norm updates the buffers in place; handed out, the new ones leave the transforms.
        return _forward(variant, call, images, labels), buffers

    gradients_of = torch.func.vmap(torch.func.grad_and_value(loss_of, has_aux=True), randomness="same")

    def run_steps(count: int) -> float:
        nonlocal buffers
        for step in range(count):
            gradients, (loss, buffers) = gradients_of(params, buffers, *data.batch(step, slice(None)))
            with torch.no_grad():
                for name, param in params.items():
                    velocity[name].mul_(MOMENTUM).add_(gradients[name]).add_(param, alpha=WEIGHT_DECAY)
                    param.sub_(velocity[name], alpha=LEARNING_RATE)
        return loss.mean().item()

    return run_steps


def device_peak_bytes() -> int | None:
    """Of the GPU's memory, the most allocated at once; None on CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(TrainingCase, describe, prepare, device_peak_bytes)
