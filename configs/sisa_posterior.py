"""A SISA ensemble beside one model: accuracy paid, retraining saved, and what posteriors give away of the deleted.

Bourtoule et al., "Machine Unlearning", 2021 (SISA); Salem et al., "ML-Leaks", 2019 (the attack on posteriors). A base
model and an ensemble of 10 shards × 20 slices learn 60% of the training images; the other 40% are the adversary's, half
of them train shadow models. A tenth of the learned images is deleted at random, and everything is attacked again.

    python -m mu_jax.main --config=configs/sisa_posterior.py --config.data.source=npz:FILE --workdir=runs/sisa_posterior

Others: `--config.sisa.shards=20 --config.sisa.slices=5`, `--config.sisa.aggregation=majority_vote`,
`--config.adversary.other_source=` (without adversary 2, whose shadow model learns scikit-learn's digits here).

Reference figures, for CIFAR-10 and ResNet-18 (base, and SISA with 10 shards × 20 slices, 10% deleted): base test
accuracy 89%, attack accuracy 85% and advantage 0.17, two figures that do not fit one another under any balanced
definition (hence accuracy, balanced accuracy and advantage side by side); SISA constituents 82% on their training
images and 68% on test images, attack accuracy 52.6%, advantage 0.05.

Expected time and result of the full experiment: not measured yet; it waits for an accelerator.

Variant `:small`: 4,000 training and 1,000 test images, width 16, without augmentation: CIFAR-10 on two cores.

Expected time: 23 minutes while other programs used half of 2 CPU cores (JAX 0.12); undisturbed it was not measured.
Expected result (seed 0, a JPEG copy of CIFAR-10, n = 1): test accuracy 39.1% for one model and 28.3% for the ensemble,
whose shards are 43.5% right about their own 240 images and 17.7% about test images; attack on the deleted (adversary 1:
accuracy, balanced accuracy, advantage) 61.2%, 73.1%, 0.46 for one model, 80.6%, 50.0%, 0.00 for the ensemble, which
calls nobody a member; after the deletion every figure of the ensemble is that of the one fitted without these images.

Variant `:smoke`: digits with 20% of all labels wrong on purpose, 5 shards × 4 slices, a narrow network (width 16).

Expected time: 57 s from the command to the report (2 CPU cores, JAX 0.10.2).
Expected result (seed 0, n = 1): test accuracy 65.2% [60.9, 69.2] for one model and 74.8% for the ensemble, which learns
fewer of the wrong labels; attack on retained images (adversary 1, AUC) 61.1% for one model, 52.4% for the ensemble; the
78 deletions strike every shard (speed-up 1.00; 6.7 expected for one alone).
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("sisa_posterior")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.5,)
    config.data.std = (0.5,)
    config.data.validation_fraction = 0.4
    config.forget.fraction = 0.1
    config.model.width = 64

    config.train.epochs = 30.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    # A slice goes on where the one before it ended: a constant rate suits the last slice as well as the first.
    config.train.schedule = "constant"
    config.train.crop_padding = 4
    config.train.flip = True
    config.sisa.shards = 10
    config.sisa.slices = 20
    config.adversary.other_source = "digits"

    if variant == "smoke":
        config.data.source = "digits"
        config.data.label_noise = 0.2
        config.model.width = 16
        config.train.epochs = 30.0
        config.train.batch_size = 16
        config.train.learning_rate = 0.02
        config.train.weight_decay = 0.0
        config.train.crop_padding = 0
        config.train.flip = False
        config.sisa.shards = 5
        config.sisa.slices = 4
        config.compare_shards = (2, 10)
        config.adversary.other_source = ""
        config.cost_requests = (1, 2, 5, 20)
    elif variant == "small":
        config.data.train_examples = 4000
        config.data.test_examples = 1000
        config.model.width = 16
        config.train.epochs = 15.0
        config.train.batch_size = 64
        config.train.learning_rate = 0.05
        # Augmentation works against the memorising that attacks feed on, and so few images are soon learned by heart.
        config.train.crop_padding = 0
        config.train.flip = False
    elif variant:
        unknown_variant(variant, ("smoke", "small"))
    return config
