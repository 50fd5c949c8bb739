"""Transfer learning: a pretrained network is fine-tuned on your data, and then asked to forget some of it.

The pretrained weights never saw what must go. So the gold standard, fine-tuning them again without it, is exact as ever
and cheap as never: a method that is slower than `retrain` here has nothing to offer.

    python -m mu_jax.main --config=configs/transfer.py --config.pretrained.checkpoint=resnet18.pt \
        --config.data.source=folder:my_images --config.data.image_size=32 --workdir=runs/transfer

`pretrained.checkpoint` is the folder of a finished run (its architecture and normalisation are taken over) or a file of
PyTorch's weights of a ResNet-18, VGG or ViT (then `--config.model` says which, and `--config.data.mean` and `.std` how
its images were normalised: see configs/import_checkpoint.py). Its head is replaced by a fresh one for the classes of
`data`. Without a checkpoint the network is pretrained here first, on `pretrained.data`: by default CIFAR-100, before
CIFAR-10.

Other methods: `--config.names=finetune,scrub`; those that need an adversarial set (AMUN) forget from this run's folder
by configs/unlearn.py. Your own network: `--config.model.name=own --config.model.module=FILE.py:NAME`.

Variant `:smoke`: pretraining on the digits 0 to 4, fine-tuning on 5 to 9, ResNet-18 of width 16; 20% of the labels that
it is fine-tuned on are wrong, as in configs/quickstart.py, so that there is something to remember.

Expected time of the full experiment: not measured yet; it waits for an accelerator. Of `:smoke`: 80 s of processor time
on 2 CPU cores (2 minutes while other programs used them), of which 25 s train.
Expected result (`:smoke`, seed 0; JAX 0.10.2 on 2 CPU cores; attack AUC with its 95% interval over images):

| model | retain % | forget % | test % | attack accuracy % | attack AUC % | gap pp | seconds |
|---|---|---|---|---|---|---|---|
| original | 99.4 | 98.4 | 68.7 | 73.5 | 72.5 [67.3, 77.4] | 14.9 | 8.6 |
| finetune | 93.2 | 76.7 | 70.3 | 59.2 | 54.6 [48.6, 60.6] | 6.7 | 0.6 |
| gradient_ascent | 96.3 | 92.2 | 61.4 | 70.8 | 68.2 [62.4, 73.3] | 13.8 | 0.2 |
| random_labels | 99.6 | 47.3 | 61.8 | 45.4 | 36.9 [31.6, 42.5] | 8.8 | 1.5 |
| retrain | 98.8 | 65.1 | 67.1 | 46.9 | 48.3 [42.5, 54.5] | 0.0 | 5.6 |
| retrain_again | 99.0 | 73.6 | 69.1 | 57.7 | 50.5 [44.7, 56.6] | 3.2 | 5.5 |

One run each; 129 digits are forgotten, so that a point is a little more than an image. Random labels overdo it: an AUC
far below 50% betrays the forgotten images as surely as one above.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("transfer_unlearning")
    config.pretrained.data.source = "tfds:cifar100"
    config.data.source = "tfds:cifar10"
    for data in (config.pretrained.data, config.data):
        data.mean = (0.4914, 0.4822, 0.4465)
        data.std = (0.2470, 0.2435, 0.2616)
    config.pretrained.train.epochs = 30.0
    config.pretrained.train.batch_size = 128
    config.pretrained.train.crop_padding = 4
    config.pretrained.train.flip = True

    config.train.epochs = 10.0
    config.train.batch_size = 128
    config.train.learning_rate = 0.01
    config.train.crop_padding = 4
    config.train.flip = True
    config.loop.chunk_steps = 200

    if variant == "smoke":
        config.pretrained.data.source = config.data.source = "digits"
        for data in (config.pretrained.data, config.data):
            data.mean = (0.5,)
            data.std = (0.25,)
        config.pretrained.data.classes = (0, 1, 2, 3, 4)
        config.data.classes = (5, 6, 7, 8, 9)
        config.data.label_noise = 0.2
        config.forget.fraction = 0.2
        config.model.width = 16
        config.names = ("finetune", "gradient_ascent", "random_labels")
        for optimization in (config.pretrained.train, config.train):
            optimization.batch_size = 32
            optimization.crop_padding = 0
            optimization.flip = False
            optimization.weight_decay = 0.0
        config.pretrained.train.epochs = 15.0
        config.train.epochs = 40.0
        config.train.learning_rate = 0.05
        for name in config.names:
            method = config.methods[name]
            optimization = method if "epochs" in method else method.optimization
            optimization.batch_size = 32
            optimization.crop_padding = 0
            optimization.flip = False
        config.methods.finetune.epochs = 5.0
        config.methods.finetune.learning_rate = 0.05
        config.methods.gradient_ascent.optimization.learning_rate = 5e-3
        config.loop.chunk_steps = 50
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
