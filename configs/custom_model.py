"""Your own flax network, with your own settings: trained, forgotten from, retrained, attacked.

Copy this file, put your network in, and point `config.data.source` at your data (README, "Data"). The contract:

- a `flax.linen` class, or a function that gives such a module, called with `num_classes=C`; if it has names for them,
  also with `width`, `image_shape` (H,W,D), `lowering` (how convolutions are computed; for the layers of
  `mu_jax.models.layers`) and `dtype` (what to compute in);
- called as `module(images[B,H,W,D], train=...)`, it gives logits float32[B,C];
- its variables are `params`, in float32, and with batch-norm `batch_stats`; no dropout: a step gives no random numbers;
- ending in `nn.Dense(C)`, it works with every method; those that read or widen the head need that.

`nn.Conv` is computed by the fastest lowering that is known here, as the built-in networks' convolutions are.

    python -m mu_jax.main --config=configs/custom_model.py --workdir=runs/own

All other commands take the network by two flags; what a run's folder names is code, and is not run unless you name it:

    python -m mu_jax.main --config=configs/shadow_sweep.py:smoke --config.model.name=own \
        --config.model.module=configs/custom_model.py:SmallNet --workdir=runs/own_pool
    python -m mu_jax.main --config=configs/unlearn.py:digits --config.checkpoint=runs/own --config.model.name=own \
        --config.model.module=configs/custom_model.py:SmallNet --config.method=finetune --workdir=runs/own_forgotten
    load_model("runs/own", "finetune", module="configs/custom_model.py:SmallNet")  # in Python

A checkpoint is signed by the code of its network (comments and layout do not count): with another network it is
refused.

Variant `:smoke`: a tenth of the training, to see that everything runs; its figures mean nothing.

Expected time: 30 s on 2 CPU cores, of which 10 s train; less for `:smoke`.
Expected result (seed 0; JAX 0.10.2 on 2 CPU cores; attack AUC with its 95% interval over images):

| model | retain % | forget % | test % | attack accuracy % | attack AUC % |
|---|---|---|---|---|---|
| original | 98.7 | 98.0 | 69.6 | 64.0 | 71.3 [67.6, 74.7] |
| finetune | 98.3 | 92.5 | 67.4 | 60.7 | 65.3 [61.6, 69.5] |
| retrain | 98.7 | 65.5 | 67.4 | 50.0 | 48.8 [44.2, 52.9] |
| retrain_again | 96.5 | 66.0 | 71.2 | 54.0 | 46.9 [42.3, 51.4] |
"""

import flax.linen as nn

from mu_jax.config import default_config, unknown_variant


class SmallNet(nn.Module):
    """Two convolutions with batch-norm, a pool, a hidden layer, a head; [B,H,W,D] → float32 [B,C]."""

    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images, *, train):
        x = images
        for channels in (self.width, 2 * self.width):
            x = nn.Conv(channels, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1)))
        return nn.Dense(self.num_classes)(x)


def get_config(variant: str = ""):
    config = default_config("unlearning_comparison")
    config.data.source = "digits"
    config.data.train_examples = 800
    config.data.label_noise = 0.2
    config.forget.fraction = 0.25

    config.model.name = "own"
    config.model.module = f"{__file__}:SmallNet"
    config.model.width = 16

    config.train.epochs = 40.0
    config.train.batch_size = 32
    config.train.learning_rate = 0.05
    # Weight decay would work against the memorising that this example is about.
    config.train.weight_decay = 0.0

    config.finetune.epochs = 5.0
    config.finetune.batch_size = 32
    config.finetune.learning_rate = 0.05
    config.finetune.weight_decay = 0.0

    if variant == "smoke":
        config.train.epochs = 4.0
        config.finetune.epochs = 1.0
    elif variant:
        unknown_variant(variant, ("smoke",))
    return config
