"""When unlearning leaks: who can query a model before and after a deletion may learn who was deleted.

Paper: Chen, Zhang, Wang, Backes, Humbert and Zhang, "When Machine Unlearning Jeopardizes Privacy", CCS 2021, of which
the authors' code was read (its tables were not at hand).

    python -m mu_jax.main --config=configs/unlearning_leaks.py --workdir=runs/leaks --config.data.source=cifar:FOLDER

Variants, behind a colon and joined by `+`:

| variant | |
|---|---|
| none | CIFAR-10, small CNN and ResNet-18, each trained briefly (it generalises as well as it can) and long |
| `small` | what two CPU cores can do: 3,000 images, a narrow CNN, two lengths of training, two scenarios |
| `methods` | every unlearning method beside retraining and SISA, from the same originals |
| `tabular` | scikit-learn's breast cancer: logistic regression, MLP, decision tree, random forest |
| `smoke` | digits, an MLP, three scenarios |

Published (abstract, and third parties' notes on the paper): the attack on pairs beats the classical one in several
cases, most on well-generalised models; concatenated posteriors suit overfitted targets, differences well-generalised
ones. The tables' own figures are not known here.

Expected time and result of the full experiment: not measured yet; it waits for an accelerator.

Expected time of `:smoke`: 1 minute 36 seconds on 2 idle CPU cores (JAX 0.12.0).
Expected result of `:smoke` (seed 0, JAX 0.10.2; 60 deleted and 60 never learned examples; the attack is chosen on
shadow pairs):

| Model | Attack | AUC % | Classical % | DegRate pp | Train/test % |
|---|---|---|---|---|---|
| mlp | ℓ2, random forest | 54.4 [44, 65] | 56.8 | +0.6 | 95.2/85.1 |
| mlp, shared start | sorted difference, random forest | 85.8 [73, 93] | 56.8 | +18.7 | 95.2/85.1 |
| mlp, 40 epochs | sorted concat, logistic regression | 73.0 [57, 85] | 51.5 | +6.7 | 100.0/91.0 |
| mlp, 40 epochs, shared start | sorted concat, logistic regression | 79.8 [71, 86] | 51.5 | +7.7 | 100.0/91.0 |

Expected time of `:small`: 9 minutes on 2 CPU cores that other programs used as well (JAX 0.12.0). Expected result of
`:small` (CIFAR-10, JPEG copy, halved to 16×16 by means of 2×2 pixels; seed 0; 48 deleted and 48 never learned
examples):

| Model | Attack | AUC % | Classical % | DegRate pp | Train/test % |
|---|---|---|---|---|---|
| cnn, 5 epochs | concat, decision tree | 58.7 [50, 67] | 55.8 | +0.8 | 37.2/24.1 |
| cnn, 5 epochs, shared start | ℓ2, logistic regression | 84.4 [66, 94] | 56.9 | +16.8 | 37.2/24.1 |
| cnn, 20 epochs | sorted concat, random forest | 87.0 [65, 96] | 72.9 | +11.4 | 99.3/31.5 |
| cnn, 20 epochs, shared start | sorted concat, logistic regression | 99.5 [88, 100] | 56.2 | +34.9 | 99.3/31.5 |

Expected time of `:tabular`: not measured on idle cores; most of it fits forests. Expected result of `:tabular` (seed 0,
JAX 0.12.0; 60 deleted and 60 never learned examples): AUC 41.2 [35, 47] logistic regression, 49.9 [38, 62] MLP, 43.6
[36, 51] decision tree (95% exact ties), 74.0 [67, 80] random forest; see README.
"""

from mu_jax.config import default_config, unknown_variant

_VARIANTS = ("small", "methods", "tabular", "smoke")


def get_config(variants: str = ""):
    config = default_config("unlearning_leaks")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.model.width = 32
    config.train.epochs = 10.0
    config.train.batch_size = 64
    config.train.learning_rate = 0.05
    config.train.weight_decay = 5e-4
    config.leaks.targets = (
        "cnn",
        "cnn:train.epochs=60.0,train.weight_decay=0.0",
        "resnet18:model.width=64",
        "resnet18:model.width=64,train.epochs=60.0,train.weight_decay=0.0",
    )
    config.leaks.shares = ("nothing", "start")
    config.leaks.scenarios = ("single", "group", "intermediates", "online", "remaining")
    config.leaks.group_sizes = (2, 10, 50)
    config.leaks.intermediates = (2, 5, 10)
    config.evaluation.fpr = (0.01, 0.1)
    # A checkpoint of an unlearned model is not kept: whole trainings go into one chunk or few.
    config.loop.chunk_steps = 200

    names = variants.split("+") if variants else []
    for name in names:
        if name not in _VARIANTS:
            unknown_variant(name, _VARIANTS)
    for name in names:
        _CHANGES[name](config)
    return config


def _small(config):
    """What two CPU cores can do."""
    config.data.train_examples = 2000
    config.data.test_examples = 1000
    config.model.width = 8
    config.leaks.targets = ("cnn:train.epochs=5.0", "cnn:train.epochs=20.0,train.weight_decay=0.0")
    config.leaks.originals = 6
    config.leaks.unlearned = 8
    config.leaks.training_examples = 400
    config.leaks.scenarios = ("single", "group")
    config.leaks.group_sizes = (10,)


def _methods(config):
    config.leaks.targets = config.leaks.targets[:1]
    config.leaks.shares = ("nothing",)
    config.leaks.scenarios = ("single", "group")
    config.leaks.group_sizes = (10,)
    config.leaks.methods = (
        "retrain",
        "sisa",
        "finetune",
        "gradient_ascent",
        "random_labels",
        "boundary_shrink",
        "l1_sparse",
        "salun",
        "scrub",
        "negative_gradient_plus",
        "amun",
    )


def _tabular(config):
    config.data.source = "breast_cancer"
    config.data.train_examples = 0
    config.data.test_examples = 0
    config.data.mean = (0.0,)
    config.data.std = (1.0,)
    config.model.width = 32
    config.train.epochs = 20.0
    config.train.batch_size = 16
    config.leaks.targets = ("logistic_regression", "mlp", "decision_tree", "random_forest")
    config.leaks.originals = 6
    config.leaks.unlearned = 10
    config.leaks.training_examples = 150
    config.leaks.shares = ("nothing",)
    config.leaks.scenarios = ("single", "group", "intermediates", "online")
    config.leaks.group_sizes = (10,)
    config.leaks.intermediates = (5,)
    config.leaks.online_sizes = (5,)


def _smoke(config):
    config.data.source = "digits"
    config.data.mean = (0.5,)
    config.data.std = (0.25,)
    config.model.width = 32
    config.train.epochs = 10.0
    config.train.batch_size = 32
    config.leaks.targets = ("mlp", "mlp:train.epochs=40.0,train.weight_decay=0.0")
    config.leaks.originals = 6
    config.leaks.unlearned = 10
    config.leaks.training_examples = 200
    config.leaks.shares = ("nothing", "start")
    config.leaks.scenarios = ("single", "group", "intermediates")
    config.leaks.group_sizes = (10,)
    config.leaks.intermediates = (5,)
    config.leaks.classifiers = ("logistic_regression", "decision_tree", "random_forest")
    config.evaluation.bootstrap_samples = 500


_CHANGES = {"small": _small, "methods": _methods, "tabular": _tabular, "smoke": _smoke}
