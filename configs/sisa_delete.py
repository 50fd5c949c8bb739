"""A SISA ensemble that deletes on request, exactly, and certifies it (Bourtoule et al., "Machine Unlearning", 2021).

    python -m mu_jax.main --config=configs/sisa_delete.py --config.data.source=npz:FILE --workdir=DIR
    python -m mu_jax.main --config=configs/sisa_delete.py --workdir=DIR --config.forget.indices=FILE.npy

The first line fits 10 shards × 20 slices; the second deletes the training images at these positions, retrains the
shards that held them from the slice on, prints the certificate, and may be given again and again with other positions.
DIR keeps its own settings: a later call need not repeat them. DIR may also be a finished folder of
`configs/sisa_posterior.py`.

Expected time and result of the full experiment: not measured yet; it waits for an accelerator.

Variant `:smoke`: digits, 5 shards × 4 slices, a narrow network (width 16).

Expected time: 27 s to fit, 19 s for a deletion, most of which compiles and draws the report (2 CPU cores, JAX 0.10.2).
Expected result (seed 0): test accuracy 98.4% [96.9, 99.2]; deleting position 5 retrains 3 of 20 steps, 233 examples.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("sisa_delete")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.model.width = 64

    config.train.epochs = 30.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    # A slice goes on where the one before it ended: a constant rate suits the last slice as well as the first.
    config.train.schedule = "constant"
    config.train.crop_padding = 4
    config.train.flip = True
    config.sisa.shards = 10
    config.sisa.slices = 20

    if variant == "smoke":
        config.data.source = "digits"
        config.model.width = 16
        config.train.epochs = 30.0
        config.train.batch_size = 16
        config.train.learning_rate = 0.02
        config.train.weight_decay = 0.0
        config.train.crop_padding = 0
        config.train.flip = False
        config.sisa.shards = 5
        config.sisa.slices = 4
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
