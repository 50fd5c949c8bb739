"""The settings of each unlearning method, chosen on a forget set that is not the one to be scored.

AMUN's paper tunes every method by its average gap on a separate random forget set of the same size (learning rates 1e-6
to 1e-1, divided by 10 every epoch, every five, or never). This is that search with the recipe of `configs/amun.py`: its
original model, a forget set drawn from the examples that `configs/amun.py` keeps, two retrainings without it, and every
method with every setting of the grid, many settings side by side.

    python -m mu_jax.main --config=configs/unlearning_search.py --config.data.source=npz:FILE --workdir=runs/search

It prints the best setting of each method and writes its flags to `best.json`, to be given to `configs/amun.py` of the
same data, forget set and seed. A finer search of one method: `--config.names='("amun",)'
--config.search.learning_rates='(0.02,0.01,0.005)'`.

What the gaps are not: the smallest of many noisy gaps is smaller than the same setting's gap elsewhere (the winner's
curse), so they are no results; a run on the set to be scored gives those. Each setting is one run. The gap has the loss
attack's AUC where a study with a pool has RMIA's.

Variants: `:half` (50% deleted), `:small` (what two CPU cores can do: 3,000 + 1,500 images, width 16, as
`configs/amun.py:small`), `:smoke` (digits, a tenth of their labels wrong, five methods with four settings each).

Expected time and result of the full search and `:half`: not measured yet; they wait for an accelerator.

Expected time of `:small`: 17 minutes on 2 CPU cores (JAX 0.12), of which 10 train the 44 settings.
Expected result of `:small` on CIFAR-10 (a JPEG copy; seed 0, one run each, 300 of 3,000 deleted; loss attack's AUC):

| method | learning rate | retain % | forget % | test % | AUC % | gap, points |
|---|---|---|---|---|---|---|
| retrain | | 100.0 | 43.7 | 44.9 | 51.6 | 0 |
| retrain_again | | 100.0 | 44.0 | 46.9 | 50.0 | 1.0 |
| random_labels | 0.003 | 100.0 | 41.7 | 39.8 | 49.4 | 2.3 |
| salun | 0.003 | 100.0 | 53.7 | 40.4 | 54.2 | 4.3 |
| negative_gradient_plus (0.99) | 0.05 | 81.8 | 50.3 | 43.0 | 54.1 | 7.3 |
| amun_salun | 0.05 | 88.0 | 58.7 | 43.5 | 63.4 | 10.1 |
| finetune | 0.05 | 71.7 | 45.7 | 38.9 | 55.9 | 10.1 |
| amun | 0.05 | 77.1 | 55.7 | 41.5 | 61.2 | 12.0 |
| l1_sparse | 0.05 | 57.9 | 42.3 | 37.0 | 54.8 | 13.6 |
| boundary_shrink | 0.003 | 100.0 | 3.0 | 43.9 | 31.5 | 15.5 |
| scrub | 0.003 | 46.7 | 30.7 | 34.1 | 46.0 | 20.7 |
| gradient_ascent | 0.003 | 100.0 | 97.7 | 45.8 | 86.5 | 22.4 |
| original | | 100.0 | 100.0 | 46.5 | 91.0 | 24.3 |

(Gradient ascent was on the deleted images alone then; with the retained ones, as now, it comes to 17.5 at 0.005.)
Larger rates, tried for those that are best at the edge, do not help them. AMUN without the deleted images' own labels
(`amun_advonly`), tried for its learning rate more finely than the others, comes to 3.0 at 0.01: retain 100.0, forget
35.3, test 42.3, AUC 52.8. These settings are those of `configs/amun.py:small`.

Expected time of `:smoke`: 1 minute 39 seconds on 2 idle CPU cores (JAX 0.10.2), 2 minutes 12 seconds of CPU time.
Expected result of `:smoke` (seed 0, one run each, 100 deleted; the loss attack's AUC):

| method | learning rate | divided every | retain % | forget % | test % | AUC % | gap, points |
|---|---|---|---|---|---|---|---|
| retrain_again | | | 98.7 | 74.0 | 82.6 | 45.8 | 0.9 |
| negative_gradient_plus | 0.01 | never | 98.3 | 81.0 | 80.4 | 52.6 | 3.3 |
| salun | 0.01 | epoch | 97.4 | 82.0 | 81.8 | 42.6 | 3.7 |
| amun | 0.03 | never | 92.9 | 81.0 | 78.2 | 47.8 | 4.2 |
| finetune | 0.03 | never | 95.4 | 83.0 | 81.2 | 53.2 | 4.5 |
| gradient_ascent | 0.01 | never | 91.9 | 71.0 | 76.4 | 46.9 | 4.6 |
| original | | | 98.8 | 96.0 | 82.6 | 64.1 | 9.3 |

With 100 deleted images a point of forget accuracy is one image: the order of methods here means little.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("unlearning_search")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.forget.fraction = 0.5 if variant == "half" else 0.1
    config.model.width = 64
    config.model.halve_shortcut = True

    config.train.epochs = 200.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.schedule = "step"
    config.train.step_epochs = 40.0
    config.train.crop_padding = 4
    config.train.flip = True
    # One batch size for all, as in configs/amun.py: methods of one loss share a program.
    for method in ("random_labels", "boundary_shrink", "l1_sparse", "salun", "gradient_ascent"):
        config.methods[method].optimization.batch_size = 128
    config.methods.finetune.batch_size = 128
    config.methods.gradient_ascent.retain = True
    config.loop.chunk_steps = 200

    if variant in ("small", "smoke"):
        _small(config)
        if variant == "smoke":
            _smoke(config)
    elif variant not in ("", "half"):
        unknown_variant(variant, ("half", "small", "smoke"))
    return config


def _small(config):
    """What two CPU cores can do."""
    config.data.train_examples = 3000
    config.data.test_examples = 1500
    config.model.width = 16
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
    config.search.learning_rates = (5e-2, 1e-2, 3e-3, 5e-4)
    config.search.step_epochs = (0.0,)
    config.search.epochs = (4.0,)
    config.search.saliency_shares = (0.5,)
    config.search.l1_alphas = (5e-4,)
    config.search.negative_gradient_alphas = (0.95, 0.99)


def _smoke(config):
    """Digits; a network can be right about a wrong label only by having memorised it."""
    config.data.source = "digits"
    config.data.label_noise = 0.1
    config.data.mean = (0.5,)
    config.data.std = (0.25,)
    config.data.train_examples = 1000
    config.data.test_examples = 0
    for optimization in _optimizations(config):
        optimization.batch_size = 32
    config.train.epochs = 30.0
    config.train.weight_decay = 0.0
    # Each loss, mask and shape of examples is a program, of which these have three.
    config.names = ("finetune", "gradient_ascent", "negative_gradient_plus", "salun", "amun")
    config.search.learning_rates = (3e-2, 1e-2)
    config.search.step_epochs = (1.0, 0.0)
    config.search.epochs = (0.0,)
    config.search.saliency_shares = (0.5,)
    config.search.l1_alphas = (5e-4,)
    config.search.negative_gradient_alphas = (0.95,)


def _optimizations(config):
    methods = [config.methods[name] for name in config.methods]
    return [config.train, *(one if "epochs" in one else one.optimization for one in methods)]
