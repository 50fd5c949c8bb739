"""A comparison of methods that takes seconds: a small MLP on digits, a third of whose labels are wrong."""

import dataclasses

from mu_jax.config import (
    DataConfig,
    EvaluationConfig,
    ForgetConfig,
    LoopConfig,
    MethodsConfig,
    ModelConfig,
    OptimizationConfig,
    UnlearningMethods,
)
from mu_jax.config.methods import (
    AmunConfig,
    BoundaryShrinkConfig,
    GradientAscentConfig,
    L1SparseConfig,
    NegativeGradientPlusConfig,
    RandomLabelsConfig,
    SalunConfig,
    ScrubConfig,
)
from mu_jax.config.unlearning import PoolConfig, RequestsConfig, RobustConfig, StudyConfig

TRAIN = OptimizationConfig(epochs=60.0, batch_size=16, learning_rate=0.05, weight_decay=0.0)
SHORT = dataclasses.replace(TRAIN, epochs=3.0, learning_rate=0.02, schedule="constant")
METHODS = MethodsConfig(
    finetune=SHORT,
    gradient_ascent=GradientAscentConfig(dataclasses.replace(SHORT, epochs=1.0, learning_rate=1e-3)),
    random_labels=RandomLabelsConfig(SHORT),
    boundary_shrink=BoundaryShrinkConfig(SHORT),
    l1_sparse=L1SparseConfig(SHORT),
    salun=SalunConfig(SHORT),
    scrub=ScrubConfig(SHORT, forget_batch=8),
    negative_gradient_plus=NegativeGradientPlusConfig(SHORT),
    amun=AmunConfig(SHORT),
    amun_salun=AmunConfig(SHORT, saliency_share=0.5),
)
CONFIG = UnlearningMethods(
    data=DataConfig(train_examples=160, test_examples=120, label_noise=0.3),
    forget=ForgetConfig(fraction=0.25),
    model=ModelConfig(name="mlp", width=64),
    train=TRAIN,
    methods=METHODS,
    study=StudyConfig(forget_sets=2),
    pool=PoolConfig(models=4),
    robust=RobustConfig(images=20, epsilon=0.1, steps=5),
    requests=RequestsConfig(number=2, size=12),
    loop=LoopConfig(chunk_steps=200),
    evaluation=EvaluationConfig(bootstrap_samples=200, query_batch=64, gallery_images=4),
)
