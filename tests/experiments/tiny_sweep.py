"""A sweep of seconds, which the tests of sweeps share."""

import dataclasses

from mu_jax.config import DataConfig, LoopConfig, ModelConfig, OptimizationConfig, ShadowSweep, SweepConfig

SWEEP = SweepConfig(models=6, mapping="pmap_map", models_per_device=1)
CONFIG = ShadowSweep(
    data=DataConfig(source="synthetic:8,8,1,3,60,20", label_noise=0.1),
    model=ModelConfig(name="cnn", width=8),
    train=OptimizationConfig(epochs=4.0, batch_size=8, learning_rate=0.05, flip=True),
    sweep=SWEEP,
    loop=LoopConfig(chunk_steps=10),
)
FILES = ("member.npy", "labels.npy", "phi.npy", "probability.npy")


def changed(**changes):
    """CONFIG with settings of its groups replaced: sweep=dict(models=4)."""
    return dataclasses.replace(
        CONFIG,
        **{key: dataclasses.replace(getattr(CONFIG, key), **values) for key, values in changes.items()},
    )


def signals(folder):
    return {name: (folder / "signals" / name).read_bytes() for name in FILES}
