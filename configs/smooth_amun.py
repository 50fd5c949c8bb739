"""Smooth models and AMUN: layers clipped at several norms, with and without batch-norm, attacked, and made to forget.

Ebrahimpour-Boroojeny, Telgarsky and Sundaram, "Spectrum Extraction and Clipping for Implicitly Linear Layers", AISTATS
2024 (FastClip); LOTOS, "Training Robust Ensembles Requires Rethinking Lipschitz Continuity", ICLR 2025 (transfer
between clipped models, https://github.com/Ali-E/LOTOS); the second factor of AMUN's Theorem 4.1 (configs/amun.py) is
how far adversarial examples carry over to the retrained model. ResNet-18 trained with SGD (0.1, momentum 0.9, weight
decay 5e-4, divided by 10 every 40 epochs), batch 128, 200 epochs; layers tracked each step and clipped every 50 steps
(5 gradient steps of 0.35; without batch-norm every 100, 1 step), with batch-norm composed every 100 (1 step of 0.01).

    python -m mu_jax.main --config=configs/smooth_amun.py --config.data.source=npz:FILE --workdir=runs/smooth

| variant | what it changes |
|---|---|
| `digits` | digits, a tenth of their labels wrong; width 8, 60 epochs, 3 models of each kind; clipped every 5 steps |
| `smoke` | the same with 12 epochs and 2 models |

In both, a clipping takes 2 steps of the best length along the gradient.

Published: tables of the clipped networks' figures were not found. From a notebook of LOTOS's public code, two ResNet-18
without batch-norm on CIFAR-10 after 120 epochs, PGD-50 in ℓ∞ with ε 0.04 (transfer / robust / clean accuracy): not
clipped .842 / .181 / .922; clipped at 1 .876 / .339 / .909. From FastClip's: the norm of a small CNN's layers on MNIST,
clipped at 1, falls from 1.893 to 1.08 over five epochs.

Where this differs: a last clipping after training, until every norm that is measured is within 2% of the bound, and
then batch-norm's statistics anew; layers are never pushed up to the clip, as the public code does with convolutions;
models of all clips start from the same weights and see the same batches.

Expected time and result of the full experiment: not measured yet; it waits for an accelerator.

Expected time of `:digits`: 18 minutes 34 seconds on 2 CPU cores that other programs used as well (JAX 0.10.2), 13
minutes 24 seconds of processor time; on idle ones not measured. Expected result of `:digits` (seed 0, mean ± sd over 3
models, 6 pairs for transfer; PGD-10 in ℓ2, ε 0.5 for robust accuracy and 1 for transfer):

| Norm | Clip | Test % | Largest norm | Lipschitz bound | Robust % | Transfer % | δ | AMUN's gap pp | Floor pp |
|---|---|---|---|---|---|---|---|---|---|
| batch | none | 82.8 ± 0.4 | 6.466 | 1.2e+07 | 18.5 ± 1.0 | 9.0 ± 2.2 | 0.307 ± 0.014 | 7.43 ± 0.79 | 1.21 ± 0.41 |
| batch | 2 | 82.3 ± 1.1 | 2.004 | 6.9e+05 | 13.9 ± 0.1 | 9.5 ± 1.6 | 0.298 ± 0.013 | 5.83 ± 0.23 | 0.92 ± 0.29 |
| batch | 1 | 84.6 ± 0.3 | 1.007 | 5.8e+04 | 20.7 ± 3.0 | 12.1 ± 2.9 | 0.359 ± 0.015 | 4.90 ± 1.35 | 0.77 ± 0.11 |
| batch | 0.7 | 85.2 ± 0.3 | 0.704 | 3.0e+04 | 25.9 ± 3.6 | 13.3 ± 2.8 | 0.407 ± 0.023 | 3.83 ± 1.43 | 1.53 ± 0.36 |
| none | none | 80.8 ± 0.7 | 9.545 | 3.3e+09 | 17.0 ± 2.3 | 7.8 ± 1.3 | 0.266 ± 0.006 | 6.58 ± 0.83 | 1.46 ± 0.32 |
| none | 2 | 81.8 ± 0.7 | 2.003 | 1.9e+05 | 30.5 ± 1.9 | 12.1 ± 1.7 | 0.373 ± 0.015 | 5.18 ± 0.54 | 1.11 ± 0.10 |
| none | 1 | 86.2 ± 0.3 | 1.007 | 32.9 | 50.3 ± 0.4 | 35.8 ± 7.5 | 0.568 ± 0.017 | 2.50 ± 0.47 | 0.16 |
| none | 0.7 | 72.8 | 0.707 | 0.789 | 47.2 | – | 0.686 | – | – |

Expected time of `:smoke`: 3 minutes 43 seconds on 2 idle CPU cores (JAX 0.10.2), 61 seconds of it compilation of the
training programs. Expected result of `:smoke` (seed 0, over 2 models):

| Norm | Clip | Test % | Largest norm | Lipschitz bound | Robust % | Transfer % | δ | AMUN's gap pp | Floor pp |
|---|---|---|---|---|---|---|---|---|---|
| batch | none | 87.0 ± 0.3 | 8.436 | 7.7e+05 | 43.5 ± 2.1 | 9.9 ± 2.4 | 0.536 ± 0.013 | 1.69 ± 0.66 | 0.97 ± 0.00 |
| batch | 2 | 88.1 ± 1.6 | 2.001 | 1.2e+05 | 49.0 ± 7.1 | 12.7 ± 7.7 | 0.540 ± 0.081 | 2.16 ± 0.72 | 2.09 ± 0.00 |
| batch | 1 | 87.9 ± 0.1 | 1.009 | 3.1e+04 | 52.5 ± 0.0 | 16.3 ± 1.0 | 0.602 ± 0.001 | 1.11 ± 0.07 | 0.18 ± 0.00 |
| batch | 0.7 | 88.3 ± 0.4 | 0.706 | 1.9e+04 | 50.5 ± 9.2 | 22.8 ± 12.3 | 0.570 ± 0.050 | 2.27 ± 0.25 | 1.81 ± 0.00 |
| none | none | 86.4 ± 0.3 | 7.288 | 4.2e+08 | 37.2 ± 1.8 | 9.2 ± 0.0 | 0.482 ± 0.030 | 4.01 ± 3.43 | 3.66 ± 0.00 |
| none | 2 | 86.6 ± 0.6 | 2.002 | 1.2e+05 | 37.5 ± 3.5 | 8.7 ± 2.9 | 0.479 ± 0.025 | 2.92 ± 1.91 | 2.36 ± 0.00 |
| none | 1 | 83.9 ± 1.6 | 1.008 | 33.1 | 53.0 ± 1.4 | 25.6 ± 1.4 | 0.586 ± 0.014 | 6.24 ± 0.99 | 1.89 ± 0.00 |
| none | 0.7 | 22.4 | 0.706 | 0.75 | 14.0 | – | 0.707 | – | – |

On digits smoother models have more adversarial examples in common, are more robust, and AMUN comes nearer to retraining
on them, as published; δ grows as well, against what AMUN's bound would have. With batch-norm all of it is weaker,
because batch-norm undoes a layer's scale. Without batch-norm 2 of 9 models clipped at 1 and 5 of 9 clipped at 0.7 never
learned to tell the classes apart (`:digits`), and are left out of the means.
"""

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
