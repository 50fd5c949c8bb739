"""Quickstart: does fine-tuning hide deleted digits as well as retraining would?

ResNet-18 (width 16) on scikit-learn's 8×8 digits: 800 training images, of which a quarter is deleted.

The membership signal is made on purpose, by label noise: 20% of all labels, of training and test images alike, are
replaced by another class. A network can only be right about such a label by having memorised it, so the original
model is far surer of its training images than of unseen ones. Accuracy is measured against the noisy labels too:
about 80% is the best that a model without memory of the images can do.

    bash scripts/quickstart.sh
    python -m mu_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Variant `:smoke`: a tenth of the training, to see that everything runs; its figures mean nothing.

Expected time: 67 s on 2 CPU cores (of which 35 s train), half a minute for `:smoke`.
Expected result (seed 0; JAX 0.10.2 on 2 CPU cores; attack AUC with its 95% interval over images):

| model | retain % | forget % | test % | attack accuracy % | attack AUC % |
|---|---|---|---|---|---|
| original | 99.8 | 99.0 | 67.0 | 69.2 | 77.4 [73.8, 80.6] |
| finetune | 94.5 | 85.5 | 66.4 | 59.2 | 64.1 [59.8, 68.0] |
| retrain | 100.0 | 69.0 | 68.6 | 46.2 | 51.2 [46.4, 55.9] |
| retrain_again | 100.0 | 66.0 | 65.4 | 45.2 | 49.8 [45.2, 54.5] |

Attack AUC over seeds 0, 1, 2 (mean ± standard deviation, n = 3): original 75.8 ± 3.4, finetune 62.5 ± 1.7,
retrain 51.5 ± 1.3, retrain_again 50.5 ± 2.0.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("unlearning_comparison")
    config.data.source = "digits"
    config.data.train_examples = 800
    config.data.label_noise = 0.2
    config.forget.fraction = 0.25
    config.model.width = 16

    config.train.epochs = 40.0
    config.train.batch_size = 32
    config.train.learning_rate = 0.1
    # Weight decay would work against the memorising that this example is about.
    config.train.weight_decay = 0.0

    config.finetune.epochs = 5.0
    config.finetune.batch_size = 32
    config.finetune.learning_rate = 0.1
    config.finetune.weight_decay = 0.0

    if variant == "smoke":
        config.train.epochs = 4.0
        config.finetune.epochs = 1.0
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
