"""Fine-tuning against retraining on CIFAR-10: the experiment of the NeurIPS-2023 unlearning challenge's starting kit.

ResNet-18 trained with SGD (0.1, momentum 0.9, weight decay 5e-4), random crops and flips; 10% of the training images
are deleted; fine-tuning goes on for 5 epochs on the rest (same SGD, a cosine held within each epoch, no augmentation);
the attack is a logistic regression on the loss, forgotten against unseen test images, over 10 shuffle splits.
https://github.com/unlearning-challenge/starting-kit

    python -m mu_jax.main --config=configs/finetune_vs_retrain.py \
        --config.data.source=npz:FILE --workdir=runs/finetune_vs_retrain

Sources: `npz:FILE`, `cifar:FOLDER` (binary version), or the default `tfds:cifar10`, which needs the extra [tensorflow]
to prepare the data.

Reference (the kit's notebook, which retrained and fine-tuned one model each, on its own ResNet-18 and weights):

| model | accuracy, % | attack accuracy |
|---|---|---|
| original | train 99.5, test 88.3 | 0.58 |
| fine-tuned | retain 98.3, test 84.0 | 0.51 |
| retrained | retain 99.5, forget 88.2 | 0.50 |

Expected time and result of the full experiment: not measured yet; it waits for an accelerator.

Variant `:smoke`: a narrow network (width 16), 9 epochs without augmentation, on digits unless a source is given.
Expected time: 20 s on digits, 1.5 minutes on 2,000 + 1,000 CIFAR-10 images (2 CPU cores, JAX 0.10.2).
Expected result (seed 0; the first 2,000 training and 1,000 test images of a JPEG copy of CIFAR-10, 200 deleted):

| model | retain % | forget % | test % | attack accuracy % | attack AUC % |
|---|---|---|---|---|---|
| original | 98.2 | 98.0 | 42.7 | 84.2 | 88.8 [86.9, 90.7] |
| finetune | 97.7 | 47.0 | 41.2 | 57.5 | 57.4 [53.3, 61.3] |
| retrain | 99.8 | 50.5 | 40.7 | 53.5 | 55.9 [51.7, 60.2] |
| retrain_again | 94.6 | 44.0 | 41.5 | 50.8 | 54.6 [50.4, 58.7] |

Attack AUC over seeds 0, 1, 2 (mean ± standard deviation, n = 3): original 85.0 ± 5.2 (seed 2 reached only 88% on the
forget set), finetune 59.4 ± 3.6, retrain 52.0 ± 3.9, retrain_again 52.0 ± 2.4.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("unlearning_comparison")
    config.data.source = "tfds:cifar10"
    config.data.mean = (0.4914, 0.4822, 0.4465)
    config.data.std = (0.2470, 0.2435, 0.2616)
    config.forget.fraction = 0.1
    config.model.width = 64

    config.train.epochs = 30.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.1
    config.train.weight_decay = 5e-4
    config.train.crop_padding = 4
    config.train.flip = True

    config.finetune.epochs = 5.0
    config.finetune.batch_size = 128
    config.finetune.learning_rate = 0.1
    config.finetune.weight_decay = 5e-4
    config.finetune.schedule_by_epoch = True

    # A checkpoint and a line of progress every 25,600 images: seconds on an accelerator. On a CPU, where width 64
    # trains 20 images a second (2 cores, JAX 0.10.2), choose 10.
    config.loop.chunk_steps = 200

    if variant == "smoke":
        config.data.source = "digits"
        # One value serves gray and colour images alike.
        config.data.mean = (0.5,)
        config.data.std = (0.25,)
        config.model.width = 16
        config.train.epochs = 9.0
        config.train.batch_size = 64
        config.train.learning_rate = 0.05
        # Without augmentation, so that a short training memorises.
        config.train.crop_padding = 0
        config.train.flip = False
        config.finetune.batch_size = 64
        config.finetune.learning_rate = 0.05
        config.loop.chunk_steps = 50
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
