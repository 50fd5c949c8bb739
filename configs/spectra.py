"""TODO
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
