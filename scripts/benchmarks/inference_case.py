"""What one benchmark of inference measures; without dependencies, for any interpreter."""

import dataclasses

SIDE, IMAGES = 32, 2048
AGREED = 1e-4
"""The most by which the two sides' logits may differ, in units of their largest magnitude."""


@dataclasses.dataclass(frozen=True)
class InferenceCase:
    """Logits of `images` 8-bit images of `side`×`side`×3 by a ResNet-18 of `width` in eval mode, in float32."""

    width: int
    side: int = SIDE
    images: int = IMAGES
    folder: str = ""
    """Where the weights and each side's logits lie."""

    @property
    def name(self) -> str:
        """As `--cases` takes it."""
        side = f"_s{self.side}" if self.side != SIDE else ""
        images = f"_n{self.images}" if self.images != IMAGES else ""
        return f"inference_w{self.width}{side}{images}"

    @property
    def weights(self) -> str:
        """The `.npz` of the network's variables, by the names of `torch_resnet`."""
        return f"{self.folder}/weights.npz"

    def logits(self, side: str) -> str:
        """The `.npy` of what the side `ours` or `torch` found last, float32[N,C]."""
        return f"{self.folder}/{side}.npy"
