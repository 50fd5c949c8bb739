"""The worker that makes batches of 8-bit images, and trains on them, by plain PyTorch.

A variant is `{"form", "channels_last", "device"}`. Training, with batches by indexing, is `eager`, `compiled`
(torch.compile of the loss) or `graphs` (the same in CUDA graphs). Batches by themselves: `indexing`, the images on the
device, a batch picked, cropped, mirrored and normalised there at once; `indexing compiled`, the same by torch.compile;
`loader` with `"workers"`, a DataLoader of one image after another, whose batches are moved to the device. A step of any
is a whole epoch.
"""

import multiprocessing
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import machine
from benchmarks.data_case import CROP_PADDING, EPOCH, DataCase
from benchmarks.serving import Prepared, Unavailable, serve
from benchmarks.torch_resnet import ResNet18
from benchmarks.torch_training_worker import check_device, describe, device_peak_bytes, why_it_fails
from benchmarks.torch_unlearning_worker import augment
from benchmarks.training_case import LEARNING_RATE, MEAN, MOMENTUM, NUM_CLASSES, STD, WEIGHT_DECAY


def prepare(case: DataCase, variant: dict[str, Any]) -> Prepared:
    """Builds and warms the epoch; Unavailable where torch.compile fails."""
    check_device(variant["device"])
    torch.manual_seed(0)
    form = variant["form"]
    try:
        data = Data(case, variant)
        run = _training(data) if case.kind == EPOCH else _batches(data)
        run(1)
    except Exception as error:
        if form not in ("compiled", "graphs", "indexing compiled"):
            raise
        raise Unavailable(why_it_fails(form, error)) from error
    return Prepared(run, case.batches * case.batch, facts=dict(variant), helpers=_workers_seconds)


class Data:
    """A case's images and labels, on the device."""

    def __init__(self, case: DataCase, variant: dict[str, Any]) -> None:
        self.case, self.variant, self.device = case, variant, variant["device"]
        self.layout = torch.channels_last if variant["channels_last"] else torch.contiguous_format
        random = torch.Generator().manual_seed(0)
        shape = (case.examples, 3, case.side, case.side)
        self.images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=random).to(self.device)
        self.labels = torch.randint(0, NUM_CLASSES, (case.examples,), generator=random).to(self.device)

    def order(self) -> Tensor:
        """Rows [batches,B] of an epoch, in a new order."""
        case = self.case
        rows = torch.randperm(case.examples, device=self.device)[: case.batches * case.batch]
        return rows.view(case.batches, case.batch)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Augmented and normalised images [B,3,H,W], and labels."""
        shown = augment(self.images[rows], CROP_PADDING, flip=True)
        return ((shown.float() / 255 - MEAN) / STD).contiguous(memory_format=self.layout), self.labels[rows]


class Items(Dataset):
    """One image after another, cropped, mirrored and normalised by itself, as a loader's transforms do it."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self._images[index]
        down, right = torch.randint(0, 2 * CROP_PADDING + 1, (2,)).tolist()
        height, width = image.shape[1:]
        image = F.pad(image, (CROP_PADDING,) * 4)[:, down : down + height, right : right + width]
        if torch.rand(()) < 0.5:
            image = image.flip(2)
        return (image.float() / 255 - MEAN) / STD, self._labels[index]


def _training(data: Data) -> Callable[[int], float]:
    network = ResNet18(data.case.width, NUM_CLASSES).to(data.device, memory_format=data.layout)
    optimizer = torch.optim.SGD(
        network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY, fused=True
    )

    def loss_of(images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(network(images), labels)

    if data.variant["form"] != "eager":
        mode = "reduce-overhead" if data.variant["form"] == "graphs" else "default"
        loss_of = _compiled(loss_of, mode)

    def run(count: int) -> float:
        for _ in range(count):
            for rows in data.order():
                optimizer.zero_grad()
                loss = loss_of(*data.batch(rows))
                loss.backward()
                optimizer.step()
        return loss.item()  # waits for the device

    return run


def _batches(data: Data) -> Callable[[int], float]:
    epoch = _loaded(data) if data.variant["form"] == "loader" else _indexed(data)

    @torch.no_grad()
    def run(count: int) -> float:
        for _ in range(count):
            epoch()
        return 0.0

    return run


def _indexed(data: Data) -> Callable[[], None]:
    make = data.batch if data.variant["form"] == "indexing" else _compiled(data.batch, "default")

    def epoch() -> None:
        for rows in data.order():
            make(rows)
            _wait(data.device)

    return epoch


def _loaded(data: Data) -> Callable[[], None]:
    workers = data.variant["workers"]
    loader = DataLoader(
        Items(data.images.cpu(), data.labels.cpu()),
        batch_size=data.case.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        # Started once, as in a training of many epochs.
        persistent_workers=workers > 0,
        pin_memory=data.device == "cuda",
    )

    def epoch() -> None:
        for images, labels in loader:
            images.to(data.device, memory_format=data.layout), labels.to(data.device)
            _wait(data.device)

    return epoch


def _compiled(function: Callable, mode: str) -> Callable:
    # Past its limit torch.compile would go on uncompiled, under a compiled one's name.
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    return torch.compile(function, mode=mode)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _workers_seconds() -> float:
    """What the loaders' processes have used of the cores."""
    return sum(machine.process_cpu_seconds(child.pid) for child in multiprocessing.active_children())


if __name__ == "__main__":
    torch.set_num_threads(machine.usable_cores())
    torch.backends.cudnn.benchmark = True
    serve(DataCase, describe, prepare, device_peak_bytes)
