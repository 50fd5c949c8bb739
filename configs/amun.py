"""AMUN beside every baseline: random CIFAR-10 images forgotten, each method measured against retraining.

Ebrahimpour-Boroojeny, Sundaram and Chandrasekaran, "Not All Wrong is Bad: Using Adversarial Examples for Unlearning",
ICML 2025 (public code https://github.com/Ali-E/AMUN). ResNet-18 trained with SGD (0.1, momentum 0.9, weight decay 5e-4,
divided by 10 every 40 epochs), batch 128, 200 epochs, crops and mirroring; 10% of the training images are deleted;
3 base models × 3 forget sets × 3 runs; RMIA against 128 references over training and test images.

    python -m mu_jax.main --config=configs/amun.py --config.data.source=npz:FILE --workdir=runs/amun

Variants, which may be joined by `+` in any order (`:half+no_retain`); of `gpu`, `small` and `smoke`, which all set the
size, the last one in this table wins:

| variant | what it changes |
|---|---|
| `half` | 50% of the training images are deleted |
| `no_retain` | methods see the deleted images alone; those that need the others are left out |
| `ablation` | AMUN's variants and ablations, 20 epochs each, the rate divided by 10 every 5; no other methods |
| `requests` | adds five requests after one another, AMUN and AMUN-A |
| `gpu` | 32 references of 30 epochs, one base model and run, three forget sets |
| `small` | what two CPU cores can do: 3,000 + 1,500 images, width 16, 12 epochs, 8 references, two forget sets |
| `smoke` | digits, a tenth of their labels wrong, a pool of 8 |

Published, 10% deleted, with retained images (accuracies and AUC in %, mean ± sd over 27 runs):

| method | unlearn | retain | test | FT AUC | average gap |
|---|---|---|---|---|---|
| retrain | 94.49 ± .20 | 100.0 | 94.33 ± .18 | 50.00 ± .42 | 0 |
| finetune | 95.16 ± .29 | 96.64 ± .25 | 92.21 ± .27 | 52.08 ± .34 | 2.06 ± .10 |
| random_labels | 95.54 ± .14 | 97.47 ± .08 | 92.17 ± .10 | 51.33 ± .63 | 1.74 ± .18 |
| gradient_ascent | 98.94 ± 1.39 | 99.22 ± 1.31 | 93.39 ± 1.18 | 60.96 ± 2.93 | 4.28 ± .47 |
| boundary_shrink | 99.14 ± .31 | 99.89 ± .06 | 93.04 ± .14 | 57.85 ± 1.12 | 3.48 ± .32 |
| l1_sparse | 94.29 ± .34 | 95.63 ± .16 | 91.55 ± .17 | 51.21 ± .32 | 2.16 ± .06 |
| salun | 96.25 ± .21 | 98.14 ± .16 | 93.06 ± .18 | 50.88 ± .54 | 1.44 ± .12 |
| amun | 95.45 ± .19 | 99.57 ± .00 | 93.45 ± .22 | 50.18 ± .36 | 0.62 ± .05 |
| amun_salun | 95.02 ± .18 | 99.58 ± .04 | 93.29 ± .04 | 50.72 ± .79 | 0.68 ± .18 |

Published, 50% deleted, with retained images:

| method | unlearn | retain | test | FT AUC | average gap |
|---|---|---|---|---|---|
| retrain | 92.09 ± .37 | 100 | 91.85 ± .33 | 50.01 ± .12 | 0 |
| finetune | 94.24 ± .30 | 95.82 ± .31 | 91.21 ± .33 | 51.74 ± .36 | 2.17 ± .13 |
| random_labels | 94.83 ± .44 | 99.79 ± .04 | 90.08 ± .16 | 50.78 ± .14 | 1.38 ± .09 |
| gradient_ascent | 100 | 100 | 94.65 ± .07 | 63.39 ± .26 | 4.62 ± .05 |
| boundary_shrink | 55.24 ± 5.11 | 55.67 ± 4.90 | 50.16 ± 5.28 | 55.19 ± .42 | 32.01 ± 3.86 |
| l1_sparse | 98.00 ± .17 | 98.71 ± .13 | 92.79 ± .10 | 54.44 ± .47 | 2.67 ± .11 |
| salun | 96.68 ± .35 | 99.89 ± .01 | 91.97 ± .18 | 50.86 ± .18 | 1.36 ± .04 |
| amun | 93.50 ± .09 | 99.71 ± .01 | 92.39 ± .04 | 49.99 ± .18 | 0.33 ± .03 |
| amun_salun | 93.56 ± .07 | 99.72 ± .02 | 92.52 ± .20 | 49.81 ± .40 | 0.36 ± .07 |

Published, 10% deleted, with the deleted images alone:

| method | unlearn | retain | test | FT AUC | average gap |
|---|---|---|---|---|---|
| random_labels | 100 | 100 | 94.45 | 61.85 ± .25 | 4.31 ± .06 |
| gradient_ascent | 4.77 ± 3.20 | 5.07 | 5.09 | 49.78 | 68.53 ± 2.45 |
| boundary_shrink | 100 | 100 | 94.48 | 61.41 | 4.20 ± .07 |
| salun | 100 | 100 | 94.47 | 61.09 | 4.11 ± .09 |
| amun | 94.28 ± .37 | 97.47 ± .10 | 91.67 ± .04 | 52.24 ± .23 | 1.94 ± .13 |
| amun_salun | 94.19 ± .38 | 97.71 ± .06 | 91.79 ± .12 | 51.93 ± .12 | 1.77 ± .06 |

Published, 50% deleted, with the deleted images alone:

| method | unlearn | retain | test | FT AUC | average gap |
|---|---|---|---|---|---|
| random_labels | 100 | 100 | 94.57 | 61.99 ± .10 | 4.29 ± .03 |
| gradient_ascent | 100 | 100 | 92.65 | 63.41 | 5.13 ± .04 |
| boundary_shrink | 100 | 100 | 94.58 | 62.43 | 4.40 ± .05 |
| salun | 100 | 100 | 94.59 | 62.45 | 4.40 ± .07 |
| amun | 92.77 ± .52 | 95.66 ± .25 | 89.43 ± .19 | 52.60 ± .22 | 2.51 ± .09 |
| amun_salun | 91.90 ± .63 | 96.59 ± .31 | 89.98 ± .44 | 52.32 ± .56 | 2.00 ± .17 |

Expected time and result of the full experiment and of `:gpu`: not measured yet; they wait for an accelerator.

Expected time of `:small`: 56 minutes of CPU time on 2 CPU cores that other programs kept busy (JAX 0.12.0; times below
are long by that); on idle ones about 30 minutes, by the speed of its first models.
Expected result of `:small` on CIFAR-10 (JPEG copy; seed 0, mean ± sd over two forget sets of 300; settings chosen by
configs/unlearning_search.py:small on a third one):

| Model | Gap pp | Unlearn % | Retain % | Test % | FT AUC % | SVC % | Robust % | Time s |
|---|---|---|---|---|---|---|---|---|
| retrain | 0.00 | 47.8 | 100.0 | 45.6 | 52.2 | 79.5 | 0.8 | 134 |
| retrain_again | 0.79 ± 0.61 | 46.8 | 100.0 | 44.7 | 52.1 | 78.2 | 0.2 | 112 |
| original | 24.58 ± 0.63 | 100.0 | 100.0 | 46.5 | 96.4 | 1.3 | 0.5 | 111 |
| amun | 5.00 ± 0.16 | 39.7 | 100.0 | 44.8 | 62.5 | 87.8 | 0.2 | 187 |
| random_labels | 5.63 ± 1.70 | 43.5 | 100.0 | 41.1 | 41.2 | 99.8 | 0.2 | 47.4 |
| salun | 6.34 ± 1.04 | 67.7 | 100.0 | 41.5 | 50.8 | 98.3 | 0.2 | 95.7 |
| amun_salun | 7.95 ± 0.86 | 58.3 | 100.0 | 44.8 | 71.6 | 83.2 | 0.0 | 188 |
| negative_gradient_plus | 8.72 ± 2.60 | 43.3 | 75.6 | 41.8 | 52.3 | 58.2 | 1.0 | 104 |
| finetune | 12.02 ± 0.09 | 44.8 | 68.3 | 35.9 | 56.0 | 49.8 | 2.0 | 70.3 |
| l1_sparse | 14.07 ± 3.59 | 43.3 | 59.1 | 36.8 | 54.4 | 49.8 | 2.5 | 68.4 |
| boundary_shrink | 14.37 ± 0.54 | 4.3 | 100.0 | 44.0 | 40.2 | 99.8 | 0.5 | 38.7 |
| gradient_ascent | 17.10 ± 1.19 | 84.7 | 100.0 | 44.5 | 82.7 | 30.7 | 0.2 | 74.2 |
| scrub | 27.20 ± 4.57 | 26.0 | 36.8 | 30.5 | 43.5 | 62.7 | 4.5 | 102 |

AMUN has the smallest gap, with `random_labels` close behind (4.4 and 6.8 points on the two sets, AMUN 5.1 and 4.9): n
is 2, so the order of the first three is not settled; that of AMUN before fine-tuning (7.0 points less, on both) is. Its
gap is six times the noise floor, most of it FT AUC: RMIA still tells deleted images from unseen ones. AMUN is not given
the true labels of the deleted images (`forget` False, the code's `advonly`): these models memorise everything and
retraining forgets half, so that with them nothing near it was found (12 points in the search).

Expected time of `:smoke`: 2 minutes 51 to 55 seconds on 2 idle CPU cores (JAX 0.10.2), compilation in it.
Expected result of `:smoke` (seed 0, one run each, so a point is one image; time is training and preparation, and long,
because other programs used the cores):

| Model | Gap pp | Unlearn % | Retain % | Test % | FT AUC % | SVC % | Robust % | Time s |
|---|---|---|---|---|---|---|---|---|
| retrain | 0.00 | 81.0 | 98.4 | 84.2 | 45.7 | 25.0 | 15.0 | 7.49 |
| retrain_again | 0.59 | 81.0 | 98.7 | 85.0 | 47.1 | 27.0 | 19.0 | 7.02 |
| original | 11.83 | 97.0 | 97.3 | 83.2 | 74.9 | 9.0 | 17.0 | 9.55 |
| random_labels | 5.34 | 91.0 | 96.8 | 82.4 | 53.6 | 39.0 | 18.0 | 2.7 |
| finetune | 5.47 | 85.0 | 92.9 | 80.2 | 54.0 | 22.0 | 29.5 | 2.36 |
| amun | 5.84 | 82.0 | 93.6 | 80.4 | 59.4 | 35.0 | 12.5 | 23.4 |
| negative_gradient_plus | 6.20 | 85.0 | 97.0 | 80.2 | 61.1 | 17.0 | 19.5 | 1.2 |
| salun | 6.29 | 94.0 | 96.6 | 81.8 | 53.6 | 37.0 | 14.0 | 2.71 |
| amun_salun | 6.50 | 89.0 | 94.7 | 82.8 | 58.5 | 28.0 | 16.5 | 23.3 |
| gradient_ascent | 7.29 | 73.0 | 92.0 | 74.8 | 51.0 | 28.0 | 15.0 | 1.25 |
| l1_sparse | 8.25 | 92.0 | 98.9 | 82.0 | 65.1 | 14.0 | 15.5 | 2.92 |
| boundary_shrink | 10.54 | 96.0 | 97.3 | 82.4 | 70.0 | 19.0 | 15.5 | 2.65 |
| scrub | 11.35 | 97.0 | 97.2 | 84.2 | 73.9 | 10.0 | 16.0 | 1.41 |

AMUN is not the nearest here: see README for why this says little about the published tables.
"""

from mu_jax.config import default_config, unknown_variant

_VARIANTS = ("half", "no_retain", "ablation", "requests", "gpu", "small", "smoke")
_NEED_RETAINED = ("finetune", "l1_sparse", "scrub", "negative_gradient_plus")
_ABLATION = (
    "amun",
    "amun_salun",
    "amun_advonly",
    "amun_l1",
    "amun_fgsm",
    "amun_transferred",
    "amun_random_shift",
    "amun_random_label",
    "amun_original",
    "amun_original_random",
    "amun_original_adversarial",
)


def get_config(variant: str = ""):
    chosen = variant.split("+") if variant else []
    for name in chosen:
        if name not in _VARIANTS:
            unknown_variant(name, _VARIANTS)
    config = default_config("unlearning_methods")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.forget.fraction = 0.5 if "half" in chosen else 0.1
    config.model.width = 64
    config.model.halve_shortcut = True

    config.train.epochs = 200.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.step_epochs = 40.0
    config.train.crop_padding = 4
    config.train.flip = True
    # SalUn's code cuts CIFAR-10 into batches of 256, AMUN's into 128: all here have AMUN's.
    for method in ("random_labels", "boundary_shrink", "l1_sparse", "salun", "gradient_ascent"):
        config.methods[method].optimization.batch_size = 128
    config.methods.finetune.batch_size = 128

    # As AMUN's code does where it has the retained images.
    config.methods.gradient_ascent.retain = "no_retain" not in chosen
    config.study.base_models = 3
    config.study.forget_sets = 3
    config.study.runs = 3
    config.pool.models = 128
    config.pool.epochs = 161.0
    config.loop.chunk_steps = 200

    if "requests" in chosen:
        config.requests.number = 5
        config.requests.size = 1000
    if "no_retain" in chosen:
        for method in ("random_labels", "boundary_shrink", "salun", "amun", "amun_salun"):
            config.methods[method].retain = False
    if "gpu" in chosen and not {"small", "smoke"}.intersection(chosen):
        config.study.base_models = config.study.runs = 1
        config.train.epochs = 30.0
        config.train.schedule = "cosine"
        config.pool.models = 32
        config.pool.epochs = 30.0
        config.model.compute_dtype = "bfloat16"
    if "small" in chosen or "smoke" in chosen:
        _small(config)
    if "smoke" in chosen:
        _smoke(config)
    # After the sizes, whose own schedules it overrules.
    if "ablation" in chosen:
        _ablation(config)
    if "no_retain" in chosen:
        config.names = tuple(name for name in config.names if name not in _NEED_RETAINED)
    return config


def _ablation(config):
    """As the paper's ablation has it, at the learning rate of the size."""
    config.names = _ABLATION
    for method in ("amun", "amun_salun"):
        settings = config.methods[method]
        # Else `amun` would be `amun_advonly` where the size leaves the deleted images out.
        settings.forget = True
        optimization = settings.optimization
        optimization.epochs, optimization.schedule, optimization.step_epochs = 20.0, "step", 5.0


def _small(config):
    """What two CPU cores can do."""
    config.data.train_examples = 3000
    config.data.test_examples = 1500
    config.model.width = 16
    config.study.base_models = config.study.runs = 1
    config.study.forget_sets = 2
    config.pool.models = 8
    config.pool.epochs = 0.0
    config.requests.size = 200
    config.robust.images = 200
    config.robust.steps = 10
    config.train.epochs = 12.0
    config.train.batch_size = 64
    config.train.learning_rate = 0.05
    config.train.schedule = "cosine"
    # Without augmentation, so that a short training memorises.
    for optimization in _optimizations(config):
        optimization.batch_size = 64
        optimization.crop_padding = 0
        optimization.flip = False
    config.methods.scrub.forget_batch = 16
    config.loop.chunk_steps = 50
    # Chosen by configs/unlearning_search.py:small, on a forget set of its own (see there); amun_salun has amun's.
    rates = {
        "gradient_ascent": 0.005,
        "random_labels": 0.003,
        "boundary_shrink": 0.003,
        "l1_sparse": 0.05,
        "salun": 0.003,
        "scrub": 0.003,
        "negative_gradient_plus": 0.05,
        "amun": 0.01,
        "amun_salun": 0.01,
    }
    for optimization in _optimizations(config)[1:]:
        optimization.epochs = 4.0
        optimization.schedule = "constant"
    for method, rate in rates.items():
        config.methods[method].optimization.learning_rate = rate
    config.methods.finetune.learning_rate = 0.05
    config.methods.negative_gradient_plus.alpha = 0.99
    # What retraining forgets here is more than half: with the deleted images among the others nothing was near it.
    config.methods.amun.forget = config.methods.amun_salun.forget = False


def _smoke(config):
    """Digits; a network can be right about a wrong label only by having memorised it."""
    config.data.source = "digits"
    config.data.label_noise = 0.1
    config.data.mean = (0.5,)
    config.data.std = (0.25,)
    config.data.train_examples = 1000
    config.data.test_examples = 0
    config.study.forget_sets = 1
    config.pool.models = 8
    config.requests.size = 20
    config.robust.epsilon = 0.1
    for optimization in _optimizations(config):
        optimization.batch_size = 32
    config.train.epochs = 30.0
    config.train.weight_decay = 0.0
    published = default_config("unlearning_methods").methods
    for method in published:
        mine, theirs = _optimization(config.methods[method]), _optimization(published[method])
        for key in ("epochs", "learning_rate", "schedule", "step_epochs"):
            mine[key] = theirs[key]
    config.methods.negative_gradient_plus.alpha = published.negative_gradient_plus.alpha
    config.methods.amun.forget = config.methods.amun_salun.forget = True
    # Chosen by configs/unlearning_search.py:smoke on a forget set of its own, but for random_labels and amun_salun,
    # which have those of their nearest kin; the others keep their published settings.
    config.methods.finetune.learning_rate = 0.03
    chosen = {
        "gradient_ascent": (0.01, "constant"),
        "random_labels": (0.01, "step"),
        "salun": (0.01, "step"),
        "amun": (0.03, "constant"),
        "amun_salun": (0.03, "constant"),
    }
    for method, (rate, schedule) in chosen.items():
        optimization = config.methods[method].optimization
        optimization.learning_rate, optimization.schedule, optimization.step_epochs = rate, schedule, 1.0


def _optimization(method):
    return method if "epochs" in method else method.optimization


def _optimizations(config):
    return [config.train, *(_optimization(config.methods[name]) for name in config.methods)]
