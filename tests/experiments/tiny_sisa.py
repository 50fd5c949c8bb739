"""Ensembles of seconds, which the tests of both SISA experiments share."""

import dataclasses

from mu_jax.config import (
    AdversaryConfig,
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    ModelConfig,
    OptimizationConfig,
    SisaConfig,
    SisaDelete,
    SisaPosterior,
)
from mu_jax.experiments.progress import LiveProgress

EVALUATION = EvaluationConfig(bootstrap_samples=100, query_batch=64)
DATA = DataConfig(source="synthetic:8,8,1,3,200,100", label_noise=0.3, validation_fraction=0.4)
POSTERIOR = SisaPosterior(
    data=DATA,
    forget=ForgetConfig(fraction=0.25),
    model=ModelConfig(name="mlp", width=64),
    train=OptimizationConfig(
        epochs=40.0, batch_size=8, learning_rate=0.02, schedule="constant", weight_decay=0.0
    ),
    sisa=SisaConfig(shards=3, slices=2, mapping="pmap_map", models_per_device=2),
    compare_shards=(2,),
    cost_requests=(1, 3),
    adversary=AdversaryConfig(other_source="synthetic:4,4,3,2,80,10"),
    loop=LoopConfig(chunk_steps=100),
    evaluation=EVALUATION,
)
DELETE = SisaDelete(
    data=dataclasses.replace(DATA, validation_fraction=0.0),
    model=POSTERIOR.model,
    train=POSTERIOR.train,
    sisa=POSTERIOR.sisa,
    loop=POSTERIOR.loop,
    evaluation=EVALUATION,
)


class Lines(LiveProgress):
    """Stands in for a run's progress; `lines` is what was said."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def __enter__(self):
        return self
