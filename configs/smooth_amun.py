"""Smooth models and AMUN."""

from mu_jax.config import default_config, unknown_variant

_VARIANTS = ("digits", "smoke")


def get_config(variant: str = ""):
    if variant and variant not in _VARIANTS:
        unknown_variant(variant, _VARIANTS)
    config = default_config("smooth_amun")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.forget.fraction = 0.1
    config.model.width = 64
    config.model.halve_shortcut = True

    config.train.epochs = 200.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.step_epochs = 40.0
    config.train.crop_padding = 4
    config.train.flip = True
    if variant:
        _digits(config)
    if variant == "smoke":
        config.train.epochs = 12.0
        config.train.warmup_epochs = 1.0
        config.smoothness.models = 2
        config.robust.images = config.transfer.images = 200
    return config


def _digits(config):
    """Small images, and a training of a thousand steps, in which the published schedule would clip ten times."""
    config.data.source = "digits"
    config.data.mean = (0.5,)
    config.data.std = (0.25,)
    # A network can be right about a wrong label only by having memorised it.
    config.data.label_noise = 0.1
    config.data.train_examples = 1000
    config.data.test_examples = 0
    config.model.width = 8
    config.smoothness.models = 3
    config.train.epochs = 60.0
    config.train.batch_size = 32
    config.train.schedule = "cosine"
    config.train.warmup_epochs = 3.0
    for clipping in (config.clipping, config.clipping_without_norm):
        clipping.every = 5
        clipping.steps = 2
        clipping.step_size = 0.0

    optimization = config.amun.optimization
    optimization.epochs = 5.0
    optimization.batch_size = 32
    optimization.learning_rate = 0.02
    optimization.schedule = "cosine"
    for crops in (config.train, optimization):
        crops.crop_padding = 0
        crops.flip = False
    # One norm for all attacks, so that they share a program.
    config.neighbours.steps = 10
    config.neighbours.step_ratio = 0.2
    config.robust.norm = config.transfer.norm = "l2"
    config.robust.epsilon = 0.5
    config.transfer.epsilon = 1.0
    config.robust.steps = config.transfer.steps = 10
