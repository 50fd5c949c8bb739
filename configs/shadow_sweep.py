"""placeholder

--config= Expected time Expected result
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("shadow_sweep")
    if variant == "smoke":
        config.data.source = "digits"
        config.data.label_noise = 0.2
        config.model.width = 16
        config.train.epochs = 20.0
        config.train.batch_size = 32
        config.train.weight_decay = 0.0
        config.sweep.models = 16
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
