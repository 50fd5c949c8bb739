"""Quickstart: does fine-tuning hide deleted digits as well as retraining would?

ResNet-18 (width 16) on scikit-learn's 8×8 digits: 800 training images, of which a quarter is deleted.

The membership signal is made on purpose, by label noise: 20% of all labels, of training and test images alike, are
replaced by another class. A network can only be right about such a label by having memorised it, so the original
model is far surer of its training images than of unseen ones. Accuracy is measured against the noisy labels too:
about 80% is the best that a model without memory of the images can do.

    bash scripts/quickstart.sh
    python -m mu_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Variant `:smoke`: a tenth of the training, to see that everything runs; its figures mean nothing.

Expected time: 27 s on 2 CPU cores (of which 8 s train), less for `:smoke`.
Expected result (seed 0; JAX 0.10.2 on 2 CPU cores; attack AUC with its 95% interval over images):

| model | retain % | forget % | test % | attack accuracy % | attack AUC % |
|---|---|---|---|---|---|
| original | 99.8 | 100.0 | 64.8 | 71.0 | 76.8 [73.4, 79.8] |
| finetune | 96.0 | 84.5 | 70.6 | 55.8 | 61.0 [56.6, 65.1] |
| retrain | 100.0 | 66.0 | 66.4 | 49.3 | 51.1 [46.6, 55.7] |
| retrain_again | 100.0 | 63.5 | 65.4 | 46.0 | 49.1 [44.7, 53.7] |

Attack AUC over seeds 0, 1, 2 (mean ± standard deviation, n = 3): original 75.7 ± 2.7, finetune 62.9 ± 3.2,
retrain 52.2 ± 1.1, retrain_again 51.1 ± 2.3.
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
