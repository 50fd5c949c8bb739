"""A pool of shadow models: each image was in the training of exactly half of them, and all say what they think of it.

The recipe of LiRA (Carlini et al., "Membership Inference Attacks From First Principles", 2022; public code
https://github.com/tensorflow/privacy/tree/master/research/mi_lira_2021): 256 models on halves of CIFAR-10's 50,000
training images, 100 epochs of SGD (0.1·cos(7πt/16T), warm-up over 1%, momentum 0.9, weight decay 5e-4 on kernels
alone), batch 256, flips and shifts; 18 queries of each image. Differences: ResNet-18 in place of WideResNet-28-2,
shifts over black in place of reflected borders, batch-norm in eval mode when signals are read (their code reads them
in training mode).

    python -m mu_jax.main --config=configs/shadow_sweep.py --config.data.source=npz:FILE --workdir=runs/shadow_sweep

Again with `--config.sweep.models=512` it adds 256 models to those that are there. Several processes share the work:
see README. Other memberships: `--config.sweep.membership=pairs` for complementary halves, or `file` with a
`.npy` bool[K,N].

Published costs and figures, for later comparison:

| who | models | cost | online LiRA: AUC, TPR at 0.1% FPR |
|---|---|---|---|
| Carlini et al., WideResNet-28-2 | 256 | 6 minutes a model, a day in all | 0.720, 8.4% |
| a re-study of 2026, ResNet-18, RTX 4080 | 256 | 7 minutes a model, 29 h | 0.765 ± 0.003, 10.3 ± 0.6% |

Expected time and result of the full sweep: not measured yet; it waits for an accelerator.

Variant `:smoke`: 16 narrow networks (width 16) on digits unless a source is given, 30 epochs, with 20% of all labels
wrong on purpose: a network can only be right about those by having memorised them.

Expected time: 72 s from the command to the report, of which 46 train and 15 compile (2 CPU cores, JAX 0.10.2); the
eight attacks and the report take 8.
Expected result (seed 0, n = 16 models, mean ± standard deviation): accuracy on members 97.9 ± 0.8%, on non-members
66.8 ± 1.2% (about 80% is the best that a model without memory of the labels can do). AUC of the attacks in % (95%
interval over targets and examples): LiRA online 81.5 [80.4, 82.5] with global variance and 78.7 [77.6, 79.8] with one
an example, offline 65.5 and 65.0; RMIA 63.1 [61.7, 64.4] online, 63.1 offline; calibrated loss 62.0; loss 59.4
[58.5, 60.2].
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("shadow_sweep")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.model.width = 64

    config.train.epochs = 100.0
    config.train.batch_size = 256
    config.train.learning_rate = 0.1
    config.train.schedule = "fixmatch"
    config.train.warmup_epochs = 1.0
    config.train.weight_decay = 5e-4
    config.train.decay_norm_and_bias = False
    config.train.crop_padding = 4
    config.train.flip = True

    config.sweep.models = 256
    # As LiRA has it: test images are never members.
    config.sweep.candidates = "train"
    config.query.flip = True
    config.query.shift = 4
    config.query.stride = 4
    # RMIA's vote over 18 queries compares pairs of images: with all 25,000 non-members, most of an hour.
    config.attack.population = 2500

    if variant == "smoke":
        config.data.source = "digits"
        config.data.label_noise = 0.2
        config.model.width = 16
        config.train.epochs = 30.0
        config.train.batch_size = 32
        config.train.schedule = "cosine"
        config.train.warmup_epochs = 0.0
        # Weight decay and augmentation would work against the memorising that attacks feed on.
        config.train.weight_decay = 0.0
        config.train.crop_padding = 0
        config.train.flip = False
        config.sweep.models = 16
        config.sweep.candidates = "train+test"
        config.query.shift = 0
        config.query.stride = 1
        config.attack.population = 0
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
