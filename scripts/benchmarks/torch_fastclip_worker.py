"""The worker that trains with FastClip, and measures layers, by plain PyTorch.

A variant is `{"form", "channels_last", "device"}`, with the forms of `jax_fastclip_worker`. Everything is eager, and in
float32; each layer is a map of its own. In training, tracking and clipping are the public code's: a power iteration a
layer (and one a layer with its batch-norm) in each step, and on its schedule gradient steps on the kernels.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import machine
from benchmarks.fastclip_case import (
    CHUNK_STEPS,
    CLIP,
    CLIP_ITERATIONS,
    COMPOSED_EVERY,
    COMPOSED_STEP_SIZE,
    COMPOSED_STEPS,
    EVERY,
    POWER_ITERATIONS,
    STEP_SIZE,
    STEPS,
    TOLERANCE,
    TRAINING,
    FastclipCase,
)
from benchmarks.serving import Prepared, serve
from benchmarks.torch_adversarial_worker import load_network
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_spectra import Map, largest_singular_value, power_qr
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes
from benchmarks.training_case import (
    EXAMPLES,
    LEARNING_RATE,
    MEAN,
    MOMENTUM,
    NUM_CLASSES,
    STD,
    WEIGHT_DECAY,
)


class Layer:
    """A convolution or dense layer of a network, the batch-norm behind it, and the vectors that are followed."""

    def __init__(
        self, name: str, module: nn.Module, norm: nn.BatchNorm2d | None, shape: tuple[int, ...]
    ) -> None:
        self.name, self.module, self.norm, self.shape = name, module, norm, shape
        self.vectors: dict[bool, Tensor] = {}

    @property
    def kinds(self) -> tuple[bool, ...]:
        """By itself, and composed with batch-norm."""
        return (False,) if self.norm is None else (False, True)

    def kernel(self, composed: bool) -> Tensor:
        """The kernel, or, composed, that times what batch-norm in eval mode multiplies each channel by."""
        kernel = self.module.weight
        if not composed:
            return kernel
        scale = self.norm.weight * torch.rsqrt(self.norm.running_var + self.norm.eps)
        return kernel * scale[:, None, None, None]

    def map_of(self, kernel: Tensor) -> Map:
        """The linear map with this kernel."""
        if kernel.ndim == 2:
            return Map(kernel, self.shape)
        return Map(kernel, self.shape, self.module.stride[0], self.module.padding[0])

    @torch.no_grad()
    def iterate(self, composed: bool, count: int) -> float | Tensor:
        """The norm after so many power iterations from the vector at hand."""
        layer = self.map_of(self.kernel(composed))
        if composed not in self.vectors:
            vector = torch.randn((1, *self.shape), device=layer.kernel.device)
            self.vectors[composed] = vector / torch.linalg.norm(vector)
        vector = self.vectors[composed]
        for _ in range(count):
            image = layer.apply(vector)
            moved = layer.transpose(image)
            vector = moved / torch.linalg.norm(moved)
        self.vectors[composed] = vector
        return torch.linalg.norm(image)

    def clip(self, composed: bool) -> None:
        """What is due when the schedule says so: iterations, gradient steps on the kernel, iterations."""
        norm = self.iterate(composed, CLIP_ITERATIONS)
        if norm > CLIP:
            vector, weight = self.vectors[composed], self.module.weight
            with torch.no_grad():
                target = CLIP / norm * self.map_of(self.kernel(composed)).apply(vector)
            columns = target.shape[-1] if target.ndim == 4 else 1
            size = COMPOSED_STEP_SIZE if composed else STEP_SIZE
            for _ in range(COMPOSED_STEPS if composed else STEPS):
                response = self.map_of(self.kernel(composed)).apply(vector)
                (gradient,) = torch.autograd.grad((response - target).square().sum() / columns, weight)
                with torch.no_grad():
                    weight.sub_(gradient, alpha=size)
        self.iterate(composed, CLIP_ITERATIONS)


def layers_of(network: ResNet18, side: int) -> list[Layer]:
    """In the order of the call, under our names."""
    shapes: dict[nn.Module, tuple[int, ...]] = {}

    def watch(module: nn.Module, inputs: tuple, _: Any) -> None:
        shapes[module] = tuple(inputs[0].shape[1:])

    handles = [
        module.register_forward_hook(watch)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    training = network.training
    with torch.no_grad():
        network.eval()(
            torch.zeros((1, network.stem.in_channels, side, side), device=network.stem.weight.device)
        )
    network.train(training)
    for handle in handles:
        handle.remove()
    found = [("stem", network.stem, network.stem_norm)]
    for i, block in enumerate(network.blocks):
        name = f"stage{i // 2 + 1}_block{i % 2}"
        found += [
            (f"{name}/conv1", block.conv1, block.norm1),
            (f"{name}/conv2", block.conv2, block.norm2),
        ]
        if isinstance(block.shortcut, nn.Sequential):
            found.append((f"{name}/shortcut", *block.shortcut))
    found.append(("head", network.head, None))
    return [Layer(name, module, norm, shapes[module]) for name, module, norm in found]


def prepare(case: FastclipCase, variant: dict[str, Any]) -> Prepared:
    """A form of training, or of measuring, warm."""
    check_device(variant["device"])
    torch.manual_seed(0)
    return (_training if case.kind == TRAINING else _measuring)(case, variant)


def _layout(variant: dict[str, Any]) -> torch.memory_format:
    return torch.channels_last if variant["channels_last"] else torch.contiguous_format


def _training(case: FastclipCase, variant: dict[str, Any]) -> Prepared:
    device, form = variant["device"], variant["form"]
    random = torch.Generator().manual_seed(0)
    shape = (EXAMPLES, 3, case.side, case.side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random)
    images = images.contiguous(memory_format=_layout(variant)).to(device)
    labels = torch.randint(0, NUM_CLASSES, (EXAMPLES,), generator=random).to(device)
    rows = torch.randint(0, EXAMPLES, (CHUNK_STEPS, case.batch), generator=random).to(device)
    network = ResNet18(case.width, NUM_CLASSES).to(device, memory_format=_layout(variant))
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    layers = [] if form == "plain" else layers_of(network, case.side)
    step, found = 0, {}

    def run(count: int, steps: int = CHUNK_STEPS) -> float:
        nonlocal step
        for _ in range(count * steps):
            step += 1
            batch = rows[step % CHUNK_STEPS]
            optimizer.zero_grad()
            loss = F.cross_entropy(network((images[batch].float() / 255 - MEAN) / STD), labels[batch])
            loss.backward()
            optimizer.step()
            if form == "fastclip":
                for composed, every in ((False, EVERY), (True, COMPOSED_EVERY)):
                    if step % every == 0:
                        for layer in layers:
                            if composed in layer.kinds:
                                layer.clip(composed)
            norms = [
                layer.iterate(composed, POWER_ITERATIONS if step == 1 else 1)
                for layer in layers
                for composed in layer.kinds
            ]
        if layers:
            found["largest_norm"] = max(float(norm) for norm in norms)
        return loss.item()

    run(1, 1)
    return Prepared(run, CHUNK_STEPS * case.batch, facts=dict(variant), found=found)


def _measuring(case: FastclipCase, variant: dict[str, Any]) -> Prepared:
    network = load_network(case.weights, case.width, NUM_CLASSES, 3).eval().requires_grad_(False)
    network.to(variant["device"], memory_format=_layout(variant))
    layers = layers_of(network, case.side)
    found: dict[str, Any] = {}

    def run(count: int) -> float:
        generator = torch.Generator().manual_seed(0)
        norms = {}
        for _ in range(count):
            for layer in layers:
                for composed in layer.kinds:
                    linear = layer.map_of(layer.kernel(composed))
                    name = f"{layer.name}+norm" if composed else layer.name
                    if variant["form"] == "measure":
                        norms[name] = largest_singular_value(linear, TOLERANCE, generator)[0]
                    else:
                        norms[name] = power_qr(linear, POWER_ITERATIONS, generator)
        found["norms"] = norms
        return 0.0

    run(1)
    return Prepared(run, 1, facts=dict(variant), most=1, found=found)


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = False  # norms to six digits
    serve(FastclipCase, describe, prepare, device_peak_bytes)
