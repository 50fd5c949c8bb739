"""placeholder, filled below."""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("unlearning_comparison")
    config.data.train_examples = 400
    config.forget.fraction = 0.25
    config.model.width = 16
    config.train.epochs = 30.0
    config.train.batch_size = 32
    config.finetune.batch_size = 32
    if variant == "smoke":
        config.train.epochs = 10.0
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
