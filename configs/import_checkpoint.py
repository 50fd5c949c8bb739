"""A PyTorch checkpoint, kept as a finished run's folder: what every other command takes a saved model from.

    python -m mu_jax.main --config=configs/import_checkpoint.py --config.checkpoint=resnet18.pt \
        --config.data.source=cifar:cifar-10-batches-bin --workdir=runs/imported

The file is a state_dict (.safetensors, .pth or .pt; under `state_dict`, `model` or `net` or by itself; `module.`,
`_orig_mod.` and `model.` before all names are cut off) of a ResNet-18 with a 3×3 stem, a VGG-11, -16 or -19 with
batch-norm and one dense layer, or a pre-norm ViT with a class token, under the names of the common CIFAR repositories,
torchvision's or timm's. The file does not say how its images were normalised: `data.mean` and `data.std` (of pixels in
[0, 1]) have to. The command prints accuracies: where they are not those that the model had in PyTorch, something of
this is wrong. Pickled models are refused, because unpickling runs code.

`--config.model.name` and `.width` say which network it is, of a ViT `.patch_size`, `.depth` and `.heads` too. Then

    python -m mu_jax.main --config=configs/unlearn.py --config.checkpoint=runs/imported \
        --config.forget.indices=positions.npy --workdir=runs/forgotten
    python -m mu_jax.main --config=configs/spectra.py --config.checkpoint=runs/imported --workdir=runs/spectra
    python -m mu_jax.main --config=configs/transfer.py --config.pretrained.checkpoint=runs/imported ...
    load_model("runs/imported", "original").predict(images)  # in Python: logits, for any attack

Variant `:smoke`: embedded digits as data and a ResNet-18 of width 16, for a file of such a network.

Expected time: that of reading the weights and asking the network about all images once: 11 s on 2 CPU cores
for `:smoke`, most of it compilation.
Expected result: the logits that PyTorch gives, to 1e-4 of their size in float32 (`tests/models/test_pytorch_*.py`).
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("import_checkpoint")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    if variant == "smoke":
        config.data.source = "digits"
        config.data.mean = (0.5,)
        config.data.std = (0.25,)
        config.model.width = 16
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
