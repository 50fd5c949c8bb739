"""One unlearning method on one saved model: of a finished run, or of a PyTorch file; attacked before and after.

    python -m mu_jax.main --config=configs/unlearn.py --config.method=amun --config.checkpoint=DIR \
        --config.forget.indices=FILE.npy --workdir=OUT

`DIR` is the folder of a finished run, whose data, model and augmentation are taken over; `--config.checkpoint_model`
names another of its models than `original`, and what that one was to forget stays forgotten. A run of class unlearning
keeps its originals alone, `original_0`, `original_1` and so on; `original` is the first that did not diverge. Or it is
a file of a state_dict (.safetensors, .pth or .pt) of a ResNet-18, VGG or ViT; then `--config.data` and `--config.model`
say what it was trained on and how wide it is. Methods are those of `mu_jax/unlearning/methods.py`, with their published
settings for CIFAR-10. Nothing is retrained, so no gap is reported: `configs/amun.py` compares with retraining, and
`configs/class_unlearning.py` does where whole classes are forgotten.

`--config.forget.classes=3`, in place of indices, deletes all training examples of a class. `trw`, `rwft`, `trw_head`
and `linear_filtration` forget whole classes alone; all others take both. `trw_head`, `linear_filtration` and
`svd_projection` do not train: their time is that of all their work, compilation included.

Variants: `:digits` (small batches, and the learning rate that the quickstart trains with, so that AMUN moves 8×8 images
at all) and `:smoke` (a tenth of the training, and a shorter search). An example, from training to a second deletion:

    python -m mu_jax.main --config=configs/quickstart.py --workdir=runs/quickstart
    python -c "import numpy as np; np.save('first.npy', np.arange(50)); np.save('second.npy', np.arange(50, 100))"
    python -m mu_jax.main --config=configs/unlearn.py:digits --config.checkpoint=runs/quickstart \
        --config.forget.indices=first.npy --workdir=runs/first
    python -m mu_jax.main --config=configs/unlearn.py:digits --config.checkpoint=runs/first \
        --config.checkpoint_model=amun --config.forget.indices=second.npy --workdir=runs/second

Expected time: a deletion of the example takes 40 s of processor time on 2 CPU cores where programs must be compiled,
and 17 s with JAX's compilation cache; the method itself trains for 4 s.
Expected result (the example; seed 0; JAX 0.10.2 on 2 CPU cores; attack AUC with its 95% interval over images):

| folder | model | retain % | forget % | test % | attack accuracy % | attack AUC % |
|---|---|---|---|---|---|---|
| first | original | 99.9 | 100.0 | 64.8 | 80.0 | 75.9 [70.9, 80.7] |
| first | amun | 94.8 | 90.0 | 68.8 | 69.0 | 55.2 [49.3, 60.8] |
| second | original (first's amun) | 94.6 | 98.0 | 68.8 | 75.0 | 66.6 [61.2, 72.2] |
| second | amun | 98.1 | 90.0 | 66.2 | 72.0 | 57.2 [51.5, 62.9] |

With the published settings (without `:digits`) AMUN takes 67 steps of falling size there, and changes next to nothing.

A whole class (`:digits`, other settings as published; the small CNN on digits):

    python -m mu_jax.main --config=configs/class_unlearning.py:smoke --workdir=runs/classes
    python -m mu_jax.main --config=configs/unlearn.py:digits --config.checkpoint=runs/classes \
        --config.method=trw --config.forget.classes=8 --workdir=runs/without_8

| model | retain % | forget % | test of the classes that stay % | test of class 8 % | attack AUC % |
|---|---|---|---|---|---|
| original | 100.0 | 100.0 | 99.6 | 97.9 | 54.9 [45.3, 64.8] |
| finetune | 100.0 | 100.0 | 99.6 | 93.8 | 55.0 [45.3, 64.8] |
| delete | 100.0 | 6.3 | 99.3 | 4.2 | 45.0 [34.8, 55.1] |
| boundary_expanding | 100.0 | 100.0 | 99.6 | 93.8 | 54.5 [44.9, 64.5] |
| svd_projection | 100.0 | 33.3 | 99.1 | 25.0 | 55.2 [45.6, 64.5] |
| scar | 99.9 | 0.8 | 99.6 | 4.2 | 45.4 [35.1, 56.1] |
| linear_filtration | 100.0 | 0.0 | 99.6 | 0.0 | 47.9 [38.9, 58.0] |
| trw | 100.0 | 0.0 | 99.6 | 0.0 | 41.1 [31.6, 51.2] |
| rwft | 100.0 | 0.0 | 99.6 | 0.0 | 44.2 [34.7, 53.6] |
| trw_head | 100.0 | 0.0 | 98.9 | 0.0 | 44.2 [35.1, 54.6] |

With the published settings of other data `boundary_expanding` (learning rate 1e-5) changes next to nothing here. 126
images are forgotten, and the AUC compares them with 48 of that class in the test set.
"""

from mu_jax.config import default_config, unknown_variant


def get_config(variant: str = ""):
    config = default_config("unlearn_saved")
    if variant == "digits":
        _digits(config)
    elif variant == "smoke":
        _smoke(config)
    elif variant:
        unknown_variant(variant, ("digits", "smoke"))
    return config


def _digits(config):
    """Some hundred small images: steps enough in as many epochs."""
    for optimization in _optimizations(config):
        optimization.batch_size = 32
    for name in ("amun", "amun_salun"):
        config.methods[name].optimization.learning_rate = 0.1
        config.methods[name].optimization.step_epochs = 5.0


def _smoke(config):
    """Figures that mean nothing."""
    for optimization in _optimizations(config):
        optimization.epochs /= 10
    config.methods.scrub.ascent_epochs = 1
    config.neighbours.steps = 10


def _optimizations(config):
    """Of each method that has one."""
    groups = (config.methods[name] for name in config.methods)
    found = (group if "epochs" in group else group.get("optimization") for group in groups)
    return [optimization for optimization in found if optimization is not None]
