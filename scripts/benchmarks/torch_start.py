"""A plain PyTorch script up to its first step: ResNet-18 on scikit-learn's digits, SGD with momentum.

python -m benchmarks.torch_start WIDTH eager|compiled
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from benchmarks.start_case import BATCH, CLASSES, FIRST_STEP, LEARNING_RATE, LEVELS, MOMENTUM
from benchmarks.torch_resnet import ResNet18


def main() -> None:
    """One step, and a line after it that ends with PyTorch's version."""
    width, execution = int(sys.argv[1]), sys.argv[2]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32, device=device)[:, None] / LEVELS
    labels = torch.tensor(digits.target, dtype=torch.int64, device=device)
    model = ResNet18(width, CLASSES, channels=1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, MOMENTUM)
    call = torch.compile(model) if execution == "compiled" else model
    rows = torch.randperm(len(labels), device=device)[:BATCH]
    loss = F.cross_entropy(call((images[rows] - 0.5) / 0.5), labels[rows])
    loss.backward()
    optimizer.step()
    loss.item()  # waits for the device
    print(FIRST_STEP, torch.__version__, flush=True)


if __name__ == "__main__":
    main()
