"""ResNet-18 for small images in plain PyTorch, of the same shapes as `mu_jax.models.resnet`."""

from torch import Tensor, nn
from torch.nn import functional as F

STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))
"""Of each stage: its channels as a multiple of `width`, and the stride of its first block."""


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    _initialise(convolution)
    return convolution


def _initialise(convolution: nn.Conv2d) -> None:
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")


class BasicBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)); a projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = _convolution(outputs, outputs, 3, 1), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_convolution(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.norm1(self.conv1(x)), inplace=True)
        branch = self.norm2(self.conv2(branch))
        return F.relu(branch + self.shortcut(x), inplace=True)


class ResNet18(nn.Module):
    """A 3×3 stem, four stages of two blocks, the mean over pixels, a dense head."""

    def __init__(self, width: int, num_classes: int, channels: int = 3) -> None:
        super().__init__()
        self.stem, self.stem_norm = _convolution(channels, width, 3, 1), nn.BatchNorm2d(width)
        blocks, inputs = [], width
        for multiple, stride in STAGES:
            for block in range(2):
                blocks.append(BasicBlock(inputs, multiple * width, stride if block == 0 else 1))
                inputs = multiple * width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, num_classes)

    def reset_parameters(self) -> None:
        """Draws new weights in place, as a new network has them."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _initialise(module)
            elif isinstance(module, (nn.BatchNorm2d, nn.Linear)):
                module.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.stem_norm(self.stem(images)), inplace=True)
        return self.head(self.blocks(x).mean((2, 3)).to(self.head.weight.dtype))
