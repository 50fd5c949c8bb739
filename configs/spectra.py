"""How large is each layer of a saved model as a linear map, and what do the usual normalisations claim it to be?

    python -m mu_jax.main --config=configs/spectra.py --config.checkpoint=DIR --workdir=OUT

`DIR` is the folder of a finished run that keeps its models; `--config.checkpoint_model` names another of them than
`original`. Or it is a file of a ResNet-18's PyTorch state_dict (.safetensors, .pth or .pt); then say how large its
images are: `--config.image_size=32`. No images are read.

A row a layer: its operator norm with stride and padding, as FastClip measures it (Ebrahimpour-Boroojeny et al.,
AISTATS 2024), by itself and with the batch-norm behind it; and what others claim, over it: Miyato et al. 2018 (norm
of the reshaped kernel; at most the true one where a patch fits into the image), that times the root of the patches
that a pixel lies in (a bound from above), five power iterations on the layer (Gouk et al. 2021), and the exact norm
for periodic images by Fourier (Sedghi et al. 2019), of the image's own size and of one with room for the zeros around
it (a bound from above). `mu_jax/smoothness/reshaped.py` and `fourier.py` say why.

Variants: `:smoke` (a tolerance of 1e-4, each method called once for its time).

Expected time: for a ResNet-18 of width 16 on 8×8 images 77 to 137 s of processor time on 2 shared CPU cores,
nearly all of it compiling a program a method and a shape of layer; with JAX's compilation cache 16 s. Where other
programs use the cores, `OPENBLAS_NUM_THREADS=1` makes the Fourier columns many times as fast: LAPACK's threads wait for
each other.
Expected result (the original of configs/amun.py:smoke, a ResNet-18 of width 16 trained on 8×8 digits; one model; JAX
0.10.2 on 2 CPU cores; claims over true norms of its 20 convolutions, and seconds for all layers after compilation,
with `OPENBLAS_NUM_THREADS=1`):

| method | smallest | largest | seconds |
|---|---|---|---|
| measured (FastClip) | 1 | 1 | 0.096 |
| Reshaped kernel (Miyato) | 0.40 | 1.22 | 0.037 |
| Reshaped kernel × √patches | 1.00 | 2.06 | 0.037 |
| Miyato, 1 iteration | 0.28 | 0.80 | 0.0066 |
| Gouk, 5 iterations | 0.85 | 1.00 | 0.013 |
| Fourier, on the image | 1.00 | 1.66 | 0.087 |
| Fourier, on a ring with zeros | 1.00 | 1.61 | 0.19 |

The last stage sees 2×2 pixels, then 1×1, where no patch fits: there alone Miyato's norm is above the true one. The
product of a layer's norm and its batch-norm's is 1.24 to 1.88 times the norm of both together.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("spectra")
    if variant == "smoke":
        config.tolerance = 1e-4
        config.repeats = 1
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
